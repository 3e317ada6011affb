"""Strategies outside of the package that plan rounds, and use all that owners give: each beside the same in numpy."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import keras
import numpy as np
import pytest

from federated import (
    DPSGD,
    Asked,
    CentralGaussian,
    FedAvg,
    Federation,
    PlainMean,
    SecureAggregation,
    SettingError,
    Strategy,
    Trained,
    simulated_owners,
)

RNG = np.random.default_rng(5)
PARTS = [(x, x @ np.array([1.0, -2.0, 0.5]) + shift) for shift, x in zip((0, 1, 2, 3), RNG.normal(size=(4, 8, 3)), strict=True)]
START = [np.zeros(3, np.float32), np.zeros((), np.float32)]
RATE, STEPS = 0.1, 3


def gradient(part, w, b):
    x, y = part
    error = x @ w + b - y
    return [x.T @ error / len(y), np.float64(error.mean())]


class Controlled:
    """SCAFFOLD's local steps (Karimireddy et al., 2020, Algorithm 1, option II)."""

    def __init__(self, data):
        self.part = data

    def train(self, weights, config, state):
        control = config["control"]
        own = state.get("control", [np.zeros(one.shape) for one in weights])
        y = [one.astype(np.float64) for one in weights]
        for _ in range(STEPS):
            y = [a - RATE * (g + c - o) for a, g, c, o in zip(y, gradient(self.part, *y), control, own, strict=True)]
        new = [o - c + (x - a) / (STEPS * RATE) for o, c, x, a in zip(own, control, weights, y, strict=True)]
        state["control"] = new
        added = [n - o for n, o in zip(new, own, strict=True)]
        return Trained([a - x for a, x in zip(y, weights, strict=True)], examples=len(self.part[1]), extra={"control": added})


@dataclass(frozen=True, kw_only=True)
class Scaffold(Strategy):
    alike: ClassVar[bool] = True

    def initial(self, weights):
        return {"control": [np.zeros(one.shape) for one in weights]}

    def arrays(self, round, state):
        return {"control": state["control"]}

    def extra(self, weights):
        return {"control": weights}

    def step(self, round, weights, updates, state):
        share = updates.examples / updates.owners
        control = [c + share * d for c, d in zip(state["control"], updates.extra["control"], strict=True)]
        return [(x + d).astype(x.dtype) for x, d in zip(weights, updates.mean, strict=True)], {"control": control}


def scaffold(rounds):
    """The same in numpy, over all owners in each round."""
    x, c, own = [np.zeros(3), 0.0], [np.zeros(3), 0.0], [[np.zeros(3), 0.0] for _ in PARTS]
    for _ in range(rounds):
        deltas, added = [], []
        for i, part in enumerate(PARTS):
            y = list(x)
            for _ in range(STEPS):
                y = [a - RATE * (g + c_ - o) for a, g, c_, o in zip(y, gradient(part, *y), c, own[i], strict=True)]
            new = [o - c_ + (a - b) / (STEPS * RATE) for o, c_, a, b in zip(own[i], c, x, y, strict=True)]
            deltas.append([b - a for a, b in zip(x, y, strict=True)])
            added.append([n - o for n, o in zip(new, own[i], strict=True)])
            own[i] = new
        x = [a + sum(d[k] for d in deltas) / len(PARTS) for k, a in enumerate(x)]
        c = [a + sum(d[k] for d in added) / len(PARTS) for k, a in enumerate(c)]
    return x


def federation(strategy, trainer=Controlled, **settings):
    return Federation(
        **{"model": START, "owners": simulated_owners(PARTS, trainer=trainer), "strategy": strategy, "progress": False} | settings
    )


def reasons_of(outcome):
    return [*outcome.dropped.values(), *outcome.rejected.values()]


def build():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


async def played(rounds, strategy, **settings):
    async with federation(strategy, **settings) as run:
        outcomes = [outcome async for outcome in run.rounds(rounds)]
        assert [outcome.failure for outcome in outcomes] == [None] * rounds
        return run.weights


@pytest.mark.parametrize("aggregation", [PlainMean(), SecureAggregation()], ids=lambda one: type(one).__name__)
async def test_control_variates_pass_the_same_sums_as_updates(aggregation):
    found, expected = await played(4, Scaffold(), aggregation=aggregation), scaffold(4)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert any(np.abs(one - other).max() > 1e-2 for one, other in zip(await played(4, FedAvgLike()), expected, strict=True))


@dataclass(frozen=True, kw_only=True)
class FedAvgLike(Scaffold):
    """Without control variates: another end, or the test above shows nothing."""

    def step(self, round, weights, updates, state):
        return super().step(round, weights, updates, state)[0], state


async def test_state_of_strategy_and_owners_goes_on_in_a_resumed_run(tmp_path):
    owners = lambda: simulated_owners(PARTS, trainer=Controlled, memory=tmp_path / "memory")  # noqa: E731
    await played(2, Scaffold(), owners=owners(), folder=tmp_path / "run")
    async with federation(Scaffold(), owners=owners(), folder=tmp_path / "run", resume=True) as run:
        assert len([outcome async for outcome in run.rounds(4)]) == 2
        for one, other in zip(run.weights, scaffold(4), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


async def test_extra_is_clipped_and_noised_with_the_update():
    class Shouting(Controlled):
        def train(self, weights, config, state):
            given = super().train(weights, config, state)
            return Trained(given.delta, examples=given.examples, extra={"control": [1e3 + one for one in given.extra["control"]]})

    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Watching(Scaffold):
        def step(self, round, weights, updates, state):
            seen.append((updates.mean, updates.extra["control"]))
            return super().step(round, weights, updates, state)

    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1e-3, max_epsilon=1e12, delta=1e-5)
    await played(1, Watching(fraction=1.0), trainer=Shouting, privacy=privacy)
    mean, control = seen[0]
    norm = np.sqrt(sum(np.sum(one**2) for one in [*mean, *control]))
    assert norm == pytest.approx(1.0, abs=0.01)  # of the whole, of which nearly all is the control
    assert 0.4 < control[1] < 0.6


# Plans.


class Told:
    """Gives what it is told: a number, and the first of the arrays."""

    def __init__(self, data):
        self.part = data

    def train(self, weights, config, state):
        value = config["value"] + config["arrays"][0]
        return Trained([np.full(3, value), np.float64(value)], examples=len(self.part[1]), metrics={"value": float(value)})


@dataclass(frozen=True, kw_only=True)
class Planned(Strategy):
    single_updates: ClassVar[bool] = True
    asked: Mapping[str, float] = None
    keep: list = None

    def config(self, round):
        return {"value": 0.0}

    def arrays(self, round, state):
        return {"arrays": [np.float64(100.0)]}

    def plan(self, round, present, state):
        assert list(present) == [f"owner-{i}" for i in range(4)]
        return {name: Asked({"value": value}, {"arrays": [np.float64(round)]} if value > 1 else {}) for name, value in self.asked.items()}

    def step(self, round, weights, updates, state):
        self.keep.append(updates)
        return weights, state


async def test_a_plan_asks_each_owner_something_else_and_sees_what_each_gave():
    keep = []
    await played(1, Planned(asked={"owner-3": 1.0, "owner-1": 5.0}, keep=keep), trainer=Told)
    (updates,) = keep
    assert [(one.owner, one.examples, one.metrics) for one in updates.single] == [
        ("owner-1", 8, {"value": 6.0}),
        ("owner-3", 8, {"value": 101.0}),
    ]
    assert [one.delta[1] for one in updates.single] == [6.0, 101.0]
    assert updates.mean[1] == pytest.approx(53.5)
    assert (updates.owners, updates.examples, updates.metrics) == (4, 16, {"value": 53.5})


@pytest.mark.parametrize(
    ("asked", "message"),
    [({}, "Strange.plan has to give"), ({"owner-7": 1.0}, "of those that are present"), (None, "Strange.plan has to give")],
)
async def test_a_plan_of_nobody_or_of_strangers_is_refused(asked, message):
    class Strange(Planned):
        def plan(self, round, present, state):
            return 7 if asked is None else super().plan(round, present, state)

    with pytest.raises(SettingError, match=message):
        await played(1, Strange(asked=asked or {}, keep=[]), trainer=Told)


@dataclass(frozen=True, kw_only=True)
class Chosen(FedAvg):
    """Two by name; with what each is told."""

    told: Sequence[float] = (1.0, 1.0)

    def arrays(self, round, state):
        return {"arrays": [np.float64(0.0)]}

    def plan(self, round, present, state):
        return {name: Asked({"value": value}) for name, value in zip(("owner-0", "owner-2", "owner-3"), self.told, strict=True)}


async def test_hidden_sums_need_all_owners_to_be_asked_the_same():
    run = {"trainer": Told, "aggregation": SecureAggregation()}
    assert (await played(1, Chosen(told=(2.0, 2.0, 2.0)), **run))[1] == pytest.approx(2.0, abs=1e-5)
    with pytest.raises(SettingError, match="asks owners different things, and SecureAggregation"):
        await played(1, Chosen(told=(2.0, 2.0, 3.0)), **run)


@pytest.mark.parametrize("privacy", [CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=4.0, delta=1e-5)])
def test_privacy_chooses_owners_by_itself(privacy):
    with pytest.raises(SettingError, match=r"Chosen.plan chooses them: leave plan out"):
        federation(Chosen(), privacy=privacy)


# What cannot be.


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({}, "extra is not what the strategy asks for, which is control"),
        ({"control": [np.zeros(3)]}, "control of a trainer's extra has 1 of 2 arrays"),
        ({"control": [np.zeros(4), np.zeros(())]}, r"array 0 of control of a trainer's extra is float64 \(4,\)"),
        ({"control": [np.full(3, np.nan), np.zeros(())]}, "array 0 of control of a trainer's extra is not finite"),
        ({"control": [np.zeros(3), np.zeros(())], "more": []}, "extra is not what the strategy asks for"),
    ],
)
async def test_what_is_not_what_was_asked_for_is_held_back(extra, message):
    class Wrong(Controlled):
        def train(self, weights, config, state):
            return Trained(super().train(weights, config, state).delta, examples=8, extra=extra)

    async with federation(Scaffold(), trainer=Wrong) as run:
        (outcome,) = [one async for one in run.rounds(1)]
    assert outcome.failure
    reasons = reasons_of(outcome)
    assert len(reasons) >= 3  # then too few are left
    assert all(re.search(message, reason) for reason in reasons)


@pytest.mark.parametrize(
    "given", [{"seed": [np.zeros(2)]}, {"a": [np.array(["x"])]}, {"a": np.zeros(2)}, {3: []}, {"a": [np.array(np.inf)]}]
)
@pytest.mark.parametrize("what", ["arrays", "extra"])
async def test_arrays_of_a_strategy_that_cannot_travel(what, given):
    strange = type("Strange", (FedAvg,), {what: lambda *_: given})
    with pytest.raises(SettingError, match=rf"Strange.{what} gives"):
        await played(1, strange())


async def test_keras_refuses_arrays_that_nothing_would_follow():
    async with federation(Scaffold(), model=build, owners=simulated_owners(PARTS)) as run:
        (outcome,) = [one async for one in run.rounds(1)]
    assert {"to a trainer of this owner's own" in reason for reason in reasons_of(outcome)} == {True}


def test_dp_sgd_of_examples_says_nothing_of_what_is_beside():
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.1)
    with pytest.raises(SettingError, match=r"by Scaffold\.extra would have no noise"):
        federation(Scaffold(), model=build, owners=simulated_owners(PARTS), privacy=privacy)

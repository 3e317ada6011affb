"""Owners with trainers of their own: what they are given, what becomes of what they give, and what is refused by name."""

import asyncio
import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from actors import ActorSystem, RemoteError
from federated import (
    DPSGD,
    CentralGaussian,
    DataOwner,
    DistributedGaussian,
    FedAvg,
    Federation,
    FedProx,
    FedSGD,
    LocalGaussian,
    ModelRefused,
    Policy,
    SecureAggregation,
    SettingError,
    Task,
    Trained,
    UpdateHeldBack,
    simulated_owners,
)
from federated.tasks.update import LocalTraining

RNG = np.random.default_rng(3)
TRUE = np.array([1.0, -2.0, 0.5])
PARTS = [(x, x @ TRUE + 1.0) for x in (RNG.normal(size=(n, 3)) for n in (5, 9, 6, 12))]
START = [np.zeros(3, np.float32), np.zeros((), np.float32)]
RATE = 0.1


class Linear:
    """Least squares by gradient descent, in numpy; one step an epoch, on all examples."""

    def __init__(self, data, evaluation=None):
        self.x, self.y = data
        self.test = evaluation

    def train(self, weights, config, state):
        w, b = (array.astype(np.float64) for array in weights)
        for _ in range(config["epochs"]):
            error = self.x @ w + b - self.y
            w, b = w - RATE * self.x.T @ error / len(error), b - RATE * error.mean()
        state["rounds"] = state.get("rounds", 0) + 1
        loss = np.mean((self.x @ w + b - self.y) ** 2)
        return Trained([w - weights[0], b - weights[1]], examples=len(self.y), metrics={"seen": state["rounds"], "loss": loss})


class Evaluating(Linear):
    def evaluate(self, weights, config, state):
        x, y = self.test
        return {"error": np.abs(x @ weights[0] + weights[1] - y).max()}, len(y)


def reference(rounds, epochs=1):
    """The same in numpy: federated averaging."""
    w, b, total = np.zeros(3), 0.0, sum(len(y) for _, y in PARTS)
    for _ in range(rounds):
        new = []
        for x, y in PARTS:
            v, c = w, b
            for _ in range(epochs):
                error = x @ v + c - y
                v, c = v - RATE * x.T @ error / len(y), c - RATE * error.mean()
            new.append((v, c, len(y) / total))
        w, b = sum(n * v for v, _, n in new), sum(n * c for _, c, n in new)
    return w, b


def federation(trainer=Linear, owners=None, **settings):
    owners = simulated_owners(PARTS, trainer=trainer) if owners is None else owners
    return Federation(**{"model": START, "owners": owners, "progress": False} | settings)


async def played(rounds=3, **settings):
    async with federation(**settings) as one:
        outcomes = [outcome async for outcome in one.rounds(rounds)]
        return one.weights, outcomes


@pytest.mark.parametrize("aggregation", [None, SecureAggregation(clip=4.0)], ids=["plain", "secure"])
async def test_the_weights_are_those_of_the_reference(aggregation):
    weights, outcomes = await played(aggregation=aggregation, strategy=FedAvg(local_epochs=2))
    w, b = reference(3, epochs=2)
    np.testing.assert_allclose(weights[0], w, atol=1e-5)
    np.testing.assert_allclose(weights[1], b, atol=1e-5)
    assert [outcome.failure for outcome in outcomes] == [None] * 3
    assert outcomes[2].metrics["seen"] == pytest.approx(3.0, abs=1e-3)  # what it remembers
    assert list(outcomes[0].metrics) == ["loss", "seen"]


async def test_owners_that_evaluate():
    owners = simulated_owners(PARTS, trainer=Evaluating, evaluation=PARTS[::-1])
    weights, outcomes = await played(owners=owners, rounds=2)
    errors = [(np.abs(x @ weights[0] + weights[1] - y).max(), len(y)) for x, y in PARTS]
    expected = sum(error * n for error, n in errors) / sum(n for _, n in errors)
    assert outcomes[1].metrics["val_error"] == pytest.approx(expected, rel=1e-5)


@dataclass(frozen=True, kw_only=True)
class Told(FedAvg):
    """Says something to trainers."""

    beside: float = 0.5

    def config(self, round):
        return {"extra": self.beside * round, "name": "told"}


async def test_what_a_trainer_is_told():
    seen = []

    class Listening(Linear):
        def train(self, weights, config, state):
            seen.append(dict(config))
            weights[0][:] = 7.0  # its own to change
            return Trained([np.ones(3), 0.0], examples=1)

    weights, _ = await played(rounds=2, trainer=Listening, strategy=Told(batch_size=4), seed=9)
    assert np.array_equal(weights[0], [2.0, 2.0, 2.0])
    assert [one["round"] for one in seen] == [1] * 4 + [2] * 4
    assert {(one["extra"], one["round"]) for one in seen} == {(0.5, 1), (1.0, 2)}
    assert {(one["name"], one["epochs"], one["batch_size"], one["learning_rate"]) for one in seen} == {("told", 1, 4, None)}
    assert len({one["seed"] for one in seen}) == 8  # another one for each owner and round
    again = list(seen)
    seen.clear()
    await played(rounds=2, trainer=Listening, strategy=Told(batch_size=4), seed=9)
    assert seen == again


@pytest.mark.parametrize("said", [{"epochs": 3}, {"x": [1]}, {"x": np.zeros(2)}, {3: 4}], ids=str)
async def test_a_strategy_that_says_what_it_cannot(said):
    class Odd(FedAvg):
        def config(self, round):
            return said

    with pytest.raises(SettingError, match=r"Odd\.config says"):
        await played(strategy=Odd())


# What a round remembers, and what a resumed run is.


async def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    def owners(name):
        return simulated_owners(PARTS, trainer=Drifting, memory=tmp_path / name)

    whole, _ = await played(rounds=4, owners=owners("a"), folder=tmp_path / "whole")
    async with federation(owners=owners("b"), folder=tmp_path / "cut") as first:
        _ = [outcome async for outcome in first.rounds(1)]
        written = (tmp_path / "cut" / "run.npz").read_bytes()
        _ = [outcome async for outcome in first.rounds(1)]
    (tmp_path / "cut" / "run.npz").write_bytes(written)  # killed before it had written the second round down, which owners have trained
    again, outcomes = await played(rounds=4, owners=owners("b"), folder=tmp_path / "cut", resume=True)
    assert len(outcomes) == 3
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))


class Drifting(Linear):
    """Momentum of its own, that goes on from round to round, in arrays."""

    def train(self, weights, config, state):
        gradient = self.x.T @ (self.x @ weights[0] + weights[1] - self.y) / len(self.y)
        v = state.setdefault("v", np.zeros(3))
        state["v"] = 0.9 * v + gradient
        state["odd"] = [{"count": np.int64(config["round"]), "none": None, "text": "a", "yes": True}]
        return Trained([-RATE * state["v"], np.float32(0.0)], examples=1)


async def test_another_run_begins_with_nothing(tmp_path):
    for _ in range(2):
        _, outcomes = await played(rounds=1, owners=simulated_owners(PARTS, trainer=Linear, memory=tmp_path))
        assert outcomes[0].metrics["seen"] == 1.0


async def test_a_trainer_that_fails_costs_its_owner_the_round_and_its_state_stays():
    class Failing(Linear):
        def train(self, weights, config, state):
            trained = super().train(weights, config, state)
            if len(self.y) == 9 and config["round"] == 2:
                raise RuntimeError(f"record {self.y[0]}")
            return trained

    _, outcomes = await played(trainer=Failing, quorum=0.5)
    assert list(outcomes[1].dropped) == ["owner-1"]
    assert "RuntimeError" in outcomes[1].dropped["owner-1"]
    assert str(PARTS[1][1][0]) not in outcomes[1].dropped["owner-1"]
    n = np.array([len(y) for _, y in PARTS])
    assert outcomes[2].metrics["seen"] == pytest.approx((n * [3, 2, 3, 3]).sum() / n.sum())


# What comes back is looked at.

GOOD = [np.ones(3), np.float32(1.0)]
BAD = {
    "no Trained": (lambda: GOOD, "gave a list: a federated.Trained is expected"),
    "too few": (lambda: Trained(GOOD[:1], 1), "has 1 of 2 arrays"),
    "no list": (lambda: Trained(iter(GOOD), 1), "has a list_iterator, not a list of 2 arrays"),
    "another shape": (lambda: Trained([np.ones(4), 0.0], 1), r"array 0 .* float64 \(4,\); float32 \(3,\) expected"),
    "texts": (lambda: Trained([np.array(["a", "b", "c"]), 0.0], 1), "array 0"),
    "complex": (lambda: Trained([np.ones(3) * 1j, 0.0], 1), "array 0"),
    "NaN": (lambda: Trained([np.array([1, np.nan, 1]), 0.0], 1), "array 0 .* not finite"),
    "beyond float32": (lambda: Trained([np.ones(3), 1e300], 1), "array 1 .* not finite"),
    "no examples": (lambda: Trained(GOOD, 0), "fewer than 1 examples"),
    "half an example": (lambda: Trained(GOOD, 1.5), "a whole number is expected"),
    "true examples": (lambda: Trained(GOOD, True), "a whole number is expected"),
    "metrics": (lambda: Trained(GOOD, 1, {"a": "b"}), "a metric of a trainer's"),
    "metrics NaN": (lambda: Trained(GOOD, 1, {"a": float("nan")}), "not finite"),
    "metrics list": (lambda: Trained(GOOD, 1, [1.0]), "gave a list as metrics"),
}


@pytest.mark.parametrize("name", BAD)
async def test_what_is_no_update_is_named_and_costs_its_owner_the_round(name):
    make, message = BAD[name]

    class One(Linear):
        def train(self, weights, config, state):
            return make() if len(self.y) == 5 else super().train(weights, config, state)

    _, outcomes = await played(rounds=2, trainer=One)
    assert [outcome.reported for outcome in outcomes] == [("owner-1", "owner-2", "owner-3")] * 2
    import re

    assert re.search(message, outcomes[1].dropped["owner-0"])


@pytest.mark.parametrize("kept", [object(), {1: 2}, np.array(["a"]), {"a": {"secret name": {2}}}], ids=["object", "key", "text", "set"])
async def test_a_state_that_cannot_be_kept(kept):
    class One(Linear):
        def train(self, weights, config, state):
            state["secret"] = kept
            return super().train(weights, config, state)

    _, outcomes = await played(rounds=1, trainer=One)
    assert outcomes[0].failure is not None
    assert "a trainer's state has a" in outcomes[0].dropped["owner-0"]
    assert "secret" not in outcomes[0].dropped["owner-0"]


async def test_integers_stay():
    class One(Linear):
        def train(self, weights, config, state):
            given = super().train(weights[:2], config, state)
            return dataclasses.replace(given, delta=[*given.delta, np.full(2, int(len(self.y) == 5))])

    weights, outcomes = await played(rounds=1, trainer=One, model=[*START, np.array([4, 5])])
    assert outcomes[0].reported == ("owner-1", "owner-2", "owner-3")
    assert "changes integers" in outcomes[0].dropped["owner-0"]
    assert weights[2].tolist() == [4, 5]


@pytest.mark.parametrize("trainer", [lambda data: object(), lambda data: Linear], ids=["no train", "a class"])
async def test_what_makes_no_trainer(trainer):
    _, outcomes = await played(rounds=1, trainer=trainer)
    assert outcomes[0].failure is not None
    with pytest.raises(SettingError, match="trainer is a str"):
        simulated_owners(PARTS, trainer="Linear")


# What is asked, and nothing would follow, is refused.


@pytest.mark.parametrize(
    ("strategy", "message"), [(FedSGD(), "gradient of the loss"), (FedProx(mu=0.1), "proximal term")], ids=["FedSGD", "FedProx"]
)
async def test_settings_that_no_trainer_follows(strategy, message):
    _, outcomes = await played(rounds=1, strategy=strategy)
    assert message in outcomes[0].dropped["owner-0"]


async def test_a_trainer_that_follows_the_proximal_term_is_told():
    class Near(Linear):
        follows = ("proximal",)

        def train(self, weights, config, state):
            return Trained([np.full(3, config["proximal"]), 0.0], 1)

    weights, _ = await played(rounds=1, trainer=Near, strategy=FedProx(mu=0.25))
    assert weights[0].tolist() == [0.25] * 3


def test_what_needs_keras_is_refused_at_once():
    with pytest.raises(SettingError, match="DPSGD trains Keras models"):
        federation(privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5, delta=1e-3))
    with pytest.raises(SettingError, match="evaluation= needs a Keras model"):
        federation(evaluation=PARTS[0])
    with pytest.raises(SettingError, match="min_batch"):
        DataOwner(PARTS[0], trainer=Linear, policy=Policy(min_batch=4))


@pytest.mark.parametrize(
    ("model", "message"),
    [([], "none of floats"), ([np.arange(3)], "none of floats"), ([np.zeros(2, np.float16)], "float16"), ([np.array([np.nan])], "finite")],
    ids=["empty", "integers", "half", "NaN"],
)
async def test_arrays_that_are_no_model(model, message):
    with pytest.raises(ModelRefused, match=message):
        await played(model=model)


async def test_keras_has_no_part_in_a_federation_of_arrays():
    async with federation() as one:
        with pytest.raises(SettingError, match=r"federation\.weights"):
            _ = one.model
        with pytest.raises(SettingError, match="callbacks="):
            await one.run(rounds=1, callbacks=[object()])
        await one.run(rounds=1)


async def test_owners_without_a_trainer_refuse_arrays_and_config(examples, build):
    owners = simulated_owners([examples, examples])
    _, outcomes = await played(rounds=1, owners=owners)
    assert "needs a trainer of its own" in outcomes[0].dropped["owner-0"]
    async with Federation(model=build, owners=simulated_owners([examples] * 2), strategy=Told(), progress=False) as one:
        outcomes = [outcome async for outcome in one.rounds(1)]
    assert "the task says extra, name" in outcomes[0].dropped["owner-0"]


# Privacy: what comes after training is the same as with Keras.


async def test_noise_and_clipping_are_as_with_keras():
    class Huge(Linear):
        def train(self, weights, config, state):
            return Trained([np.full(3, 1e6), np.float32(0)], examples=5, metrics={"loss": 1.0})

    strategy, settings = FedAvg(), {"clip_norm": 2.0, "noise_multiplier": 1e-6, "delta": 1e-3}
    for privacy in (CentralGaussian(**settings), LocalGaussian(**settings)):
        weights, outcomes = await played(rounds=1, trainer=Huge, privacy=privacy, strategy=strategy)
        assert np.linalg.norm(weights[0]) == pytest.approx(2.0, abs=1e-3), privacy
        assert "loss" not in outcomes[0].metrics
    distributed = DistributedGaussian(clip_norm=2.0, noise_multiplier=0.01, delta=1e-3)
    weights, _ = await played(rounds=1, trainer=Huge, privacy=distributed, aggregation=SecureAggregation(clip=8.0))
    assert np.linalg.norm(weights[0]) == pytest.approx(2.0, abs=0.1)


# A real owner, over a real websocket.


async def test_a_real_owner_has_any_data_and_a_state_that_lasts(tmp_path):
    class Counting:
        def __init__(self, data):
            self.data = data

        def train(self, weights, config, state):
            state["n"] = state.get("n", 0) + len(self.data["any"])
            return Trained([np.full(3, state["n"]), 0.0], examples=len(self.data["any"]))

    async def round_of(owner):
        async with ActorSystem(listen="ws://127.0.0.1:0") as system:
            await system.spawn(DataOwner, {"any": "abc"}, trainer=Counting, memory=tmp_path / "state", name="owner", **owner)
            run = {"model": START, "owners": [f"{system.address}/owner"], "progress": False, "folder": tmp_path / "run", "resume": True}
            async with Federation(**run) as one:
                outcomes = [outcome async for outcome in one.rounds(len(one.history) + 1)]
                return one.weights[0].tolist(), outcomes[-1]

    assert (await round_of({}))[0] == [3.0] * 3
    assert (await round_of({}))[0] == [3.0 + 6.0] * 3  # another process, another system, the same run
    _, outcome = await round_of({"policy": Policy(min_examples=4)})
    assert "fewer than 4 examples" in next(iter(outcome.dropped.values()))


async def test_a_pinned_model_is_a_keras_model():
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, PARTS[0], trainer=Linear, policy=Policy(models=["0" * 64]))
        with pytest.raises((UpdateHeldBack, RemoteError), match="models other than"):
            await owner.train(Task(1, None, START, LocalTraining()))


async def test_cancelled_rounds_end_and_the_next_goes_on():
    from threading import Event

    go = Event()

    class Slow(Linear):
        def train(self, weights, config, state):
            go.wait(30)
            return super().train(weights, config, state)

    async with federation(trainer=Slow, deadline=0.05, quorum=0.25) as one:
        late = [outcome async for outcome in one.rounds(1)]
        go.set()
        assert len(late[0].late) == 4
        await asyncio.sleep(0)
    weights, _ = await played(rounds=1, trainer=Slow)
    np.testing.assert_allclose(weights[0], reference(1)[0], atol=1e-6)

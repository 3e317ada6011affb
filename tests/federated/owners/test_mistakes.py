"""Mistakes of users: each gets an error that says what was observed, what is expected, and what to do."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest

from federated import (
    FedAvg,
    Federation,
    ModelRefused,
    RunExists,
    SecureAggregation,
    SettingError,
    Strategy,
    TreeGaussian,
    simulated_owners,
)
from federated.private.private_rounds import PrivateRounds
from federated.runs.compatibility import sampled
from federated.strategies.sampling import asked

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int32)


def build():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


# The model.


class Module:
    """As one of PyTorch."""


MODELS = {
    "a model": (build, SettingError, "model is a Sequential, and the function that makes it is expected: give model=build, without"),
    "None": (lambda: None, SettingError, "model is a NoneType: give a function without arguments"),
    "a text": (lambda: "build", SettingError, "model is a str: give a function"),
    "a function with arguments": (lambda: lambda width: None, SettingError, "cannot be called without arguments"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_makes_no_model_is_refused_by_the_constructor(name):
    make, kind, told = MODELS[name]
    with pytest.raises(kind, match=told):
        Federation(model=make(), owners=simulated_owners([(X, Y)]))


async def coroutine():
    return build()


def test_nor_does_a_coroutine():
    with pytest.raises(SettingError, match="give a function without arguments"):
        Federation(model=coroutine, owners=simulated_owners([(X, Y)]))


MADE = {
    "nothing": (lambda: None, "gave None: does it end with 'return model'"),
    "a module": (Module, "gave a .*Module: a compiled keras.Model is expected"),
    "an object": (object, "gave a builtins object: a compiled keras.Model is expected"),
    "a layer": (lambda: keras.layers.Dense(1), "gave a keras Dense: a compiled keras.Model is expected"),
    "uncompiled": (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "call model.compile"),
}


@pytest.mark.parametrize("name", MADE)
async def test_a_function_that_makes_something_else(name):
    make, told = MADE[name]
    with pytest.raises(ModelRefused, match=told):
        await Federation(model=make, owners=simulated_owners([(X, Y)])).__aenter__()


# Owners.


@pytest.mark.parametrize(
    "owner",
    [
        "http://127.0.0.1:9/owner",
        "127.0.0.1:9/owner",
        "ws://127.0.0.1/owner",
        "ws://127.0.0.1:9",
        "ws://127.0.0.1:99999/owner",
        "owner",
        "",
    ],
)
def test_bad_addresses_are_refused_by_the_constructor(owner):
    with pytest.raises(SettingError, match=r"owners: .*wss://host:port/name"):
        Federation(model=build, owners=["ws://127.0.0.1:9/owner", owner])


@pytest.mark.parametrize("owners", [{"a": 1}, [1, 2], [(X, Y)]])
def test_what_is_no_owner(owners):
    with pytest.raises(SettingError, match="owners"):
        Federation(model=build, owners=owners)


async def played(parts=((X, Y),), rounds=1, **settings):
    settings = {"model": build, "owners": simulated_owners(list(parts)), "progress": False} | settings
    async with Federation(**settings) as federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation


async def test_when_every_owner_fails_the_first_reason_is_told_and_three_rounds_are_enough(caplog):
    outcomes, federation = await played([(X[:, :3], Y)] * 3, rounds=50)
    assert len(outcomes) == 3 == len(federation.history)
    for outcome in outcomes:
        assert "the first: owner-0: DataError: the features have shape (3,), and the model takes (4,)" in outcome.failure
        assert "the features have shape (3,)" in str(outcome)
    assert "no more rounds are played" in caplog.text


async def test_nor_are_more_epochs_of_run():
    async with Federation(model=build, owners=simulated_owners([(X, Y + 5)] * 2), progress=False) as federation:
        assert len(await federation.run(rounds=20)) == 3


class Away:
    """An owner that cannot be reached, for another reason each time or the same."""

    def __init__(self, name, error):
        self.name, self._error = name, error

    async def train(self, task):
        raise self._error

    async def evaluate(self, task):
        raise AssertionError


@pytest.mark.parametrize("parts", [[(X[:, :3], Y), (X, Y + 5)], "away", "one of two"])
async def test_but_where_it_may_get_better_rounds_go_on(parts):
    """Other reasons, connections, and rounds in which somebody reported."""
    if parts == "away":
        settings = {"owners": [Away("a", ConnectionError()), Away("b", ConnectionError())]}
    elif parts == "one of two":
        settings = {"owners": simulated_owners([(X, Y), (X[:, :3], Y)]), "quorum": 1.0}
    else:
        settings = {"owners": simulated_owners(parts)}
    outcomes, _ = await played(rounds=5, **settings)
    assert len(outcomes) == 5
    assert all(outcome.failure is not None for outcome in outcomes)


# Strategies of users.


def strategy_of(function):
    @dataclass(frozen=True, kw_only=True)
    class Mine(Strategy):
        def step(self, round, weights, updates, state):
            return function(weights, updates.mean, state)

    return Mine()


def raising(weights, delta, state):
    raise KeyError("oops")


STEPS = {
    "raises": (raising, "Mine.step raised KeyError: see the log"),
    "None": (lambda w, d, s: None, "Mine.step gave a NoneType: a tuple is expected"),
    "no state": (lambda w, d, s: w, "Mine.step gave a list: a tuple is expected"),
    "state is None": (lambda w, d, s: (w, None), "the new state, a dict"),
    "too few": (lambda w, d, s: (w[:-1], s), "Mine.step gave 1 arrays: 2 are expected"),
    "too many": (lambda w, d, s: ([*w, w[0]], s), "Mine.step gave 3 arrays: 2 are expected"),
    "other shapes": (
        lambda w, d, s: ([a[None] for a in w], s),
        r"weight '.*kernel' as float32 \(1, 4, 2\): float32 \(4, 2\) is",
    ),
    "texts": (lambda w, d, s: ([np.full(a.shape, "a") for a in w], s), "Mine.step gave weight '.*kernel' as <U1"),
    "numbers": (lambda w, d, s: ([1.0 for _ in w], s), r"Mine.step gave weight '.*kernel' as float64 \(\)"),
    "no array": (
        lambda w, d, s: ([w[0], [[1.0], [2.0, 3.0]]], s),
        "weight '.*bias' as a list that makes no array of numbers",
    ),
    "integers": (lambda w, d, s: ([w[0], np.zeros(2, int)], s), "Mine.step gave weight '.*bias' as int64"),
    "truth values": (lambda w, d, s: ([w[0], w[1] > 0], s), "Mine.step gave weight '.*bias' as bool"),
    "complex": (lambda w, d, s: ([w[0], w[1] * 1j], s), "Mine.step gave weight '.*bias' as complex64"),
    "short floats": (lambda w, d, s: ([w[0], w[1].astype(np.float16)], s), "Mine.step gave weight '.*bias' as float16"),
    "NaN": (lambda w, d, s: ([a * np.nan for a in w], s), "Mine.step gave weight '.*kernel' values that are not finite in float32"),
    "infinite": (lambda w, d, s: ([w[0], w[1] + np.inf], s), "Mine.step gave weight '.*bias' values that are not finite in float32"),
    "beyond float32": (
        lambda w, d, s: ([w[0], w[1].astype(np.float64) + 1e39], s),
        "Mine.step gave weight '.*bias' values that are not finite in float32: NaN, infinite, or beyond its range",
    ),
    "beyond float32, below zero": (lambda w, d, s: ([w[0] * np.float64(1) - 1e39, w[1]], s), "Mine.step gave weight '.*kernel' values"),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.sample(6)
async def test_a_strategy_that_fails_is_named_and_changes_nothing(name, caplog):
    step, told = STEPS[name]
    (outcome,), federation = await played(strategy=strategy_of(step))
    assert outcome.failure is not None
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(outcome.failure)
    for a, b in zip(federation.model.get_weights(), build().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ("oops" in caplog.text) == (name == "raises"), "the text of it is in the log only"
    assert "oops" not in outcome.failure


# How many are asked.


@pytest.mark.parametrize(
    ("owners", "fraction", "count"),
    [
        (5, 0.5, 3),
        (25, 0.1, 3),
        (15, 0.1, 2),
        (3, 0.5, 2),
        (50, 0.29, 15),
        (10, 0.05, 1),
        (10, 1e-9, 1),
        (10, 0.24, 2),
        (7, 1.0, 7),
        (7, 1, 7),
    ],
)
def test_halves_are_rounded_up(owners, fraction, count):
    assert asked(owners, fraction) == sampled(owners, FedAvg(fraction=fraction)) == count


def test_so_are_those_who_take_turns():
    private = PrivateRounds(TreeGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=9.0, delta=1e-5), owners=5, fraction=0.5)
    assert len(private.sample([str(i) for i in range(5)])) == 3


# Callbacks.


async def run(callbacks, rounds=4, **settings):
    settings = {"model": build, "owners": simulated_owners([(X, Y)]), "progress": False} | settings
    async with Federation(**settings) as federation:
        return await federation.run(rounds=rounds, callbacks=callbacks)


def stopping(**settings):
    return keras.callbacks.EarlyStopping(patience=1, min_delta=10.0, **settings)


@pytest.mark.parametrize(("monitor", "less"), [("test_loss", True), ("test_accuracy", False)])
async def test_callbacks_know_whether_less_is_better(monitor, less, tmp_path):
    early = stopping(monitor=monitor)
    kept = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor=monitor, save_best_only=True)
    slower = keras.callbacks.ReduceLROnPlateau(monitor=monitor, patience=100)
    assert len(await run([early, kept, slower], evaluation=(X, Y))) == 2, "min_delta is never reached"
    for callback in (early, kept, slower):
        assert bool(callback.monitor_op(1.0, 2.0)) is less
        assert callback.monitor == monitor
    assert (tmp_path / "best.keras").is_file()


async def test_what_keras_watches_by_itself_is_the_aggregators_own_evaluation_if_there_is_no_other():
    early, seen = stopping(), []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    history = await run([early, log], evaluation=(X, Y))
    assert len(history) == 2
    assert seen[0]["val_loss"] == seen[0]["test_loss"] == history[0].metrics["test_loss"]
    assert "val_loss" not in history[0].metrics
    seen.clear()
    owners = simulated_owners([(X, Y)], evaluation=[(X[:5], Y[:5])])
    history = await run([log], rounds=1, evaluation=(X, Y), owners=owners)
    assert seen[0]["val_loss"] == history[0].metrics["val_loss"] != seen[0]["test_loss"]


async def test_a_metric_of_which_nobody_knows_the_direction():
    with pytest.raises(SettingError, match=r"EarlyStopping\(monitor='test_unknown'\).*give mode='min' or mode='max'"):
        await run([stopping(monitor="test_unknown")], evaluation=(X, Y))


# Runs that are resumed.


async def resumed(folder, rounds, **settings):
    owners = settings.pop("owners", 4)
    settings = {"owners": simulated_owners([(X, Y)] * owners), "folder": folder, "resume": True, "progress": False} | settings
    async with Federation(model=build, **settings) as federation:
        async for _ in federation.rounds(rounds):
            pass
    return federation.history


async def test_a_run_that_is_resumed_with_others_says_so(tmp_path):
    await resumed(tmp_path, 2)
    assert [outcome.changes for outcome in await resumed(tmp_path, 3)] == [(), (), ()]
    *_, last, after = await resumed(tmp_path, 5, owners=3, quorum=1.0)
    assert last.changes == ("owners: 3 for 4, 1 gone and 0 new", "quorum: 1 for 0.5")
    assert after.changes == ()
    assert "resumed with other owners: 3 for 4, 1 gone and 0 new" in str(last)
    history = await resumed(tmp_path, 6, owners=3, aggregation=SecureAggregation())
    assert history[3].changes == last.changes, "it is written down"
    assert any(change.startswith("aggregation: SecureAggregation") for change in history[-1].changes)
    with pytest.raises(RunExists, match=r"hides the updates of single owners \(SecureAggregation.*and PlainMean\(\) shows them"):
        await resumed(tmp_path, 7, owners=3)
    assert len(await resumed(tmp_path, 7, owners=3, aggregation=SecureAggregation())) == 7


async def test_a_change_is_not_forgotten_when_the_round_is_not_played(tmp_path):
    await resumed(tmp_path, 1)
    async with Federation(model=build, owners=simulated_owners([(X, Y)] * 3), folder=tmp_path, resume=True, progress=False) as federation:
        await federation.run(rounds=1)  # which is there already; the folder is written all the same
    assert (await resumed(tmp_path, 2, owners=3))[-1].changes == ("owners: 3 for 4, 1 gone and 0 new",)


def test_an_error_of_a_strategy_of_this_library_is_told():
    from federated import Krum
    from federated.strategies.strategy import step_of
    from federated.strategies.updates import OwnerUpdate, Updates

    with pytest.raises(Exception, match=r"Krum.step failed: .*6 updates and f=2"):
        step_of(Krum(f=2), 1, [np.zeros(2)], Updates([np.zeros(2)], single=(OwnerUpdate("a", [np.zeros(2)]),) * 6), {})

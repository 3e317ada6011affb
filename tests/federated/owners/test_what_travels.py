"""Only what changes travels: frozen weights and integers are sent once, named by their digest, and believed by nobody unhashed."""

import asyncio
import contextlib
import dataclasses

import keras
import numpy as np
import pytest

from actors import ActorSystem
from actors.connection.websocket import FrameWriter
from federated import (
    CentralGaussian,
    CoordinateMedian,
    DataOwner,
    DistributedGaussian,
    Federation,
    Frozen,
    LocalGaussian,
    Policy,
    ProcessEngine,
    RunExists,
    SecureAggregation,
    SettingError,
    Trained,
    TreeGaussian,
    UpdateHeldBack,
    blueprint_digest,
    simulated_owners,
)
from federated.errors import BaseMissing
from federated.models import blueprint
from federated.models.weights import moving
from federated.owners.remote_owner import RemoteOwner
from federated.tasks.base import TaskBase, supplied
from federated.tasks.update import LocalTraining, Task, base_digest

RNG = np.random.default_rng(0)
WIDTH, RANK = 256, 8
X, Y = RNG.normal(size=(40, WIDTH)).astype(np.float32), np.arange(40) % 2
PARTS = [(X[i::4], Y[i::4]) for i in range(4)]
NOISE = {"clip_norm": 1.0, "noise_multiplier": 1.0, "max_epsilon": 1e5, "delta": 1e-5}


def adapted():
    """Two frozen kernels with adapters, and a head."""
    keras.utils.set_random_seed(1)
    wide = [keras.layers.Dense(WIDTH, activation="relu", use_bias=False, name=f"wide-{i}") for i in range(2)]
    model = keras.Sequential([keras.Input((WIDTH,)), *wide, keras.layers.Dense(2, name="head")])
    for layer in wide:
        layer.enable_lora(RANK)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


FROZEN = (0, 3)
TRAINABLE = 4 * (2 * 2 * WIDTH * RANK + 2 * WIDTH + 2)
"""Bytes of the adapters and the head."""
KEPT = 4 * 2 * WIDTH * WIDTH


@pytest.fixture
def wire(monkeypatch):
    """Bytes of all frames that this process has put on connections, in both directions."""
    sizes = []
    for name in ("put", "put_answer"):
        put = getattr(FrameWriter, name)

        def counted(self, encoded, written=None, put=put):
            sizes.append(encoded.size)
            put(self, encoded, written)

        monkeypatch.setattr(FrameWriter, name, counted)
    return sizes


@contextlib.asynccontextmanager
async def real(parts, **settings):
    """Owners behind sockets, and their addresses."""
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for part in parts:
            system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
            await system.spawn(DataOwner, part, name="owner", **settings)
            urls.append(f"{system.address}/owner")
        yield urls


def assert_still(weights, before):
    for i in FROZEN:
        np.testing.assert_array_equal(weights[i], before[i])
    assert all((weights[i] != before[i]).any() for i in range(len(before)) if i not in FROZEN)


async def test_a_round_of_adapters_moves_their_bytes_and_hardly_more(wire):
    rounds = []
    async with real(PARTS[:1]) as urls, Federation(model=adapted, owners=urls, progress=False) as federation:
        before = federation.weights
        async for outcome in federation.rounds(3):
            rounds.append((sum(wire), outcome.bytes))
            wire.clear()
            assert outcome.failure is None
        assert_still(federation.weights, before)
    assert 2 * TRAINABLE < rounds[1][0] < 1.05 * 2 * TRAINABLE
    assert 2 * TRAINABLE < rounds[2][0] < 1.05 * 2 * TRAINABLE
    assert KEPT + 2 * TRAINABLE < rounds[0][0] < 1.2 * KEPT + 3 * TRAINABLE, "the kernels once, and the first task twice"
    states = rounds[1][1] - 2 * TRAINABLE
    assert 0 <= states < 100, "the loss"
    assert rounds[0][1] == KEPT + rounds[1][1]
    async with Federation(model=adapted, owners=simulated_owners(PARTS[:1]), progress=False) as federation:
        assert [outcome.bytes async for outcome in federation.rounds(2)] == [rounds[0][1], rounds[1][1]], "simulated ones count alike"


async def test_private_sums_of_adapters_have_noise_in_them_and_nowhere_else(wire):
    settings = {"privacy": DistributedGaussian(**NOISE), "aggregation": SecureAggregation(clip=64.0, most_examples=1)}
    async with real(PARTS) as urls, Federation(model=adapted, owners=urls, progress=False, **settings) as federation:
        before = federation.weights
        outcomes = []
        async for outcome in federation.rounds(2):
            outcomes.append((outcome, sum(wire)))
            wire.clear()
        after = federation.weights
    assert all(len(one.reported) == 4 for one, _ in outcomes)
    assert_still(after, before)
    moved = np.concatenate([(a - b).ravel() for i, (a, b) in enumerate(zip(after, before, strict=True)) if i not in FROZEN])
    assert np.std(moved) == pytest.approx(np.sqrt(2 * 4 / 3) / 4, rel=0.1), "two rounds of four parts, of which three are enough"
    assert outcomes[1][1] < 1.05 * 4 * 2 * TRAINABLE + 4 * 8000, "each has keys and shares for three others"


@pytest.mark.parametrize(
    "settings",
    [
        {"privacy": CentralGaussian(**NOISE)},
        {"privacy": LocalGaussian(**NOISE)},
        pytest.param({"privacy": TreeGaussian(**NOISE)}, marks=pytest.mark.long),
        pytest.param({"strategy": CoordinateMedian()}, marks=pytest.mark.long),
    ],
    ids=["central", "local", "tree", "median"],
)
async def test_frozen_weights_are_bit_equal_afterwards(settings):
    async with Federation(model=adapted, owners=simulated_owners(PARTS), progress=False, **settings) as federation:
        before = federation.weights
        assert [outcome.failure async for outcome in federation.rounds(2)] == [None, None]
        assert_still(federation.weights, before)


def test_what_moves():
    layers = keras.layers
    normalization = layers.Normalization(name="scaled")
    normalization.adapt(X)
    batch, frozen = layers.BatchNormalization(name="batch"), layers.BatchNormalization(name="frozen", trainable=False)
    spectral = layers.SpectralNormalization(layers.Dense(3, name="inner"), name="spectral", trainable=False)
    model = keras.Sequential([keras.Input((WIDTH,)), normalization, layers.Dense(3), batch, frozen, spectral])
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    found = list(moving(model))
    names = [variable.path.split("/")[-2:] for variable in model.weights]
    moved = {tuple(name) for name, flag in zip(names, found, strict=True) if flag}
    assert moved == {
        *(("batch", name) for name in ("gamma", "beta", "moving_mean", "moving_variance")),
        *(("inner", name) for name in ("kernel", "bias")),
        ("spectral", "vector_u"),
    }
    assert moving(blueprint.build(blueprint.draw(model))) == tuple(found), "owners find the same"


# What an owner is sent, it does not believe.


def asked(**changes):
    model = adapted()
    task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(), "a run", sent=moving(model), moved=blueprint.trained(model))
    return dataclasses.replace(task, base=base_digest(task.blueprint, task.kept), **changes)


@contextlib.asynccontextmanager
async def owner(**settings):
    async with ActorSystem() as system:
        yield await system.spawn(DataOwner, PARTS[0], **settings)


async def test_a_base_is_asked_for_before_it_is_taken_and_is_what_was_asked_for():
    task = asked()
    base = TaskBase(task.blueprint, task.kept)
    async with owner() as one:
        with pytest.raises(UpdateHeldBack, match="not the one that a task has named"):
            await one.hold(base)
        with pytest.raises(BaseMissing, match="send it first"):
            await one.train(task.light)
        other = [np.nextafter(array, np.float32(1)) for array in task.kept]
        for wrong in (TaskBase(task.blueprint, other), TaskBase(task.blueprint, task.kept[::-1]), TaskBase(None, task.kept)):
            with pytest.raises(UpdateHeldBack, match="not the one that a task has named"):
                await one.hold(wrong)
        await one.hold(base)
        update = await one.train(task.light)
        assert [array.shape for array in update.delta] == [array.shape for array in task.changing]
        whole = await one.train(dataclasses.replace(task, base=b""))
        for a, b in zip(update.delta, whole.delta, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda task: {"base": task.base}, "does not say rightly"),
        (lambda task: {"sent": task.sent[:-1]}, "of another number"),
        (lambda task: {"moved": (True,)}, "of another number"),
        (lambda task: {"sent": (*task.sent[:-1], False), "moved": ()}, "training of its model changes"),
        (lambda task: {"sent": (*task.sent[:-1], False)}, "leaves weights out"),
    ],
    ids=[
        "whole, with a digest",
        "too few flags",
        "too few trained",
        "a trained one left out",
        "a trained one left out, said to be trained",
    ],
)
async def test_a_task_that_lies_about_what_travels_is_refused(changes, message):
    task = asked()
    async with owner() as one:
        with pytest.raises(UpdateHeldBack, match=message):
            await one.train(dataclasses.replace(task, **{"base": b""} | changes(task)))


async def test_a_task_and_its_base_have_to_fit():
    task = asked()
    async with owner() as one:
        with pytest.raises(BaseMissing):
            await one.train(task.light)
        await one.hold(TaskBase(task.blueprint, task.kept))
        for sent in (task.sent[:-1], (*task.sent, False), (True,) * len(task.sent)):
            with pytest.raises(UpdateHeldBack, match="leaves out"):
                await one.train(dataclasses.replace(task.light, sent=sent, moved=()))


async def test_a_policy_is_held_to_before_a_base_is_kept():
    task = asked()
    other = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(2)])
    other.compile("sgd", "mse")
    for policy, message in [(Policy(models=[blueprint_digest(other)]), "digests of"), (Policy(largest=1000), "more than 1,000 weights")]:
        async with owner(policy=policy) as one:
            with pytest.raises(BaseMissing):
                await one.train(task.light)
            with pytest.raises(UpdateHeldBack, match=message):
                await one.hold(TaskBase(task.blueprint, task.kept))
    broken = [np.full_like(array, np.nan) for array in task.kept]
    async with owner() as one:
        with pytest.raises(BaseMissing):
            await one.train(dataclasses.replace(task.light, base=base_digest(task.blueprint, broken)))
        with pytest.raises(UpdateHeldBack, match="not finite"):
            await one.hold(TaskBase(task.blueprint, broken))


async def test_an_owner_that_works_for_more_runs_than_it_keeps_models_is_sent_each_again():
    tasks = []
    for number in range(1, 5):
        task = asked(round=number)
        weights = [number * array for array in task.weights]
        tasks.append(dataclasses.replace(task, weights=weights, base=b""))
    async with real(PARTS[:1]) as urls, ActorSystem() as system:
        one = RemoteOwner(system, urls[0])
        named = [dataclasses.replace(task, base=base_digest(task.blueprint, task.kept)) for task in tasks]
        for a, b in zip(await asyncio.gather(*(one.train(task) for task in named)), [await one.train(task) for task in tasks], strict=True):
            for x, y in zip(a.delta, b.delta, strict=True):
                np.testing.assert_array_equal(x, y)
        assert one.supplied >= 4 * KEPT
        with pytest.raises(UpdateHeldBack, match="no SHA-256"):
            await one.train(dataclasses.replace(named[0], base=b"short"))


async def test_a_task_whose_model_is_missed_twice_is_sent_whole():
    task, sent = asked(), []

    async def work(one):
        sent.append(one)
        if one.base:
            raise BaseMissing("this owner never has it")
        return "done"

    async def give(base):
        sent.append(base)

    assert await supplied(task, work, give) == "done"
    assert [getattr(one, "base", None) for one in sent] == [task.base, None, task.base, b""]
    assert sent[-1].digest == task.digest


def test_owners_sign_the_same_for_the_same_content_only():
    task = asked()
    content = dataclasses.replace(task, base=b"")
    assert content.digest == task.digest
    other = [array + 1 if i in FROZEN else array for i, array in enumerate(task.weights)]
    assert dataclasses.replace(content, weights=other).digest != task.digest
    assert dataclasses.replace(content, sent=(True,) * len(task.sent)).digest != task.digest


async def test_an_owner_that_was_away_is_sent_it_again_and_changed_weights_are_sent_anew():
    async with real(PARTS[:2]) as urls, Federation(model=adapted, owners=urls, progress=False) as federation:
        sizes = [outcome.bytes async for outcome in federation.rounds(1)]
        weights = federation.weights
        federation.model.set_weights([2 * array if i in FROZEN else array for i, array in enumerate(weights)])
        sizes += [outcome.bytes async for outcome in federation.rounds(2)]
        for i in FROZEN:
            np.testing.assert_array_equal(federation.weights[i], 2 * weights[i])
    assert sizes[0] == sizes[1] == sizes[2] + 2 * KEPT


# What is frozen stays so, or is refused.


async def test_layers_that_become_trainable_between_rounds_are_refused_by_name():
    async with Federation(model=adapted, owners=simulated_owners(PARTS), progress=False) as federation:
        assert [outcome.failure async for outcome in federation.rounds(1)] == [None]
        federation.model.get_layer("head").trainable = False
        with pytest.raises(SettingError, match=r"frozen or unfrozen.*head/kernel.*begin another Federation"):
            await anext(federation.rounds(1))
        federation.model.get_layer("head").trainable = True
        assert [outcome.failure async for outcome in federation.rounds(1)] == [None]


@keras.saving.register_keras_serializable("test_what_travels")
class Growing(keras.layers.Layer):
    """It changes, in a forward pass, a weight that was made to be trained."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs, training=False):
        if training:
            self.scale.assign(self.scale + 1.0)
        return inputs * self.scale


async def test_a_frozen_weight_that_training_changes_is_refused_by_name():
    def build():
        model = keras.Sequential([keras.Input((WIDTH,)), Growing(trainable=False, name="growing"), keras.layers.Dense(2)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    async with Federation(model=build, owners=simulated_owners(PARTS[:1]), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert "growing/scale' is frozen, and training changed it all the same" in outcome.dropped["owner-0"]


@pytest.mark.long
async def test_a_pool_of_processes_is_sent_it_once_and_gives_the_same():
    found = []
    for engine in (None, ProcessEngine(1)):
        async with Federation(model=adapted, owners=simulated_owners(PARTS, engine=engine), progress=False) as federation:
            assert [len(outcome.reported) async for outcome in federation.rounds(2)] == [4, 4]
            found.append(federation.weights)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


# Trainers of owners' own.


class Shift:
    """Adds its number to what is not frozen; or to all, if it is told to."""

    def __init__(self, data):
        self.value, self.frozen = data

    def train(self, weights, config, state):
        return Trained([np.full_like(weights[0], self.frozen), np.full_like(weights[1], self.value)], 1)


ARRAYS = (np.ones(1000, np.float32), np.zeros(3, np.float32))


async def test_frozen_arrays_of_own_trainers_travel_once_and_stay(tmp_path):
    model = [Frozen(ARRAYS[0]), ARRAYS[1]]
    async with Federation(model=model, owners=simulated_owners([(2, 0), (4, 0)], trainer=Shift), folder=tmp_path) as federation:
        sizes = [outcome.bytes async for outcome in federation.rounds(2)]
        np.testing.assert_array_equal(federation.weights[0], ARRAYS[0])
        np.testing.assert_array_equal(federation.weights[1], np.full(3, 6))
    assert sizes == [2 * (2 * 12 + 4000), 2 * 2 * 12]
    owners = simulated_owners([(2, 0), (4, 1)], trainer=Shift)
    async with Federation(model=model, owners=owners, folder=tmp_path, resume=True) as federation:
        assert [outcome async for outcome in federation.rounds(2)] == []
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert "array 0 of a trainer's delta changes a frozen array" in outcome.dropped["owner-1"]
        np.testing.assert_array_equal(federation.weights[1], np.full(3, 8))
    with pytest.raises(RunExists, match="another model"):
        async with Federation(model=list(ARRAYS), owners=owners, folder=tmp_path, resume=True):
            pass

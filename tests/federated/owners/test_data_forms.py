"""The forms in which owners have their data: each trains as in Keras, or is refused at once; none is waited for without end."""

import asyncio
import itertools
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from actors import ActorSystem
from federated import DPSGD, DataError, DataOwner, FedAvg, Federation, FedSGD, SecureAggregation, simulated_owners
from federated.models import blueprint
from federated.records import batches
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = X.sum(1, keepdims=True)
WEIGHTS = RNG.uniform(0.1, 3.0, 24).astype(np.float32)


def one():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def two(form):
    def build():
        keras.utils.set_random_seed(1)
        a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
        joined = keras.layers.Concatenate()([a, b])
        p, q = keras.layers.Dense(1, name="p")(joined), keras.layers.Dense(2, name="q")(joined)
        given = ({"a": a, "b": b}, {"p": p, "q": q}) if form is dict else (form([a, b]), form([p, q]))
        model = keras.Model(*given)
        model.compile(keras.optimizers.SGD(0.1), {"p": "mse", "q": "mse"} if form is dict else ["mse", "mse"])
        return model

    return build


DICTS = {"a": X, "b": X[:, :2]}, {"p": Y, "q": X[:, 2:]}
ARRAYS = {
    "sample weights": (one, (X, Y, WEIGHTS)),
    "dicts": (two(dict), DICTS),
    "lists": (two(list), (list(DICTS[0].values()), list(DICTS[1].values()))),
    "tuples": (two(tuple), (tuple(DICTS[0].values()), tuple(DICTS[1].values()))),
    "dicts with weights": (two(dict), (*DICTS, {"p": WEIGHTS, "q": WEIGHTS[::-1].copy()})),
    "lists of numbers": (one, (X.tolist(), Y.tolist())),
    "lists of rows": (one, (list(X), list(Y))),
    "tensors": (one, (tf.constant(X), tf.constant(Y))),
}


async def played(model, part, strategy, **settings):
    async with Federation(model=model, owners=simulated_owners([part]), strategy=strategy, progress=False, **settings) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert outcome.failure is None, outcome.failure
        assert outcome.examples == 24
        return federation.model.get_weights(), outcome


def by_keras(build, part):
    """One step on all examples, by Keras' own `fit`."""
    x, y, weights = (*part, None)[:3]
    if not isinstance(x, dict) and not isinstance(x, tuple) and not any(np.ndim(one) > 1 for one in x):
        x, y = np.asarray(x), np.asarray(y)
    model = build()
    model.fit(x, y, sample_weight=weights, batch_size=24, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("strategy", [FedAvg(batch_size=None), FedSGD(eta=0.1)], ids=["FedAvg", "FedSGD"])
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.sample(6)
async def test_arrays_train_as_in_keras(name, strategy):
    build, part = ARRAYS[name]
    found, _ = await played(build, part, strategy)
    for a, b in zip(found, by_keras(build, part), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD(eta=0.1)], ids=["FedAvg", "FedSGD"])
@pytest.mark.parametrize("name", ["sample weights", "dicts", "dicts with weights", "tuples"])
@pytest.mark.sample(3)
async def test_data_sets_of_the_same_do_so_too(name, strategy):
    build, part = ARRAYS[name]
    found, _ = await played(build, tf.data.Dataset.from_tensor_slices(part).batch(24), strategy)
    for a, b in zip(found, by_keras(build, part), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


async def test_batches_of_nests_are_shuffled_alike():
    """Inputs, labels and weights of an example stay together."""
    _, part = ARRAYS["dicts with weights"]
    arrays = Data(part).shuffled([1])
    order = [int(np.flatnonzero((row == X).all(1))[0]) for row in arrays.x["a"]]
    assert sorted(order) == list(range(24)) != order
    for shuffled, given in zip(
        (*arrays.x.values(), *arrays.y.values(), *arrays.sample_weight.values()),
        (*part[0].values(), *part[1].values(), *part[2].values()),
        strict=True,
    ):
        np.testing.assert_array_equal(shuffled, given[order])


@pytest.mark.parametrize("name", ["sample weights", "dicts with weights"])
async def test_evaluation_data_have_weights_too(name):
    build, part = ARRAYS[name]
    owners = simulated_owners([part], evaluation=[part])
    async with Federation(model=build, owners=owners, evaluation=part, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        expected = federation.model.evaluate(*part[:2], sample_weight=part[2], verbose=0, return_dict=True)
    for kind in ("val", "test"):
        assert outcome.metrics[f"{kind}_loss"] == pytest.approx(expected["loss"], rel=1e-5)


async def test_weights_and_nests_in_hidden_sums_and_private_steps():
    build, part = ARRAYS["dicts with weights"]
    async with Federation(model=build, owners=simulated_owners([part] * 3), aggregation=SecureAggregation(), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert (outcome.failure, outcome.examples) == (None, 72)
    build, part = ARRAYS["sample weights"]
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5, max_epsilon=100.0, delta=1e-5)
    await played(build, part, FedAvg(), privacy=privacy)


# What is no data for an owner.


class Loader:
    """As a DataLoader of PyTorch: a length, and batches."""

    def __iter__(self):
        yield X, Y

    def __len__(self):
        return 1


class Indexed:
    """As a Dataset of PyTorch."""

    def __getitem__(self, index):
        return X[index], Y[index]

    def __len__(self):
        return 24


NO_DATA = {
    "an array": (X, "labels are missing: give (x, y); for an autoencoder (x, x)"),
    "a list": ([X, Y], "Give a tuple (x, y)"),
    "a list of batches": ([(X, Y)], "Give a tuple (x, y)"),
    "a dict": ({"x": X, "y": Y}, "give a tuple (x, y)"),
    "a generator": (((X, Y) for _ in range(2)), "read once only: give arrays (x, y), or tf.data.Dataset.from_generator"),
    "an iterator": (iter([(X, Y)]), "read once only"),
    "a loader": (Loader(), "a keras.utils.PyDataset"),
    "an indexed data set": (Indexed(), "PyDataset"),
    "a path": ("/data/train.csv", "give a pair (x, y) of arrays"),
    "four parts": ((X, Y, WEIGHTS, WEIGHTS), "expected (x, y) or (x, y, sample_weight)"),
    "no labels": ((X, None), "makes no array"),
    "other lengths": ((X, Y[:-1]), "all need the same number of examples"),
    "other lengths in a dict": (({"a": X, "b": X[:3]}, Y), "all need the same number of examples"),
    "weights of another length": ((X, Y, WEIGHTS[:3]), "all need the same number of examples"),
    "weights that are texts": ((X, Y, np.full(24, "a")), "sample_weight has dtype <U1"),
    "ragged rows": (([[1.0], [1.0, 2.0]], [0.0, 1.0]), "its rows have other lengths"),
    "no names": (({0: X}, Y), "names of inputs or outputs are expected"),
    "objects": ((np.array([object()] * 3), np.zeros(3)), "no array of numbers or texts"),
    "a data set without labels": (tf.data.Dataset.from_tensor_slices(X).batch(4), "does not give batches (x, y)"),
    "a data set of dicts": (tf.data.Dataset.from_tensor_slices({"x": X, "y": Y}).batch(4), "does not give batches (x, y)"),
    "a data set of single examples": (tf.data.Dataset.from_tensor_slices((X, Y[:, 0])), "use batch(n)"),
}


@pytest.mark.parametrize("name", NO_DATA)
def test_what_is_no_data_is_refused_at_once_and_says_what_to_give(name):
    source, told = NO_DATA[name]
    with pytest.raises(DataError) as caught:
        simulated_owners([source])
    assert told in str(caught.value)
    assert str(X[0, 0]) not in str(caught.value)
    with pytest.raises(DataError):
        DataOwner(source)
    with pytest.raises(DataError):
        Federation(model=one, owners=simulated_owners([(X, Y)]), evaluation=source)


# Data without end.


class Endless(keras.utils.PyDataset):
    """It does not say how many batches it has."""

    num_batches = None

    def __getitem__(self, index):
        return X, Y


class Huge(Endless):
    """It says that it has more than anybody can read."""

    num_batches = 1 << 62


def generated(count):
    signature = (tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 1), tf.float32))
    return tf.data.Dataset.from_generator(lambda: itertools.islice(itertools.repeat((X, Y)), count), output_signature=signature)


PAIRS = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
ENDLESS = {
    "repeat": (PAIRS.repeat(), "has no end: use take(n)"),
    "repeat for long": (PAIRS.repeat(1 << 40), "as good as no end"),
    "a generator": (generated(None), "without an end: use take(n)"),
    "a generator, prefetched": (generated(None).prefetch(2), "without an end: use take(n)"),
    "filtered": (PAIRS.repeat().filter(lambda x, y: True), "use take(n)"),
    "a PyDataset": (Endless(), "its num_batches is None"),
    "a huge PyDataset": (Huge(), "as good as no end"),
}


@pytest.fixture(autouse=True)
def few_batches(monkeypatch):
    monkeypatch.setattr(batches, "MOST_UNKNOWN", 50)


@pytest.mark.parametrize("name", ENDLESS)
async def test_data_without_end_cost_their_owner_the_round_at_once(name):
    source, told = ENDLESS[name]
    owners = simulated_owners([source, (X, Y)], evaluation=[(X, Y), source])
    async with Federation(model=one, owners=owners, deadline=None, progress=False) as federation:  # which would never end
        outcomes = [outcome async for outcome in federation.rounds(2)]
    for outcome in outcomes:
        assert outcome.reported == ("owner-1",)
        assert "DataError: " in outcome.dropped["owner-0"]
        assert told in outcome.dropped["owner-0"]
        assert told in outcome.faults["owner-1"]


@pytest.mark.parametrize("name", ENDLESS)
async def test_and_real_owners_too(name):
    source, told = ENDLESS[name]
    model = one()
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, source, source)
        task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining())
        for work in (owner.train, owner.evaluate):
            with pytest.raises(DataError) as caught:
                await work(task)
            assert told in str(caught.value)


async def test_the_aggregators_own_evaluation_data_end_as_well():
    federation = Federation(model=one, owners=simulated_owners([(X, Y)]), evaluation=PAIRS.repeat(), progress=False)
    with pytest.raises(DataError, match=r"use take\(n\)"):
        await federation.__aenter__()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras' own, of any set whose length it learns by reading
async def test_data_sets_of_unknown_length_that_end_are_trained_on():
    _, outcome = await played(one, generated(1), FedAvg())
    assert outcome.examples == 24
    known = generated(60).apply(tf.data.experimental.assert_cardinality(60))  # more than may be unknown
    assert Data(known).count() == 60 * 24


async def test_who_waits_no_more_ends_the_count():
    """A data set whose reading takes for ever keeps neither the event loop nor the owners behind it, and ends when nobody waits."""
    reading, ended = threading.Event(), threading.Event()

    class Slow(Endless):
        num_batches = 1 << 20

        def __getitem__(self, index):
            reading.set()
            return X, Y

    class Noticed(Data):
        def count(self, stop=None):
            try:
                return super().count(stop)
            finally:
                ended.set()

    from federated.owners.training import Trainer

    trainer, model = Trainer(), one()
    task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining())
    waiting = asyncio.create_task(trainer.train(task, Noticed(Slow()), evaluates=False))
    await asyncio.to_thread(reading.wait)
    assert (await trainer.train(task, Data((X, Y)), evaluates=False)).examples == 24  # another is trained meanwhile
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.to_thread(ended.wait)
    await trainer.close()

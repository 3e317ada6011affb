"""An owner whose data do not fit the model costs itself only, wherever it stands, and is named in each round."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import DataError, FedAvg, Federation, FedSGD, PlainMean, ProcessEngine, RayEngine, SecureAggregation, simulated_owners
from federated.models import blueprint
from federated.models.expectations import Expectations
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int32)
GOOD = [(X[i::3], Y[i::3]) for i in range(3)]


@keras.saving.register_keras_serializable("test_misfits")
def own_loss(truth, predicted):
    """Of which nothing is known before it is traced."""
    return keras.ops.mean(keras.ops.square(keras.ops.cast(truth, "float32") - predicted[:, 0]), axis=-1)


def build(loss="sparse_categorical_crossentropy"):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
    return model


MISFITS = {
    "features": (build, (X[:, :3], Y), "the features have shape (3,), and the model takes (4,)"),
    "labels": (build, (X, np.eye(2)[Y]), "the labels have shape (2,)"),
    "unforeseen": (functools.partial(build, own_loss), (X, np.zeros((32, 5), np.int32)), "training failed ("),
}
"""A model, data that it cannot be trained on, and what is told: two are found before training, and one while the step is traced."""
FORMS = {"arrays": lambda part: part, "tf.data": lambda part: tf.data.Dataset.from_tensor_slices(part).batch(8)}
WAYS = {
    "plain": {"strategy": FedAvg(batch_size=None), "aggregation": PlainMean()},
    "secure": {"strategy": FedAvg(batch_size=None), "aggregation": SecureAggregation(threshold=0.5)},
    "FedSGD": {"strategy": FedSGD(eta=0.5), "aggregation": PlainMean()},
}


async def weights_after_each_round(model, parts, way, engine=None, rounds=3):
    federation = Federation(model=model, owners=simulated_owners(parts, engine=engine), progress=False, **WAYS[way])
    async with federation:
        found, outcomes = [federation.model.get_weights()], []
        async for outcome in federation.rounds(rounds):
            outcomes.append(outcome)
            found.append(federation.model.get_weights())
    return found, outcomes


@functools.cache
def without(build, form, way):
    """The same owners without the misfit: computed once for all places."""
    return []


async def reference(build, form, way):
    known = without(build, form, way)
    if not known:
        known.append(await weights_after_each_round(build, [FORMS[form](part) for part in GOOD], way))
    return known[0]


async def assert_costs_itself_only(kind, place, form, way, engine=None):
    build, odd, told = MISFITS[kind]
    parts = [*GOOD[:place], odd, *GOOD[place:]]
    expected, _ = await reference(build, form, way)
    found, outcomes = await weights_after_each_round(build, [FORMS[form](part) for part in parts], way, engine)
    for outcome in outcomes:
        assert list(outcome.dropped) == [f"owner-{place}"]
        assert told in outcome.dropped[f"owner-{place}"]
        assert len(outcome.reported) == 3
        assert {"loss", "accuracy"} <= outcome.metrics.keys()
    for one, other in zip(found, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(found[-1], found[-2], strict=True)), "they still learn"


def binary():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(0.5), "binary_crossentropy", metrics=["accuracy"])
    return model


async def test_arrays_of_another_rank_that_fit_cost_nobody_else_a_round():
    """Keras takes labels (n, 1, 1), too; what it has traced for them is not what others get."""
    parts = [(x, y[:, None].astype(np.float32)) for x, y in GOOD]
    odd = (parts[0][0], parts[0][1][:, :, None])
    found, outcomes = await weights_after_each_round(binary, [odd, *parts[1:]], "plain")
    assert all(outcome.reported == ("owner-0", "owner-1", "owner-2") for outcome in outcomes), [str(outcome) for outcome in outcomes]
    expected, _ = await weights_after_each_round(binary, parts, "plain")
    for one, other in zip(found[-1], expected[-1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.sample(3)
async def test_first_in_the_middle_or_last(kind, place):
    await assert_costs_itself_only(kind, place, "arrays", "plain")


@pytest.mark.parametrize(("kind", "form", "way"), [("features", "tf.data", "plain"), ("unforeseen", "tf.data", "plain")])
async def test_first_in_other_forms(kind, form, way):
    await assert_costs_itself_only(kind, 0, form, way)


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("way", ["secure", "FedSGD"])
@pytest.mark.sample(2)
async def test_first_in_other_aggregations(kind, way):
    await assert_costs_itself_only(kind, 0, "arrays", way)


@pytest.mark.long
@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
async def test_every_place_form_and_aggregation(kind, place, form, way):
    await assert_costs_itself_only(kind, place, form, way)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["features", "labels"])
@pytest.mark.parametrize("way", ["plain", "secure"])
async def test_first_in_a_pool_of_processes(kind, way):
    await assert_costs_itself_only(kind, 0, "arrays", way, ProcessEngine(1))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray's own
async def test_first_on_ray():
    await assert_costs_itself_only("features", 0, "arrays", "plain", RayEngine(workers=1, cores=0.5))


async def test_nothing_of_a_failed_task_remains_in_a_trainer():
    """Half of what Keras would have traced is not the next owner's, in training and in evaluation."""
    build, odd, _ = MISFITS["unforeseen"]
    model = build()
    task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(batch_size=None))
    fresh, used = Trainer(), Trainer()
    for work in (used.train, used.evaluate):
        settings = {"evaluates": False} if work == used.train else {}
        with pytest.raises(Exception, match=r"failed \("):
            await work(task, Data(odd), **settings)
    update, expected = [await trainer.train(task, Data(GOOD[0]), evaluates=False) for trainer in (used, fresh)]
    assert update.metrics == expected.metrics
    assert update.metrics["loss"] > 0
    for a, b in zip(update.delta, expected.delta, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (await used.evaluate(task, Data(GOOD[0]))).metrics == (await fresh.evaluate(task, Data(GOOD[0]))).metrics
    await used.close()
    await fresh.close()


async def test_data_that_are_refused_before_training_cost_no_model():
    trainer, model = Trainer(), build()
    task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining())
    await trainer.train(task, Data(GOOD[0]), evaluates=False)
    desk = trainer._desk
    with pytest.raises(DataError, match="the features have shape"):
        await trainer.train(task, Data((X[:, :3], Y)), evaluates=False)
    assert trainer._desk is desk
    await trainer.close()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras' own, of any set whose length it learns by reading
@pytest.mark.parametrize("strategy", [FedAvg(local_epochs=2), FedSGD()], ids=["FedAvg", "FedSGD"])
async def test_an_epoch_without_a_step_is_an_error(strategy):
    """A data set that can be read once: it is empty when it is to be trained on."""
    rest = iter([(X, Y)])
    once = tf.data.Dataset.from_generator(
        lambda: rest, output_signature=(tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None,), tf.int32))
    )
    owners = simulated_owners([once, GOOD[0]])
    async with Federation(model=build, owners=owners, strategy=strategy, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.reported == ("owner-1",)
    assert "gave nothing when it was read again" in outcome.dropped["owner-0"]


# What a model takes, without training anything.


@functools.cache
def expectations(name):
    layers = keras.layers
    if name == "two":
        a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
        joined = layers.Concatenate()([a, b])
        model = keras.Model({"a": a, "b": b}, {"p": layers.Dense(3, name="p")(joined), "q": layers.Dense(1, name="q")(joined)})
        model.compile("sgd", {"p": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "q": "mse"})
        return Expectations(model)
    losses = {"column": "mse", "one-hot": "categorical_crossentropy", "binary": "binary_crossentropy"}
    width = {"column": 1, "binary": 1}.get(name, 3)
    shape = {"sequence": (None, 4), "image": (8, 8, 1)}.get(name, (4,))
    model = keras.Sequential([keras.Input(shape), *([layers.Flatten()] if name == "image" else []), layers.Dense(width)])
    model.compile("sgd", losses.get(name, "sparse_categorical_crossentropy"))
    return Expectations(model)


N = 6
ONES = np.ones((N, 4), np.float32)
CLASSES = np.arange(N) % 3
TEXTS = np.full((N, 4), "a")
PAIR = {"a": ONES, "b": ONES[:, :2]}
BOTH = {"p": CLASSES, "q": ONES[:, :1]}
CHECKS = {
    "features": ("classes", (ONES, CLASSES), None),
    "floats of another width": ("classes", (ONES.astype(np.float64), CLASSES), None),
    "bytes": ("classes", (ONES.astype(np.uint8), CLASSES), None),
    "other features": ("classes", (ONES[:, :3], CLASSES), r"features have shape \(3,\), and the model takes \(4,\)"),
    "features of another rank": ("classes", (np.ones((N, 4, 2)), CLASSES), r"features have shape \(4, 2\)"),
    "features with one axis more of size one": ("classes", (ONES[..., None], CLASSES), None),
    "a list of features for one": ("classes", ([ONES, ONES], CLASSES), "x has 2 arrays, and the model takes one array"),
    "a dict with another name": ("classes", ({"a": ONES}, CLASSES), "x is a dict without some of the model's inputs"),
    "texts for features": ("classes", (TEXTS, CLASSES), "the features are texts, and the model takes numbers"),
    "texts for labels": ("classes", (ONES, TEXTS[:, 0]), "the labels are texts"),
    "a column of classes": ("classes", (ONES, CLASSES[:, None]), None),
    "one-hot for numbers of classes": ("classes", (ONES, np.eye(3)[CLASSES]), r"labels have shape \(3,\).*CategoricalCrossentropy"),
    "a class too many": ("classes", (ONES, CLASSES + 1), "a label of this owner is not from 0 to 2"),
    "a negative class": ("classes", (ONES, CLASSES - 1), "a label of this owner is not from 0 to 2"),
    "one-hot": ("one-hot", (ONES, np.eye(3)[CLASSES]), None),
    "one-hot of another width": ("one-hot", (ONES, np.eye(4)[CLASSES]), r"labels have shape \(4,\)"),
    "numbers of classes for one-hot": ("one-hot", (ONES, CLASSES), r"labels have shape \(\)"),
    "a vector": ("column", (ONES, ONES[:, 0]), None),
    "a column": ("column", (ONES, ONES[:, :1]), None),
    "more than a column is as in Keras": ("column", (ONES, ONES[:, :2]), None),
    "an image for a column": ("column", (ONES, np.ones((N, 2, 2))), r"labels have shape \(2, 2\)"),
    "binary": ("binary", (ONES, CLASSES % 2), None),
    "binary of two columns": ("binary", (ONES, ONES[:, :2]), r"labels have shape \(2,\)"),
    "sequences of any length": ("sequence", (np.ones((N, 7, 4)), np.zeros((N, 7), int)), None),
    "sequences with labels of another length are Keras' to judge": ("sequence", (np.ones((N, 7, 4)), np.zeros((N, 6), int)), None),
    "a sequence with one label": ("sequence", (np.ones((N, 7, 4)), np.zeros(N, int)), r"labels have shape \(\)"),
    "images without channels": ("image", (np.ones((N, 8, 8)), CLASSES), None),
    "images of another size": ("image", (np.ones((N, 8, 9, 1)), CLASSES), r"\(8, 9, 1\), and the model takes \(8, 8, 1\)"),
    "two inputs and outputs": ("two", (PAIR, BOTH), None),
    "in a tuple": ("two", ((ONES, ONES[:, :2]), (CLASSES, ONES[:, :1])), None),
    "an input too few": ("two", ({"a": ONES}, BOTH), "x is a dict without some of the model's inputs: these are 'a', 'b'"),
    "one array for two": ("two", (ONES, BOTH), "x has one array, and the model takes 2 arrays: 'a', 'b'"),
    "inputs changed over": ("two", ((ONES[:, :2], ONES), BOTH), r"features for input 'a' have shape \(2,\)"),
    "an output too few": ("two", (PAIR, {"p": CLASSES}), "y is a dict without some of the model's outputs"),
    "one array of labels for two": ("two", (PAIR, CLASSES), "y has one array, and the model has outputs for 2 arrays"),
    "a class too many in one of two": ("two", (PAIR, BOTH | {"p": CLASSES + 1}), "a label of this owner of output 'p' is not from 0 to 2"),
    "labels of the other in one of two": ("two", (PAIR, BOTH | {"q": np.ones((N, 2, 2))}), r"labels of output 'q' have shape \(2, 2\)"),
}


def slices(part):
    return tf.data.Dataset.from_tensor_slices(part).batch(4)


@pytest.mark.parametrize("form", [Data, lambda part: Data(slices(part))], ids=["arrays", "tf.data"])
@pytest.mark.parametrize("name", CHECKS)
def test_what_a_model_takes(name, form):
    model, part, fault = CHECKS[name]
    if fault is None:
        expectations(model).check(form(part))
        return
    with pytest.raises(DataError, match=fault):
        expectations(model).check(form(part if not isinstance(part[0], list) else (tuple(part[0]), part[1])))


class Batches(keras.utils.PyDataset):
    """One batch of a part."""

    def __init__(self, part):
        super().__init__()
        self._part = part

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self._part


@pytest.mark.parametrize("name", ["features", "other features", "one-hot for numbers of classes", "a class too many"])
def test_the_first_batch_of_a_pydataset_is_looked_at(name):
    model, part, fault = CHECKS[name]
    if fault is None:
        expectations(model).check(Data(Batches(part)))
    else:
        with pytest.raises(DataError, match=fault):
            expectations(model).check(Data(Batches(part)))


@keras.saving.register_keras_serializable("test_misfits")
class OwnStep(keras.Model):
    """It trains in its own way, so nothing is expected of its data."""

    def train_step(self, data):
        return {"loss": 0.0}


def test_of_a_model_that_trains_in_its_own_way_nothing_is_expected():
    inputs = keras.Input((4,))
    model = OwnStep(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", "sparse_categorical_crossentropy")
    Expectations(model).check(Data((ONES[:, :3], np.ones((N, 7)))))


@pytest.mark.parametrize("odd", ["train", "evaluate", "own"])
async def test_evaluation_data_are_looked_at_as_well(odd):
    misfit = MISFITS["features"][1]
    owners = simulated_owners([GOOD[0]], evaluation=[misfit if odd == "evaluate" else GOOD[0]])
    federation = Federation(model=build, owners=owners, evaluation=misfit if odd == "own" else GOOD[0], progress=False)
    if odd == "own":
        with pytest.raises(DataError, match="the features have shape"):
            await federation.__aenter__()
        return
    async with federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert ("the features have shape (3,)" in outcome.faults.get("owner-0", "")) == (odd == "evaluate")

"""Integer weights stay as they are, so that an adapted `Normalization` can be the first layer; so do frozen ones under noise."""

import keras
import numpy as np
import pytest

from federated import (
    DPSGD,
    CentralGaussian,
    CoordinateMedian,
    DistributedGaussian,
    FedAdam,
    FedAvg,
    FedBuff,
    Federation,
    FedSGD,
    LocalGaussian,
    ModelRefused,
    PlainMean,
    SecureAggregation,
    TreeGaussian,
    Update,
    simulated_owners,
)
from federated.models import blueprint
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

RNG = np.random.default_rng(0)
X = RNG.normal(50.0, [1.0, 20.0, 300.0, 0.1], size=(60, 4)).astype(np.float32)
Y = ((X - X.mean(0)) / X.std(0)).sum(1, keepdims=True).astype(np.float32)
PARTS = [(X[i::5], Y[i::5]) for i in range(5)]
PRIVATE = {"max_epsilon": 1e5, "delta": 1e-5}


def build(shift=0.0):
    keras.utils.set_random_seed(1)
    normalization = keras.layers.Normalization(name="scaled")
    normalization.adapt(X + shift)
    model = keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


def by_hand():
    """The same model on data that are scaled by NumPy before."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), "mse")
    model.set_weights(build().get_weights()[-2:])
    return model


WAYS = {
    "plain": {},
    "secure": {"aggregation": SecureAggregation()},
    "FedSGD": {"strategy": FedSGD(eta=0.05)},
    "FedAdam": {"strategy": FedAdam()},
    "median": {"strategy": CoordinateMedian()},
    "FedBuff": {"strategy": FedBuff(buffer=2, concurrency=4)},
    "central noise": {"privacy": CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, **PRIVATE)},
    "local noise": {"privacy": LocalGaussian(clip_norm=1.0, noise_multiplier=1.0, **PRIVATE)},
    "tree noise": {"privacy": TreeGaussian(clip_norm=1.0, noise_multiplier=1.0, **PRIVATE)},
    "hidden noise": {
        "privacy": DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, **PRIVATE),
        "aggregation": SecureAggregation(clip=64.0, most_examples=1),
    },
    "private examples": {"privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5, **PRIVATE)},
}


LONG = ("FedAdam", "FedBuff", "central noise", "tree noise", "hidden noise", "private examples")


@pytest.mark.parametrize("way", [pytest.param(way, marks=[pytest.mark.long] * (way in LONG)) for way in WAYS])
async def test_an_adapted_normalization_trains_and_keeps_its_statistics(way):
    before = build().get_weights()
    assert [array.dtype.kind for array in before] == ["f", "f", "i", "f", "f"]
    async with Federation(model=build, owners=simulated_owners(PARTS), progress=False, **WAYS[way]) as federation:
        outcomes = [outcome async for outcome in federation.rounds(2)]
        after = federation.model.get_weights()
        predicted = federation.model.predict(X, verbose=0)
    assert all(outcome.failure is None for outcome in outcomes)
    assert {len(outcome.dropped) + len(outcome.rejected) for outcome in outcomes} == {0}
    for i in range(3):
        np.testing.assert_array_equal(after[i], before[i])
        assert after[i].dtype == before[i].dtype
    assert all((a != b).any() for a, b in zip(after[3:], before[3:], strict=True))
    scaled = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(predicted, scaled @ after[3] + after[4], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", ["plain", "secure", "FedSGD"])
async def test_it_learns_what_a_model_of_scaled_data_learns(way):
    settings = {"strategy": FedAvg(batch_size=None)} | WAYS[way]
    async with Federation(model=build, owners=simulated_owners(PARTS), progress=False, **settings) as federation:
        async for _ in federation.rounds(2):
            pass
        found = federation.model.get_weights()[-2:]
    central = by_hand()
    for _ in range(2):
        central.fit((X - X.mean(0)) / X.std(0), Y, batch_size=60, verbose=0)
    for a, b in zip(found, central.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


async def test_two_runs_at_one_owner_have_each_their_own_statistics():
    """What a layer made of its weights is in the graph of the step: another run's would be used in silence."""
    shared, updates = Trainer(), []
    for shift in (0.0, 100.0, 0.0):
        model = build(shift)
        task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(batch_size=None))
        updates.append(await shared.train(task, Data(PARTS[0]), evaluates=False))
        central = build(shift)
        central.fit(*PARTS[0], batch_size=12, verbose=0)
        np.testing.assert_allclose(updates[-1].delta[2], central.get_weights()[3] - task.weights[3], rtol=1e-4, atol=1e-5)
    await shared.close()
    assert (updates[0].delta[2] != updates[1].delta[2]).any()
    np.testing.assert_array_equal(updates[0].delta[2], updates[2].delta[2])


async def test_a_resumed_run_predicts_by_the_statistics_that_it_began_with(tmp_path):
    async def play(model, resume):
        owners = simulated_owners(PARTS)
        async with Federation(model=model, owners=owners, folder=tmp_path, resume=resume, evaluation=(X, Y), progress=False) as federation:
            async for outcome in federation.rounds(2 if resume else 1):
                yield outcome, federation.model.predict(X, verbose=0), federation.model.get_weights()

    ((_, _, first),) = [one async for one in play(build, resume=False)]
    ((outcome, predicted, weights),) = [one async for one in play(lambda: build(100.0), resume=True)]
    np.testing.assert_array_equal(weights[0], first[0])
    np.testing.assert_allclose(predicted, (X - weights[0]) / np.sqrt(weights[1]) @ weights[3] + weights[4], rtol=1e-3, atol=1e-3)
    assert outcome.metrics["test_loss"] == pytest.approx(float(np.mean((predicted - Y) ** 2)), rel=1e-3)


@keras.saving.register_keras_serializable("test_kept_weights")
class Counter(keras.layers.Layer):
    """It counts the steps in an integer of its own, and has a truth value."""

    def build(self, shape):
        self.steps = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.on = self.add_weight(shape=(2,), dtype="bool", initializer="zeros", trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.steps.assign(self.steps + 1)
        return inputs


def counting():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), Counter(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-5), "mse")
    return model


@pytest.mark.parametrize("way", ["plain", "secure", "FedSGD", "median"])
async def test_what_a_forward_pass_does_to_integers_stays_at_its_owner(way):
    async with Federation(model=counting, owners=simulated_owners(PARTS), progress=False, **WAYS[way]) as federation:
        outcomes = [outcome async for outcome in federation.rounds(2)]
        steps, on, *floats = federation.model.get_weights()
    assert all(len(outcome.reported) == 5 for outcome in outcomes)
    assert (int(steps), on.tolist(), steps.dtype, on.dtype) == (0, [False, False], np.int32, np.bool_)
    assert all((a != b).any() for a, b in zip(floats, counting().get_weights()[2:], strict=True))


async def test_an_update_with_integers_or_frozen_weights_in_it_is_rejected():
    class Other:
        def __init__(self, name, which):
            self.name, self._which = name, which

        async def train(self, task):
            return Update(task.round, [np.zeros_like(array) for array in self._which(task)], 1, {})

        async def evaluate(self, task):
            raise AssertionError

    owners = [Other("good", lambda task: task.changing), Other("bad", lambda task: task.weights)]
    async with Federation(model=build, owners=owners, aggregation=PlainMean(), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert "expected float32 (4, 1), float32 (1,)" in outcome.rejected["bad"]
    assert outcome.reported == ("good",)


def test_integers_that_are_trained_and_short_floats_are_refused_by_name():
    layer = keras.layers.Dense(1, dtype="float16", name="short")
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", "mse")
    with pytest.raises(ModelRefused, match=r"short/kernel' is float16: float32 and float64 can be averaged, and integers"):
        blueprint.draw(model)

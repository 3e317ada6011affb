"""Of several outputs each loss is the mean over examples: with it, the loss of all is their weighted sum, as Keras' own step has it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import FedAvg, Federation, FedSGD, SecureAggregation, simulated_owners
from federated.records.data import Data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4)).astype(np.float32)
X[32:] *= 10  # so that a smaller last batch is another
Y = {"a": RNG.normal(size=(40, 3)).astype(np.float32), "b": RNG.normal(size=(40, 2)).astype(np.float32)}
LOSS_WEIGHTS = {"a": 3.0, "b": 0.5}


def build(rate=0.0, **settings):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, {"a": keras.layers.Dense(3, name="a")(inputs), "b": keras.layers.Dense(2, name="b")(inputs)})
    model.compile(keras.optimizers.SGD(rate), {"a": "mse", "b": "mae"}, loss_weights=LOSS_WEIGHTS, **settings)
    return model


def part(start, end):
    return X[start:end], {name: values[start:end] for name, values in Y.items()}


async def told(owners, strategy, model=build, **more):
    async with Federation(model=model, owners=owners, strategy=strategy, progress=False, **more) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert outcome.failure is None, outcome
        return outcome.metrics


def exactly(model=None):
    """What `evaluate` tells of all examples in one batch."""
    return (model or build()).evaluate(X, Y, batch_size=40, verbose=0, return_dict=True)


FORMS = {
    "arrays, even": lambda: (X, Y),
    "arrays": lambda: (X, Y),
    "a data set": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(32),
}


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.sample(3)
async def test_one_owner_as_fit_tells_them(form, eager):
    """Beside a `fit` that runs eagerly: in a graph, Keras' own forgets the sizes of the batches."""
    size = 20 if form == "arrays, even" else 32
    found = await told(simulated_owners([FORMS[form]()]), FedAvg(batch_size=size), lambda: build(0.01, run_eagerly=eager))
    beside = build(0.01, run_eagerly=True)
    arrays = Data((X, Y)).shuffled([0, 1, 0, 0]).given if "arrays" in form else (X, Y)
    history = beside.fit(*arrays, batch_size=size, shuffle=False, verbose=0).history
    assert found == pytest.approx({name: values[-1] for name, values in history.items()}, rel=1e-4)
    assert found["loss"] == pytest.approx(sum(LOSS_WEIGHTS[name] * found[f"{name}_loss"] for name in Y), rel=1e-4)


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "hidden"])
async def test_owners_of_other_sizes_are_as_all_examples_together(hidden):
    more = {"aggregation": SecureAggregation(clip=4.0)} if hidden else {}
    parts = [part(0, 7), part(7, 27), part(27, 40)]
    owners = simulated_owners(parts, evaluation=[part(0, 3), part(3, 37), part(37, 40)])
    found = await told(owners, FedAvg(batch_size=8), **more)
    expected = exactly()
    assert found == pytest.approx(expected | {f"val_{name}": value for name, value in expected.items()}, rel=1e-4)


async def test_gradients_too():
    expected = exactly()
    assert await told(simulated_owners([part(0, 7), part(7, 40)]), FedSGD()) == pytest.approx(expected, rel=1e-4)

"""Steps of one's own get what `fit` and `evaluate` give them, whatever form the data of an owner has."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import DataError, FedAvg, Federation, FedSGD, simulated_owners
from federated.records.data import Data

RNG = np.random.default_rng(2)
X = RNG.normal(size=(40, 4))  # float64, which `fit` makes float32
Y = RNG.normal(size=(40, 2))
WEIGHTS = RNG.uniform(0.5, 2.0, 40)
registered = keras.saving.register_keras_serializable("own steps")


@registered
class Stepping(keras.Model):
    """Unpacks its data as Keras' guides do: two things, and three only where there are weights. One loss of its own, kept by itself."""

    def of(self, data, training):
        x, y, *weights = data
        assert len(data) == 2 + bool(weights)
        assert all(isinstance(one, tf.Tensor) and one.dtype == "float32" for one in tf.nest.flatten(data))
        outputs = self(x, training=training)
        errors = [keras.ops.mean((a - b) ** 2, axis=-1) for a, b in zip(tf.nest.flatten(y), tf.nest.flatten(outputs), strict=True)]
        shares = tf.nest.flatten(weights) or [1.0] * len(errors)
        return sum(keras.ops.mean(one * share) for one, share in zip(errors, shares, strict=True))

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.of(data, True)
        self.optimizer.apply_gradients(zip(tape.gradient(loss, self.trainable_variables), self.trainable_variables, strict=True))
        return {"loss": loss}

    def test_step(self, data):
        return {"loss": self.of(data, False)}


@registered
class TwoNames(Stepping):
    def train_step(self, data):
        x, y = data
        return super().train_step((x, y))

    def test_step(self, data):
        x, y = data
        return super().test_step((x, y))


@registered
class Losing(keras.Model):
    """A loss of its own, called by name as Keras' step does."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        assert sample_weight is None
        return 2 * keras.ops.mean((y - y_pred) ** 2)


def build(kind=Stepping, outputs=1, **settings):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    ends = {name: keras.layers.Dense(2, name=name)(inputs) for name in "ab"[:outputs]}
    model = kind(inputs, ends if outputs > 1 else ends["a"])
    model.compile(keras.optimizers.SGD(0.1), "mse", **settings)
    return model


async def played(model, data, strategy=None):
    """The weights after a round, and its outcome."""
    owners = simulated_owners([data], evaluation=[data])
    async with Federation(model=model, owners=owners, strategy=strategy or FedAvg(batch_size=16), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert outcome.failure is None, outcome
        assert outcome.faults == {}
        return federation.model.get_weights(), outcome


def rows(*parts):
    return tf.data.Dataset.from_tensor_slices(tuple(tf.nest.map_structure(lambda one: one.astype("float32"), one) for one in parts)).batch(
        16
    )


TWICE = {"a": Y, "b": -Y}
DATA = {
    "arrays": ((X, Y), 1),
    "arrays with weights": ((X, Y, WEIGHTS), 1),
    "two outputs": ((X, TWICE), 2),
    "two outputs with weights": ((X, TWICE, WEIGHTS), 2),
    "two outputs with weights of each": ((X, TWICE, {"a": WEIGHTS, "b": WEIGHTS**2}), 2),
    "a data set": (rows(X, Y), 1),
    "a data set with weights": (rows(X, Y, WEIGHTS), 1),
}


@pytest.mark.parametrize("eager", [False, True], ids=["graph", "eager"])
@pytest.mark.parametrize("name", DATA)
@pytest.mark.sample(6)
async def test_own_steps_move_and_evaluate_as_with_fit(name, eager):
    data, outputs = DATA[name]
    weights, outcome = await played(lambda: build(outputs=outputs, run_eagerly=eager), data)
    beside = build(outputs=outputs, run_eagerly=eager)
    if isinstance(data, tuple):
        x, y, weights_of_examples = Data(data).shuffled([0, 1, 0, 0])
        beside.fit(x, y, sample_weight=weights_of_examples, batch_size=16, shuffle=False, verbose=0)
    else:
        beside.fit(data, shuffle=False, verbose=0)
    for found, expected in zip(weights, beside.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    given = data if isinstance(data, tuple) else (data,)
    evaluated = beside.evaluate(*given[:2], **{"sample_weight": given[2]} if len(given) > 2 else {}, verbose=0, return_dict=True)
    (told,) = (value for key, value in outcome.metrics.items() if key.startswith("val_loss"))
    assert told == pytest.approx(evaluated["loss"], rel=1e-5)


@pytest.mark.parametrize("form", ["arrays", "a data set"])
async def test_a_step_that_unpacks_two_things(form):
    data = (X, Y) if form == "arrays" else rows(X, Y)
    _, outcome = await played(lambda: build(TwoNames), data)
    assert len(outcome.reported) == 1


@pytest.mark.parametrize("strategy", [FedAvg(batch_size=None), FedSGD()], ids=lambda one: type(one).__name__)
async def test_a_loss_of_ones_own_gets_no_weights_that_nobody_gave(strategy):
    weights, _ = await played(lambda: build(Losing), (X, Y), strategy)
    beside = build(Losing)
    beside.fit(X, Y, batch_size=40, shuffle=False, verbose=0)
    if isinstance(strategy, FedAvg):
        np.testing.assert_allclose(weights[0], beside.get_weights()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data", [(X,), X, rows(X), rows(X).map(lambda x: x)], ids=["a tuple of one", "an array", "a tuple set", "a set"])
def test_inputs_alone_are_refused_before_anything_runs(data):
    with pytest.raises(DataError, match=r"x, x|\(x, y\)"):
        Data(data)

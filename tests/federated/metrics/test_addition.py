"""Which metrics are summed, and what is said of the others."""

import keras
import numpy as np
import pytest

from federated import FedAvg, Federation, SecureAggregation, simulated_owners
from federated.metrics.meter import Meter
from federated.models.blueprint import draw

M = keras.metrics
X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X.sum(1, keepdims=True) > 0).astype(np.float32)


class Own(M.Metric):
    """A metric of one's own with one state."""

    def __init__(self, name=None, **more):
        super().__init__(name=name or type(self).__name__.lower(), **more)
        self.state = self.add_weight(shape=(), initializer="zeros", name="state")

    def result(self):
        return self.state


@keras.saving.register_keras_serializable("tests")
class Largest(Own):
    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign(keras.ops.maximum(self.state, keras.ops.max(predictions)))


@keras.saving.register_keras_serializable("tests")
class Smallest(Own):
    def __init__(self, **more):
        super().__init__(**more)
        self.state.assign(1e9)

    def reset_state(self):
        self.state.assign(1e9)

    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign(keras.ops.minimum(self.state, keras.ops.min(predictions)))


@keras.saving.register_keras_serializable("tests")
class Fading(Own):
    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign(0.9 * self.state + 0.1 * keras.ops.mean(predictions))


@keras.saving.register_keras_serializable("tests")
class Last(Own):
    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign(keras.ops.mean(predictions))


@keras.saving.register_keras_serializable("tests")
class Norm(Own):
    """The root is in the state."""

    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign(keras.ops.sqrt(self.state**2 + keras.ops.sum(predictions**2)))


@keras.saving.register_keras_serializable("tests")
class Elsewhere(Own):
    """What it tells is not in its states."""

    def __init__(self, **more):
        super().__init__(**more)
        self.seen = 0.0

    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign_add(1.0)
        self.seen = self.seen + 2.0

    def result(self):
        return self.state + self.seen


@keras.saving.register_keras_serializable("tests")
class Total(Own):
    def update_state(self, y, predictions, sample_weight=None):
        self.state.assign_add(keras.ops.sum(predictions))


ADD = [
    Total(),
    M.MeanAbsoluteError(name="mae"),
    M.AUC(num_thresholds=10, name="auc"),
    M.PrecisionAtRecall(0.5, num_thresholds=10, name="pr"),
    M.R2Score(name="r2"),
    M.RootMeanSquaredError(name="rmse"),
    M.MeanIoU(2, name="iou"),
    M.F1Score(threshold=0.5, name="f1"),
    M.LogCoshError(name="logcosh"),
    M.CosineSimilarity(name="cosine"),
    M.Hinge(name="hinge"),
    M.KLDivergence(name="kl"),
    M.TrueNegatives(thresholds=[0.2, 0.8], name="tn"),
]
NOT = [Largest(), Smallest(), Fading(), Last(), Norm(), Elsewhere()]


def build(metrics):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(
        keras.optimizers.SGD(0.0),
        "binary_crossentropy",
        metrics=[one if isinstance(one, str) else type(one).from_config(one.get_config()) for one in metrics],
    )
    return model


def test_what_adds_is_found():
    model = build([*ADD, *NOT])
    layout = Meter(model, draw(model)).layout
    asked = {name for name, size in zip(layout.names, layout.sizes, strict=True) if size}
    assert asked == {"loss", *(metric.name for metric in ADD)}
    assert set(layout.names) - asked == {metric.name for metric in NOT}
    assert layout.length == len(layout.counts)


@pytest.mark.parametrize("aggregation", [None, SecureAggregation()], ids=["plain", "secure"])
async def test_a_mean_of_owners_is_called_one(aggregation):
    parts = [(X[:20], Y[:20]), (X[20:30], Y[20:30]), (X[30:], Y[30:])]
    metrics = [Largest(), M.AUC(name="auc")]
    owners = simulated_owners(parts, evaluation=parts)
    federation = Federation(
        model=lambda: build(metrics), owners=owners, aggregation=aggregation, strategy=FedAvg(batch_size=8), progress=False
    )
    async with federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    whole = build(metrics).evaluate(X, Y, verbose=0, return_dict=True)
    each = [build(metrics).evaluate(*part, verbose=0, return_dict=True)["largest"] for part in parts]
    mean = np.average(each, weights=[20, 10, 30])
    for prefix in ("", "val_"):
        assert outcome.metrics[f"{prefix}largest_mean_of_owners"] == pytest.approx(mean, rel=1e-4)
        assert outcome.metrics[f"{prefix}auc"] == pytest.approx(whole["auc"], rel=1e-5)
        assert f"{prefix}largest" not in outcome.metrics


async def test_the_global_model_is_left_as_it_was():
    """Finding out what adds shows nothing to the metrics of the user's model."""
    async with Federation(model=lambda: build([*ADD[:3], "accuracy"]), owners=simulated_owners([(X, Y)]), progress=False) as federation:
        async for _ in federation.rounds(1):
            pass
        expected = build([*ADD[:3], "accuracy"])
        expected.set_weights(federation.model.get_weights())
        found, other = (one.evaluate(X, Y, verbose=0, return_dict=True) for one in (federation.model, expected))
        assert {name: float(np.squeeze(value)) for name, value in found.items()} == pytest.approx(
            {name: float(np.squeeze(value)) for name, value in other.items()}
        )

"""Evaluations that fail or are no numbers are named, and what they cost is counted."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import Evaluation, FedAvg, Federation, SecureAggregation, Update, simulated_owners

X, Y = np.ones((64, 4), np.float32), np.zeros((64, 1), np.float32)


def build(metrics=("mae",)):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.001), "mse", metrics=list(metrics))
    return model


ODD = {
    "wrong shape": ((X[:, :2], Y), "its evaluation does not count: DataError: the features have shape (2,), and the model"),
    "NaN": ((X * np.nan, Y), "its evaluation does not count: its loss is not finite"),
    "NaN in one batch": (
        tf.data.Dataset.from_tensor_slices((np.r_[X, X[:1] * np.nan], np.r_[Y, Y[:1]])).batch(32),
        "its loss is not finite",
    ),
    "infinite labels": ((X, Y + np.inf), "its loss is not finite"),
}


@pytest.mark.parametrize("aggregation", [None, SecureAggregation()], ids=["plain", "secure"])
@pytest.mark.parametrize("odd", ODD)
async def test_who_and_what_is_in_the_outcome(odd, aggregation):
    data, why = ODD[odd]
    if aggregation is not None and odd != "NaN":
        pytest.skip("evaluations do not depend on how updates are summed: once is enough")
    owners = simulated_owners([(X, Y)] * 3, evaluation=[data, (X, Y), (X, Y)])
    async with Federation(model=build, owners=owners, aggregation=aggregation, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.failure is None
    assert set(outcome.faults) == {"owner-0"}
    assert why in outcome.faults["owner-0"]
    assert outcome.evaluators == ("owner-0", "owner-1", "owner-2")
    assert outcome.evaluated == ("owner-1", "owner-2")
    assert "3 of 3 owners, 1 at fault, 2 of 3 evaluated, loss" in str(outcome)
    model = build()
    model.set_weights(federation.model.get_weights())
    assert outcome.metrics["val_loss"] == pytest.approx(model.evaluate(X, Y, verbose=0)[0], rel=1e-4)


async def test_nobody_left_to_evaluate_is_said_too():
    owners = simulated_owners([(X, Y)] * 2, evaluation=[(X * np.nan, Y)] * 2)
    async with Federation(model=build, owners=owners, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert set(outcome.faults) == {"owner-0", "owner-1"}
    assert "0 of 2 evaluated" in str(outcome)
    assert not any(name.startswith("val_") for name in outcome.metrics)


async def test_a_run_with_a_metric_that_is_no_number_can_be_resumed(tmp_path):
    more = {"model": build, "folder": tmp_path, "progress": False, "evaluation": (X * np.nan, Y)}
    async with Federation(owners=simulated_owners([(X, Y)]), **more) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert np.isnan(outcome.metrics["test_loss"])
    async with Federation(owners=simulated_owners([(X, Y)]), **more, resume=True) as federation:
        assert np.isnan(federation.history[0].metrics["test_loss"])
        assert federation.history[0].metrics["loss"] == outcome.metrics["loss"]


async def test_an_owner_with_a_metric_that_is_no_number_costs_itself_only():
    """Its weights are finite; the metric is not, for its labels are what the metric cannot take."""
    bad = Y.copy()
    bad[3] = np.nan

    @keras.saving.register_keras_serializable("tests")
    def constant(y, predictions):
        return keras.ops.mean(predictions)  # a loss that looks at no label

    def model():
        made = build()
        made.compile(keras.optimizers.SGD(0.001), constant, metrics=["mae"])
        return made

    for aggregation in (None, SecureAggregation(threshold=0.5)):
        owners = simulated_owners([(X, Y), (X, bad), (X, Y), (X, Y)])
        async with Federation(model=model, owners=owners, aggregation=aggregation, progress=False) as federation:
            (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert {**outcome.rejected, **outcome.dropped}.keys() == {"owner-1"}
        assert len(outcome.reported) == 3
        assert np.isfinite(list(outcome.metrics.values())).all()
    plain = {**outcome.rejected, **outcome.dropped}["owner-1"]
    assert "not finite" in plain


@pytest.mark.parametrize("evaluating", [0, 1, 3])
async def test_bytes_of_evaluations_are_counted(evaluating):
    owners = simulated_owners([(X, Y)] * 3, evaluation=[(X, Y) if i < evaluating else None for i in range(3)])
    async with Federation(model=build, owners=owners, strategy=FedAvg(), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    weights, states = 5 * 4, 4 * 4  # totals and counts of the loss and the mean absolute error
    assert outcome.bytes == 3 * (2 * weights + states) + evaluating * (weights + states)


class Evaluating:
    """An owner whose evaluations are as scripted."""

    def __init__(self, name, answer):
        self.name, self._answer = name, answer

    async def train(self, task):
        return Update(task.round, [np.ones_like(array) for array in task.weights], 1, {}, evaluates=True)

    async def evaluate(self, task):
        return self._answer(task)


async def test_evaluations_that_cannot_be_are_refused_by_name():
    def answer(states, **metrics):
        return lambda task: Evaluation(task.round, 10, metrics, np.array(states, np.float32))

    answers = {
        "fine": answer([30, 10, 20, 10]),
        "values": answer([], loss=5.0),
        "short": answer([30, 10]),
        "negative": answer([30, -10, 20, 10]),
        "nan": answer([30, 10, np.nan, 10]),
        "name": answer([], **{"a\nb": 1.0}),
    }
    owners = [Evaluating(name, one) for name, one in answers.items()]
    async with Federation(model=build, owners=owners, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert set(outcome.faults) == {"short", "negative", "nan", "name"}
    assert outcome.evaluated == ("fine", "values")
    assert outcome.metrics["val_loss"] == 3.0
    assert outcome.metrics["val_loss_mean_of_owners"] == 5.0
    assert outcome.metrics["val_mae"] == 2.0

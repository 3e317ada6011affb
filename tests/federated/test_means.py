"""Means against exact fractions, and memory that does not grow with the owners."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated import Update
from federated.tasks.means import MetricsMean, RunningMean

VALUES = st.floats(-1e6, 1e6, width=32)


def update(values, examples=1, **metrics):
    return Update(1, [np.array(values, np.float32)], examples, metrics)


@given(st.lists(st.tuples(st.lists(VALUES, min_size=3, max_size=3), st.integers(1, 10**6)), min_size=1, max_size=8))
def test_the_mean_weighted_by_examples(owners):
    tally = RunningMean([np.zeros(3, np.float32)])
    for values, examples in owners:
        tally.add(update(values, examples))
    total = sum(examples for _, examples in owners)
    exact = [float(sum(Fraction(values[k]) * examples for values, examples in owners) / total) for k in range(3)]
    (mean,) = tally.result()
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, exact, rtol=1e-12, atol=1e-8)


def test_the_running_mean_keeps_no_update():
    tally = RunningMean([np.zeros(2, np.float32)])
    sent = update([1.0, 2.0])
    tally.add(sent)
    sent.delta[0][:] = 99
    assert tally.result()[0].tolist() == [1.0, 2.0]


def test_metrics_are_weighted_and_the_loss_is_first():
    mean = MetricsMean()
    mean.add({"accuracy": 1.0, "loss": 2.0}, 1)
    mean.add({"accuracy": 0.0, "loss": 4.0, "auc": 0.5}, 3)
    assert list(mean.result().items()) == [("loss", pytest.approx(3.5)), ("accuracy", 0.25), ("auc", 0.5)]

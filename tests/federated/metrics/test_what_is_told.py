"""What owners tell of their metrics is compared with what they were asked: who tells something else is named, and costs itself only."""

import contextlib

import keras
import numpy as np
import pytest

from federated import (
    Evaluation,
    Federation,
    OwnGiver,
    OwnMasker,
    PlainMean,
    SecureAggregation,
    SharedAggregation,
    Update,
    UpdateRejected,
)
from federated.metrics.layout import StateLayout
from federated.metrics.limits import LOSS
from federated.metrics.meter import Meter
from federated.models.blueprint import draw
from federated.owners.hiding import fault_of_told
from federated.rounds.rounds import RoundBook
from federated.tasks.update import Blueprint, Bound, LocalTraining, Task
from protocols import Cluster, Worker

M = keras.metrics
N = 10
FINE = [5.0, N, 4.0, N]
"""Loss 0.5 and accuracy 0.4 of ten examples."""


def build(metrics=("accuracy",), weighted=(), last=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), last or keras.layers.Dense(3, activation="softmax")])
    loss = "sparse_categorical_crossentropy" if last is None else "mse"
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=list(metrics), weighted_metrics=list(weighted) or None)
    return model


def layout_of(*args, **more):
    model = build(*args, **more)
    return Meter(model, draw(model)).layout


class Telling:
    """An owner whose update moves each weight by 1, and that tells what it is given."""

    def __init__(self, name, states=FINE, metrics=None, examples=N, evaluation=None):
        self.name, self.states, self.metrics, self.examples = name, np.array(states, np.float32), dict(metrics or {}), examples
        self.evaluation = evaluation
        self._masker, self._giver = OwnMasker(self.train), OwnGiver(self.train)

    async def train(self, task):
        delta = [np.ones_like(array) for array in task.weights]
        return Update(task.round, delta, self.examples, self.metrics, self.evaluation is not None, self.states)

    async def evaluate(self, task):
        return Evaluation(task.round, self.examples, *self.evaluation)

    async def masker(self):
        return self._masker

    async def giver(self):
        return self._giver


PLAIN = {
    "names": ({"states": [], "metrics": {"loss": 0.5, "f1": 0.9}}, "its metrics are loss, f1; expected loss, accuracy"),
    "values beside states": ({"metrics": {"accuracy": 0.9}}, "its metrics are accuracy; expected no values beside their states"),
    "a size": ({"states": FINE[:3]}, r"the states of its metrics are float32 \(3,\); expected float32 \(4,\)"),
    "a sum that is not finite": ({"states": [np.inf, N, 4, N]}, "its loss is not finite"),
    "a value that is not finite": ({"states": [], "metrics": {"loss": np.nan}}, "its loss is not finite"),
    "a value that no mean holds": ({"states": [], "metrics": {"loss": 1e40}}, r"its loss is beyond 1e\+30"),
    "a count above its examples": ({"states": [5, N + 1, 4, N]}, f"its loss counts more than {N} examples have"),
    "an accuracy of more than it has": ({"states": [5, N, 400, 400]}, f"its accuracy counts more than {N} examples have"),
    "an accuracy above 1": ({"states": [5, N, 8, 4]}, "its accuracy is above 1"),
    "right answers below 0": ({"states": [5, N, -8, N]}, "its accuracy has counts below 0"),
    "a name that is none": ({"states": [], "metrics": {"los\ns": 0.5}}, "not printable"),
    "too many": ({"states": [], "metrics": {f"m{i}": 0.5 for i in range(1100)}}, "it tells 1100 values of metrics"),
}


async def played(owners, aggregation, metrics=("accuracy",), rounds=1):
    model = lambda: build(metrics)  # noqa: E731
    async with Federation(model=model, owners=owners, aggregation=aggregation, quorum=0.3, progress=False) as federation:
        outcomes = [outcome async for outcome in federation.rounds(rounds)]
        return outcomes, federation.model.get_weights()[1]


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("name", PLAIN)
async def test_it_is_named_and_costs_itself_only(name, place):
    told, why = PLAIN[name]
    good = [Telling(f"good-{i}") for i in range(3)]
    (outcome,), bias = await played([*good[:place], Telling("odd", **told), *good[place:]], PlainMean())
    assert list(outcome.rejected) == ["odd"]
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(outcome.rejected["odd"])
    assert outcome.reported == ("good-0", "good-1", "good-2")
    assert outcome.metrics == pytest.approx({"loss": 0.5, "accuracy": 0.4})
    np.testing.assert_allclose(bias, 1.0)


@pytest.mark.parametrize(
    ("states", "metrics", "why"),
    [
        ([5, 2 * N, 4, N], {}, f"its loss counts more than {N} examples have"),
        ([], {"loss": 0.5, "auc": 0.5}, "its metrics are loss, auc; expected loss, accuracy"),
        (FINE, {"loss": 0.5}, "expected no values beside their states"),
    ],
)
async def test_evaluations_too(states, metrics, why):
    odd = Telling("odd", evaluation=(metrics, np.array(states, np.float32)))
    good = Telling("good", evaluation=({}, np.array(FINE, np.float32)))
    (outcome,), _ = await played([odd, good], PlainMean())
    assert why in outcome.faults["odd"]
    assert outcome.evaluated == ("good",)
    assert outcome.metrics["val_accuracy"] == pytest.approx(0.4)


@pytest.mark.parametrize("told", [{}, {"states": []}, {"states": [], "metrics": {"loss": 0.5, "accuracy": 0.4}}, {"states": [5, 9, 4, 9]}])
async def test_what_was_asked_counts(told):
    """The states; or nothing; or plain values, of an owner of one's own; or fewer than it has, which a mask can hide."""
    (outcome,), bias = await played([Telling("one", **told)], PlainMean())
    assert outcome.reported == ("one",)
    np.testing.assert_allclose(bias, 1.0)


# Hidden sums.


@contextlib.asynccontextmanager
async def shared():
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as servers:
        yield SharedAggregation(servers)


@contextlib.asynccontextmanager
async def secure():
    yield SecureAggregation(threshold=0.5)


HIDDEN = {
    "names": ({"states": [], "metrics": {"f1": 0.9}}, "its metrics are f1; expected loss, accuracy"),
    "values beside states": ({"metrics": {"accuracy": 0.9}}, "its metrics are accuracy; expected no values beside their states"),
    "a size": ({"states": FINE[:2]}, "2 values; "),
}
WAYS = {"secure": secure, "shared": shared}


@pytest.mark.parametrize("way", WAYS)
async def test_the_first_owner_does_not_say_for_all_what_is_summed(way):
    """Whoever tells something else is first, and slower ones are others."""
    async with WAYS[way]() as aggregation:
        for told, why in HIDDEN.values():
            owners = [Telling("odd", **told), *(Telling(f"good-{i}") for i in range(3))]
            (outcome,), bias = await played(owners, aggregation)
            lost = {**outcome.dropped, **outcome.rejected}
            assert list(lost) == ["odd"]
            assert why in lost["odd"]
            assert outcome.metrics == pytest.approx({"loss": 0.5, "accuracy": 0.4}, abs=1e-4)
            np.testing.assert_allclose(bias, 1.0, atol=1e-5)


@keras.saving.register_keras_serializable("told")
class Own(keras.Sequential):
    """Tells what it likes."""

    def get_metrics_result(self):
        return {"quality": 0.5, "speed": 2.0}


def of_its_own():
    model = Own([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    return model


async def of_values(owners):
    """The outcome, and how far the weights have moved, of a round of a model that tells what it likes."""
    async with shared() as aggregation, Federation(model=of_its_own, owners=owners, aggregation=aggregation, progress=False) as federation:
        outcome = await anext(federation.rounds(1))
        return outcome, federation.model.get_weights()[1] - of_its_own().get_weights()[1]


ORDERS = [("speed", "quality"), *(pytest.param(one, marks=pytest.mark.long) for one in (("quality", "size"), ("quality",), ()))]


@pytest.mark.parametrize("order", ORDERS)
async def test_values_of_several_kinds_are_not_summed(order):
    """Here nobody knows beforehand what a model's class tells: weights count, and no value is told that is of several."""
    values = {"quality": 0.5, "speed": 2.0, "size": 4.0}
    odd = Telling("odd", states=[], metrics={name: values[name] for name in order})
    good = [Telling(f"good-{i}", states=[], metrics={"quality": 0.5, "speed": 2.0}) for i in range(3)]
    outcome, bias = await of_values([odd, *good])
    np.testing.assert_allclose(bias, 1.0, atol=1e-5)
    assert set(outcome.reported) == {"odd", "good-0", "good-1", "good-2"}
    assert not outcome.metrics
    assert list(outcome.faults) == ["odd"]
    assert "those of most owners are quality, speed: their sum means nothing" in outcome.faults["odd"]


async def test_values_of_one_kind_are():
    good = [Telling(f"good-{i}", states=[], metrics={"quality": 0.5 + i, "speed": 2.0}) for i in range(3)]
    outcome, _ = await of_values(good)
    assert list(outcome.metrics.values()) == pytest.approx([1.5, 2.0], abs=1e-3)
    assert not outcome.faults


async def test_a_hidden_sum_that_counts_more_than_all_examples_fails():
    owners = [*(Telling(f"good-{i}") for i in range(3)), Telling("odd", states=[5, N, 4, 100 * N])]
    (outcome,), _ = await played(owners, SecureAggregation())
    assert "the sum of the states of metrics is one that they cannot have" in outcome.failure


@pytest.mark.parametrize(
    ("training", "names", "states", "fine"),
    [
        (LocalTraining(bound=Bound(1.0, counts=True)), ("within",), 0, True),
        (LocalTraining(bound=Bound(1.0, counts=True)), (), 0, False),
        (LocalTraining(bound=Bound(1.0, counts=True)), ("loss",), 0, False),
        (LocalTraining(bound=Bound(1.0, counts=True)), ("within", "loss"), 0, False),
        (LocalTraining(bound=Bound(1.0, counts=True)), ("within",), 4, False),
        (LocalTraining(bound=Bound(1.0)), (), 0, True),
        (LocalTraining(bound=Bound(1.0)), ("within",), 0, False),
    ],
)
def test_private_rounds_know_what_is_told(training, names, states, fine):
    """The clip norm adapts to the share of updates within it: a sum of something else would move it."""
    task = Task(1, Blueprint("", ""), [], training)
    assert (fault_of_told(names, states, task, StateLayout()) is None) == fine


# What is known of the metrics of a model.


def test_limits_of_metrics():
    inf = np.inf
    assert layout_of().most == (inf, 1.0, 3.0, 3.0)
    assert layout_of().shares == (False, False, True, False)
    assert layout_of().counts == (False, True, True, True)
    assert layout_of([M.SparseCategoricalAccuracy(name="top"), M.SparseCategoricalCrossentropy(name="ce")]).most[2:] == (3, 3, inf, 3)
    assert layout_of(["accuracy"], weighted=["accuracy"]).most == (inf, 1.0, inf, inf, inf, inf)
    two = keras.layers.Dense(2, activation="sigmoid")
    found = layout_of([M.AUC(num_thresholds=3, name="auc"), M.F1Score(name="f1"), M.RootMeanSquaredError(name="rmse")], last=two)
    assert found.names == ("loss", "auc", "f1", "rmse")
    assert found.values == (("loss",), ("auc",), ("f1_0", "f1_1"), ("rmse",))
    assert found.most[2:14] == (2.0,) * 12
    assert found.most[-2:] == (inf, 2.0)


def test_a_function_of_ones_own_may_count_what_it_likes():
    @keras.saving.register_keras_serializable("told")
    def pairs(truth, predicted):
        return predicted[:, None] - predicted[None, :]

    assert layout_of([M.MeanMetricWrapper(pairs, name="pairs")]).most[2:] == (np.inf, np.inf)


def test_counts_beyond_float32_are_let_pass():
    """Sums of threes at 2^25 are rounded to multiples of four."""
    layout = StateLayout(("loss",), (2,), (False, True), tuple(one.most for one in LOSS))
    assert layout.fault(np.array([1.0, 1.3 * 2**25], np.float32), 2**25) is None
    assert layout.fault(np.array([1.0, 1.3 * 2**20], np.float32), 2**20) == f"its loss counts more than {2**20} examples have"


def test_names_of_metrics_that_have_several_values():
    layout = StateLayout(("loss", "f1"), (2, 0), (False, True), values=(("loss",), ("f1_0", "f1_1")))
    for names, states, fine in [
        (("f1_0", "f1_1"), True, True),
        (("f1_0",), True, True),
        ((), True, True),
        (("loss", "f1_0", "f1_1"), False, True),
        (("loss", "f1_0"), True, False),
        (("f1_0", "f1_2"), True, False),
        (("f1",), False, False),
        (("f1_0", "f1_0"), True, False),
    ]:
        assert (layout.fault_of_names(names, states=states) is None) == fine, (names, states)


def test_a_second_kind_of_owner_is_refused_in_the_book():
    book = RoundBook(1, ["a"], quorum=1, weights=[np.zeros(3, np.float32)], layout=layout_of())
    with pytest.raises(UpdateRejected, match="its accuracy is above 1"):
        book.report("a", Update(1, [np.zeros(3, np.float32)], N, {}, False, np.array([5, N, 8, 4], np.float32)), now=0.0)

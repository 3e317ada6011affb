"""One contract for all aggregations: the mean of the updates that count, whoever fails, and nothing when too few are left."""

import contextlib

import numpy as np
import pytest

from federated import OwnGiver, OwnMasker, PlainMean, SecureAggregation, SharedAggregation, Update
from federated.rounds.gathering import Gathering
from federated.rounds.rounds import RoundBook, Standing
from federated.tasks.update import Blueprint, LocalTraining, Task
from protocols import Cluster, Worker

TASK = Task(7, Blueprint("", ""), [np.zeros((2, 3), np.float32), np.zeros(4, np.float32), np.zeros((), np.float32)], LocalTraining())
FORMS = ["plain", "secure", "shared"]


@contextlib.asynccontextmanager
async def aggregation(form, **settings):
    if form.startswith("shared"):
        workers = [Worker("localhost:0") for _ in range(3)]
        three_equals = form == "shared, three equals"
        async with Cluster(*workers) if three_equals else Cluster(*workers[:2], crypto_provider=workers[2]) as cluster:
            yield SharedAggregation(cluster, **settings)
    else:
        yield PlainMean() if form == "plain" else SecureAggregation(threshold=0.5, **settings)


class Owner:
    """Gives an update of its own; or fails."""

    def __init__(self, number, *, examples=1, value=None, fails=None):
        self.name, self.examples, self.fails = f"owner-{number}", examples, fails
        rng = np.random.default_rng(number)
        self.delta = [np.asarray(rng.normal(size=a.shape) if value is None else np.full(a.shape, value), np.float32) for a in TASK.weights]
        self.metrics = {"loss": float(rng.uniform()), "accuracy": float(rng.uniform())}
        self._masker, self._giver = OwnMasker(self.train), OwnGiver(self.train)

    async def train(self, task):
        if self.fails is not None:
            raise self.fails
        return Update(task.round, self.delta, self.examples, self.metrics, evaluates=True)

    async def evaluate(self, task):
        raise AssertionError

    async def masker(self):
        return self._masker

    async def giver(self):
        return self._giver


def gathering(owners, quorum=1):
    book = RoundBook(7, [owner.name for owner in owners], quorum=quorum, weights=TASK.weights)
    return Gathering(book, {owner.name: owner for owner in owners}, TASK, progress=lambda _: None)


def assert_mean(found, owners):
    weights = [owner.examples for owner in owners]
    for i, array in enumerate(found.delta):
        assert array.shape == TASK.weights[i].shape
        mean = np.average([owner.delta[i].astype(np.float64) for owner in owners], axis=0, weights=weights)
        np.testing.assert_allclose(array, mean, rtol=0, atol=1e-6)
    assert found.examples == sum(weights)
    for name in ("loss", "accuracy"):
        assert found.metrics[name] == pytest.approx(np.average([owner.metrics[name] for owner in owners], weights=weights), abs=1e-3)
    assert {owner.name for owner in found.evaluators} == {owner.name for owner in owners}


@pytest.mark.parametrize("form", [*FORMS, "shared, three equals"])
async def test_the_mean_weighted_by_examples(form):
    owners = [Owner(i, examples=10**i) for i in range(6)]
    async with aggregation(form) as one:
        for _ in range(2):  # a form can be used for round after round
            asked = gathering(owners)
            assert_mean(await one.gather(asked, single_updates=False), owners)
            assert asked.book.having(Standing.REPORTED) == [owner.name for owner in owners]
            assert asked.bytes >= 6 * 2 * 4 * 11


@pytest.mark.parametrize("form", FORMS)
async def test_an_owner_that_fails_is_named_and_costs_itself_only(form):
    owners = [Owner(i) for i in range(5)] + [Owner(5, fails=OSError("disk full")), Owner(6, value=np.nan)]
    async with aggregation(form) as one:
        asked = gathering(owners)
        assert_mean(await one.gather(asked, single_updates=False), owners[:5])
    assert "failed (OSError)" in asked.book.reasons["owner-5"]
    assert "disk full" not in asked.book.reasons["owner-5"]
    assert "not finite" in asked.book.reasons["owner-6"]
    assert set(asked.book.reasons) == {"owner-5", "owner-6"}


@pytest.mark.parametrize("form", FORMS)
async def test_too_few_give_nothing_and_the_next_round_is_whole(form):
    owners = [Owner(i) for i in range(6)]
    async with aggregation(form) as one:
        for owner in owners[:3]:
            owner.fails = OSError("away")
        asked = gathering(owners, quorum=4)
        assert await one.gather(asked, single_updates=False) is None
        assert "owners reported and 4 are needed" in asked.book.failure
        for owner in owners:
            owner.fails = None
        assert_mean(await one.gather(gathering(owners, quorum=4), single_updates=False), owners)


@pytest.mark.parametrize("form", FORMS)
def test_what_it_says_of_itself(form):
    kind = {"plain": PlainMean, "secure": SecureAggregation, "shared": SharedAggregation}[form]
    assert kind.hides_updates == (form != "plain")
    assert kind.asynchronous == (form != "secure")

"""Asynchronous rounds: K updates make a round, old ones count less, and nobody waits for the slowest."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated import FedBuff, Federation, PlainMean, SettingError, Update, partition, simulated_owners


class Paced:
    """An owner that answers when it is told to."""

    def __init__(self, name, value=1.0, examples=1):
        self.name, self.value, self.examples = name, value, examples
        self.tasks = asyncio.Queue()
        self.go = asyncio.Queue()

    async def train(self, task):
        self.tasks.put_nowait(task)
        await self.go.get()
        return Update(task.round, [np.full_like(w, self.value) for w in task.weights], self.examples, {"loss": self.value})

    async def evaluate(self, task):
        raise AssertionError


def shift(federation, build):
    """How far every weight has moved."""
    moves = [a - b for a, b in zip(federation.model.get_weights(), build().get_weights(), strict=True)]
    value = float(moves[0].ravel()[0])
    assert all(np.allclose(move, value, atol=1e-6) for move in moves)
    return value


async def test_stale_updates_are_discounted_as_the_paper_says(build):
    fast, other, slow = owners = [Paced("fast", 1.0, examples=2), Paced("other", 3.0), Paced("slow", 10.0, examples=3)]
    strategy = FedBuff(buffer=1, concurrency=3, eta=0.5, staleness=0.5)
    federation = Federation(model=build, owners=owners, strategy=strategy, deadline=None)
    async with federation:
        rounds = federation.rounds(3)
        playing = asyncio.ensure_future(anext(rounds))
        for owner in owners:
            assert (await owner.tasks.get()).round == 1
        fast.go.put_nowait(None)
        assert (await playing).reported == ("fast",)
        assert shift(federation, build) == pytest.approx(0.5 * 1.0, abs=1e-5)
        playing = asyncio.ensure_future(anext(rounds))
        assert (await fast.tasks.get()).round == 2
        other.go.put_nowait(None)  # asked in round 1, counts in round 2
        await playing
        assert shift(federation, build) == pytest.approx(0.5 + 0.5 * 3.0 * 2**-0.5, abs=1e-5)
        slow.go.put_nowait(None)
        outcome = await anext(rounds)
        assert shift(federation, build) == pytest.approx(0.5 + 1.5 * 2**-0.5 + 5.0 * 3**-0.5, abs=1e-5)
    assert (outcome.reported, outcome.examples, outcome.failure) == (("slow",), 3, None)


async def test_the_mean_is_weighted_by_examples(build):
    owners = [Paced("a", 1.0, examples=3), Paced("b", 5.0, examples=1)]
    federation = Federation(model=build, owners=owners, strategy=FedBuff(buffer=2, concurrency=2))
    async with federation:
        for owner in owners:
            owner.go.put_nowait(None)
        await anext(federation.rounds(1))
        assert shift(federation, build) == pytest.approx(2.0, abs=1e-5)


async def test_owners_that_fail_or_hang_do_not_stop_the_others(build):
    class Broken(Paced):
        async def train(self, task):
            raise OSError("gone")

    class Liar(Paced):
        async def train(self, task):
            return Update(task.round + 1, [np.ones_like(w) for w in task.weights], 1, {})

    good = [Paced(f"good-{i}") for i in range(3)]
    for owner in good:
        for _ in range(10):
            owner.go.put_nowait(None)
    owners = [*good, Broken("broken"), Liar("liar"), Paced("hangs")]
    federation = Federation(model=build, owners=owners, strategy=FedBuff(buffer=3, concurrency=6), deadline=30)
    async with federation:
        outcomes = [outcome async for outcome in federation.rounds(4)]
    assert all(outcome.failure is None and set(outcome.reported) == {"good-0", "good-1", "good-2"} for outcome in outcomes)
    assert {name for outcome in outcomes for name in outcome.dropped} == {"broken"}
    assert {name for outcome in outcomes for name in outcome.rejected} == {"liar"}


async def test_a_round_without_enough_updates_fails_at_its_deadline(build):
    federation = Federation(model=build, owners=[Paced("a"), Paced("b")], strategy=FedBuff(buffer=1, concurrency=1), deadline=0.05)
    async with federation:
        outcome = await anext(federation.rounds(1))
    assert "0 of 2 owners reported and 1 are needed" in outcome.failure


async def test_it_learns_and_is_repeated_exactly(build, examples):
    async def play():
        owners = simulated_owners(partition(*examples, owners=6), dropout=0.1, seed=1)
        federation = Federation(model=build, owners=owners, strategy=FedBuff(buffer=2, concurrency=4, batch_size=5), seed=4)
        async with federation:
            outcomes = [outcome async for outcome in federation.rounds(10)]
        return outcomes, federation.model

    (first, one), (second, two) = await play(), await play()
    assert first[-1].metrics["loss"] < 0.7 * first[0].metrics["loss"]
    assert [o.reported for o in first] == [o.reported for o in second]
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


class Turns:
    """An engine whose owners are ready in an order of its own: each after so many turns of the event loop."""

    def __init__(self, seed):
        self._rng = np.random.default_rng(seed)

    async def open(self, holdings):
        pass

    async def train(self, index, task):
        for _ in range(self._rng.integers(30)):
            await asyncio.sleep(0)
        rng = np.random.default_rng([index, task.round])
        delta = [rng.normal(size=array.shape).astype(array.dtype) for array in task.weights]
        return Update(task.round, delta, 1 + index, {"loss": 1.0})

    async def evaluate(self, index, task):
        raise AssertionError

    async def close(self):
        pass


async def test_whoever_is_fast_simulated_owners_are_taken_in_turn(build, examples):
    async def play(seed):
        owners = simulated_owners(partition(*examples, owners=6), dropout=0.3, straggling=0.1, seed=1, engine=Turns(seed))
        federation = Federation(model=build, owners=owners, strategy=FedBuff(buffer=2, concurrency=4), seed=4)
        async with federation:
            outcomes = [outcome async for outcome in federation.rounds(10)]
        return [(o.reported, o.late, dict(o.dropped)) for o in outcomes], federation.model.get_weights()

    first, weights = await play(0)
    for seed in range(1, 6):
        again, others = await play(seed)
        assert again == first
        for a, b in zip(weights, others, strict=True):
            np.testing.assert_array_equal(a, b)


@given(st.integers(0, 1000), st.floats(0, 5))
def test_the_discount(rounds, a):
    assert FedBuff(staleness=a).discount(rounds) == pytest.approx(1 / (1 + rounds) ** a)


def test_an_aggregation_that_needs_all_owners_at_once_is_refused(build):
    class AtOnce(PlainMean):
        asynchronous = False

    with pytest.raises(SettingError, match="AtOnce needs all of them at once: use PlainMean"):
        Federation(model=build, owners=[Paced("a")], strategy=FedBuff(buffer=1), aggregation=AtOnce())


@pytest.mark.parametrize("settings", [{"buffer": 0}, {"concurrency": 3, "buffer": 4}, {"eta": 0.0}, {"staleness": -1.0}])
def test_settings_that_make_no_sense(settings):
    (name, _), *_ = settings.items()
    with pytest.raises(SettingError, match=name):
        FedBuff(**settings)

"""Secure aggregation of federated rounds: the plain mean, whoever drops out at whichever step, and no single update anywhere."""

import asyncio
import contextlib
import itertools

import keras
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import ActorSystem
from federated import (
    DataOwner,
    FedAvg,
    FedBuff,
    Federation,
    Hiding,
    Krum,
    OwnMasker,
    PlainMean,
    SecureAggregation,
    SettingError,
    Update,
    partition,
    simulated_owners,
)
from federated.owners.masker import agreement
from federated.rounds.gathering import Gathering
from federated.rounds.rounds import RoundBook, Standing
from federated.tasks.update import Blueprint, LocalTraining, Task
from protocols.errors import AggregationError
from protocols.secure_aggregation import terms

STEPS = ("prepare", "advertise", "share", "mask", "confirm", "unmask")
TASK = Task(1, Blueprint("", ""), [np.zeros((2, 3), np.float32), np.zeros(4, np.float32)], LocalTraining())


def learned(seed, examples=1, size=1.0):
    rng = np.random.default_rng(seed)
    delta = [rng.uniform(-size, size, array.shape).astype(np.float32) for array in TASK.weights]
    return Update(1, delta, examples, {"loss": float(rng.uniform(0, 5)), "accuracy": float(rng.uniform())})


class Scripted:
    """An owner that vanishes at a step, or hangs there."""

    def __init__(self, name, update, *, vanishes=None, hangs=None, **options):
        self.name, self.update, self.vanishes, self.hangs = name, update, vanishes, hangs
        self.own, self.asked = OwnMasker(self.train, **options), []

    async def train(self, task):
        return self.update

    async def evaluate(self, task):
        raise AssertionError

    async def masker(self):
        return self

    def __getattr__(self, step):
        if step not in STEPS:
            raise AttributeError(step)

        async def answer(*arguments):
            self.asked.append(step)
            if step == self.vanishes:
                raise ConnectionError("gone")
            if step == self.hangs:
                await asyncio.Event().wait()
            return await getattr(self.own, step)(*arguments)

        return answer


def gathering(owners, quorum=1, deadline=10**9):
    book = RoundBook(1, [owner.name for owner in owners], quorum=quorum, weights=TASK.weights, deadline=deadline)
    return Gathering(book, {owner.name: owner for owner in owners}, TASK, progress=lambda _: None)


def assert_mean(aggregate, updates):
    weights = [update.examples for update in updates]
    for i, found in enumerate(aggregate.delta):
        np.testing.assert_allclose(
            found, np.average([u.delta[i].astype(np.float64) for u in updates], axis=0, weights=weights), rtol=0, atol=1e-6
        )
    assert aggregate.examples == sum(weights)
    for name in ("loss", "accuracy"):
        assert aggregate.metrics[name] == pytest.approx(np.average([u.metrics[name] for u in updates], weights=weights), abs=1e-3)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(n=st.integers(3, 9), most=st.integers(1, 10**6), seed=st.integers(0, 2**32))
async def test_the_plain_mean_within_a_millionth_at_any_weight(n, most, seed):
    rng = np.random.default_rng(seed)
    updates = [learned(seed + i, int(rng.integers(1, most, endpoint=True))) for i in range(n)]
    owners = [Scripted(f"owner-{i}", update) for i, update in enumerate(updates)]
    one = await SecureAggregation(most_examples=most).gather(gathering(owners), single_updates=False)
    other = await PlainMean().gather(gathering(owners), single_updates=False)
    assert_mean(one, updates)
    for a, b in zip(one.delta, other.delta, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def possible(vanishing):
    """Whether the sum can be opened: more than two thirds of each owner's neighbours have to be there from sharing to the end."""
    present = [step for step in vanishing if step not in ("prepare", "advertise")]
    for there in (present, [step for step in present if step != "share"]):  # without enough shares, another session is begun
        threshold = 2 * (len(there) - 1) // 3 + 1
        if len(there) - 1 - there.count("share") >= threshold:
            break
    return there.count(None) - 1 >= threshold and sum(step in (None, "confirm", "unmask") for step in there) >= 3


@pytest.mark.parametrize("first", [None, *STEPS])
async def test_every_pattern_of_two_dropouts_among_five_owners(first):
    for second in (None, *STEPS):
        updates = [learned(i, i + 1) for i in range(5)]
        vanishing = [first, second, None, None, None]
        owners = [Scripted(f"owner-{i}", u, vanishes=v) for i, (u, v) in enumerate(zip(updates, vanishing, strict=True))]
        one = gathering(owners)
        aggregate = await SecureAggregation(threshold=0.6).gather(one, single_updates=False)
        summed = [i for i, step in enumerate(vanishing) if step in (None, "confirm", "unmask")]
        if not possible(vanishing):
            assert aggregate is None, vanishing
            assert not any(owner.asked.count("unmask") > 1 for owner in owners)
            continue
        assert aggregate is not None, vanishing
        assert_mean(aggregate, [updates[i] for i in summed])
        assert one.book.having(Standing.REPORTED) == [f"owner-{i}" for i in summed]
        assert all("(ConnectionError)" in reason for reason in one.book.reasons.values())


@pytest.mark.parametrize("step", STEPS)
async def test_an_owner_that_hangs_costs_one_deadline(step):
    updates = [learned(i) for i in range(5)]
    owners = [Scripted(f"owner-{i}", update, hangs=step if i == 2 else None) for i, update in enumerate(updates)]
    now = asyncio.get_running_loop().time()
    one = gathering(owners, deadline=now + 0.3)
    aggregate = await SecureAggregation(stage_deadline=0.3).gather(one, single_updates=False)
    assert_mean(aggregate, updates if step in ("confirm", "unmask") else updates[:2] + updates[3:])
    assert (one.book.standing["owner-2"] is Standing.LATE) == (step not in ("confirm", "unmask"))


async def test_fewer_than_the_threshold_open_nothing():
    owners = [Scripted(f"owner-{i}", learned(i), vanishes="mask" if i < 2 else None) for i in range(5)]
    one = gathering(owners)
    assert await SecureAggregation(threshold=0.8).gather(one, single_updates=False) is None
    assert "0 of 5" in one.book.failure or "3 of 5" in one.book.failure
    assert not any("unmask" in owner.asked for owner in owners)


@pytest.mark.parametrize("step", ["confirm", "unmask"])
async def test_a_round_that_fails_when_all_have_sent_their_vectors_says_why(step):
    owners = [Scripted(f"owner-{i}", learned(i), vanishes=step if i else None) for i in range(4)]
    round_ = gathering(owners)
    assert await SecureAggregation(threshold=0.7).gather(round_, single_updates=False) is None
    assert "are needed" in round_.book.failure


async def test_what_is_sent_says_nothing_of_the_update():
    """Two updates, many sessions: the masked vectors of both are uniform."""
    ones = []
    for value in (0.0, 1.0):
        update = Update(1, [np.full_like(array, value) for array in TASK.weights], 1, {})
        for _ in range(40):
            owners = [Scripted(f"owner-{i}", update) for i in range(3)]
            seen = []
            spied = owners[0].own.mask

            async def spy(*arguments, spied=spied, seen=seen):
                masked = await spied(*arguments)
                seen.append(masked.vector)
                return masked

            owners[0].own.mask = spy
            await SecureAggregation(most_examples=1).gather(gathering(owners), single_updates=False)
            ones.append(np.unpackbits(seen[0].view(np.uint8)).mean())
    bits = 40 * 11 * 32
    for some in (ones[:40], ones[40:]):
        assert abs(np.mean(some) - 0.5) < 5 * 0.5 / np.sqrt(bits)


@pytest.mark.parametrize("step", STEPS)
async def test_an_aggregator_that_dies_at_any_step_costs_that_round_only(step):
    """What it leaves behind at the owners does not hold the next round up."""
    updates = [learned(i) for i in range(5)]
    owners = [Scripted(f"owner-{i}", update, hangs=step) for i, update in enumerate(updates)]
    playing = asyncio.create_task(SecureAggregation().gather(gathering(owners), single_updates=False))
    while not all(step in owner.asked for owner in owners):
        await asyncio.sleep(0)
    playing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await playing
    for owner in owners:
        owner.hangs = None
    assert_mean(await SecureAggregation().gather(gathering(owners), single_updates=False), updates)


# Owners that do not play along.


async def test_owners_that_cannot_be_hidden_hold_back_and_say_no_value():
    updates = [learned(i, 5) for i in range(6)]
    updates[0].delta[1][2] = 8.125
    updates[1].delta[0][0, 0] = np.nan
    updates[2] = learned(2, examples=1001)
    owners = [Scripted(f"owner-{i}", update) for i, update in enumerate(updates)]
    one = gathering(owners)
    aggregate = await SecureAggregation(threshold=0.5, most_examples=1000).gather(one, single_updates=False)
    assert_mean(aggregate, updates[3:])
    reasons = one.book.reasons
    assert "larger than clip=8: raise clip" in reasons["owner-0"]
    assert "not finite" in reasons["owner-1"]
    assert "raise most_examples" in reasons["owner-2"]
    assert not any(secret in reason for secret in ("8.125", "1001") for reason in reasons.values())


async def test_other_metrics_or_another_owners_key_are_rejected():
    updates = [learned(i) for i in range(6)]
    owners = [Scripted(f"owner-{i}", update) for i, update in enumerate(updates)]
    updates[0].metrics.pop("accuracy")
    owners[5].own._identity = owners[4].own._identity
    one = gathering(owners)
    aggregate = await SecureAggregation(threshold=0.5).gather(one, single_updates=False)
    assert_mean(aggregate, updates[1:5])
    assert set(one.book.reasons) == {"owner-0", "owner-5"}


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "confirm", "unmask"])
async def test_an_answer_in_another_owners_name_does_not_count(step):
    owners = [Scripted(f"owner-{i}", learned(i)) for i in range(5)]
    true = getattr(owners[0].own, step)

    async def lie(*arguments):
        import msgspec

        return msgspec.structs.replace(await true(*arguments), owner=(await true_number(arguments)) + 1)

    async def true_number(_):
        return 0

    setattr(owners[0].own, step, lie)
    one = gathering(owners)
    aggregate = await SecureAggregation(threshold=0.6).gather(one, single_updates=False)
    assert aggregate is not None
    if step in ("advertise", "share", "mask"):
        assert "answered as owner 1, it is 0" in one.book.reasons["owner-0"]


# An aggregator that does not play along, at the owner.


def masker(**options):
    update = learned(0)

    async def train(task):
        return update

    return OwnMasker(train, **options)


def roster_of(own, others=4):
    keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(others)]
    return [own.public_identity, *keys]


async def prepared(own):
    return (await own.prepare(TASK, Hiding(8.0, 1))).ticket


LENGTH = 6 + 4 + 2 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": LENGTH + 1}, "do not fit"),
        ({"word": 64}, "do not fit"),
        ({"cohort": 3}, "hides among at least 4"),
    ],
)
async def test_terms_that_an_owner_does_not_agree_to(change, message):
    own = masker(least=4)
    settings = {"length": LENGTH, "word": 32, "cohort": 4} | change
    with pytest.raises(AggregationError, match=message):
        await own.advertise(await prepared(own), terms("x", roster_of(own), settings.pop("length"), **settings))


async def test_a_session_is_held_once_and_each_step_in_its_order():
    own = masker()
    agreed = terms("x", roster_of(own), LENGTH, word=32, cohort=3)
    first = await prepared(own)
    await own.advertise(first, agreed)
    for ticket in (first, await prepared(own)):
        with pytest.raises(AggregationError, match="has been held before"):
            await own.advertise(ticket, agreed)
    with pytest.raises(AggregationError, match="no update of that name"):
        await own.advertise(b"none", agreed)
    with pytest.raises(AggregationError, match="share is due"):
        await own.mask(agreed.identifier, {})
    with pytest.raises(AggregationError, match="no such session"):
        await own.share(b"another", [])


async def test_an_update_is_masked_once_in_whatever_sessions():
    """Two sums with and without one owner would show its update."""
    owners = [masker() for _ in range(4)]
    tickets = [await prepared(own) for own in owners]
    everybody, sessions = [own.public_identity for own in owners], []
    for number, roster in enumerate((everybody, everybody[:3])):
        agreed = terms(f"session {number}", roster, LENGTH, word=32, cohort=3)
        some = list(zip(owners, tickets, strict=True))[: len(roster)]
        advertised = [await own.advertise(ticket, agreed) for own, ticket in some]
        shared = [await own.share(agreed.identifier, advertised[:i] + advertised[i + 1 :]) for i, (own, _) in enumerate(some)]
        sessions.append((agreed.identifier, {one.owner: one.sealed[0] for one in shared[1:]}))
    await owners[0].mask(*sessions[0])
    with pytest.raises(AggregationError, match="it was masked"):
        await owners[0].mask(*sessions[1])


async def test_with_a_roster_an_owner_takes_part_with_nobody_else():
    own = masker()
    known = roster_of(own)
    own = masker(identity=own._identity, roster=known)
    stranger, task = roster_of(own), agreement(TASK, Hiding(8.0, 1))
    ticket = await prepared(own)
    with pytest.raises(AggregationError, match="4 of 5 owners of the session are not on this owner's roster"):
        await own.advertise(ticket, terms("x", stranger, LENGTH, word=32, task=task))
    await own.advertise(ticket, terms("x", known, LENGTH, word=32, task=task))


async def test_an_owner_forgets_what_is_not_asked_for():
    own = masker()
    tickets = [await prepared(own) for _ in range(6)]
    with pytest.raises(AggregationError, match="forgotten for newer ones"):
        await own.advertise(tickets[0], terms("x", roster_of(own), LENGTH, word=32, cohort=3))
    await own.advertise(tickets[-1], terms("x", roster_of(own), LENGTH, word=32, cohort=3))


# Whole federations.


def model(build):
    def make():
        keras.utils.set_random_seed(1)
        return build()

    return make


async def played(build, owners, rounds=3, **settings):
    federation = Federation(model=model(build), owners=owners, strategy=FedAvg(batch_size=5), **settings)
    async with federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model


@pytest.mark.long
async def test_a_simulated_federation_learns_what_the_plain_one_learns(build, examples):
    parts = partition(*examples, owners=6)
    results = []
    for aggregation in (PlainMean(), SecureAggregation(threshold=0.5)):
        owners = simulated_owners(parts, dropout=0.2, seed=4, evaluation=[examples] * 6)
        results.append(await played(build, owners, aggregation=aggregation))
    (plain, one), (secure, other) = results
    for a, b in zip(plain, secure, strict=True):
        assert (a.reported, a.examples) == (b.reported, b.examples)
        assert a.metrics == pytest.approx(dict(b.metrics), abs=1e-3)
        assert b.failure is None
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


async def test_owners_over_websockets(build, examples):
    async with contextlib.AsyncExitStack() as stack:
        urls, systems = [], []
        for part in partition(*examples, owners=5):
            system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
            await system.spawn(DataOwner, part, part, name="owner")
            urls.append(f"{system.address}/owner")
            systems.append(system)
        federation = Federation(
            model=model(build), owners=urls, strategy=FedAvg(batch_size=5), aggregation=SecureAggregation(threshold=0.6)
        )
        async with federation:
            first = await anext(federation.rounds(1))
            await systems[1].__aexit__(None, None, None)
            second = await anext(federation.rounds(1))
    assert first.failure is None
    assert len(first.reported) == 5
    assert first.metrics.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert second.failure is None
    assert list(second.dropped) == [urls[1]]


@pytest.mark.parametrize(("strategy", "message"), [(Krum(f=0), "hides from everybody"), (FedBuff(buffer=1), "all of them at once")])
def test_strategies_that_need_what_is_hidden(build, examples, strategy, message):
    with pytest.raises(SettingError, match=message):
        Federation(model=build, owners=simulated_owners([examples] * 5), strategy=strategy, aggregation=SecureAggregation())


@pytest.mark.parametrize(
    "settings", [{"threshold": 0.0}, {"threshold": 1.1}, {"clip": 0.0}, {"most_examples": 0}, {"degree": 1}, {"stage_deadline": 0.0}]
)
def test_settings_that_make_no_sense(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(SettingError, match=f"{name}={value}: it has to be"):
        SecureAggregation(**settings)
    assert list(itertools.islice(settings, 1)) == [name]

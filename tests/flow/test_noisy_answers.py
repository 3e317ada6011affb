"""Noisy answers with real processes: the noise that clients see, and a budget for each of them that no side can be talked out of."""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from actors import ActorSystem, MessageRejected
from certified import configured, running
from inner_workers import inner_workers
from protocols import NoisyAnswers, connect, share
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import BudgetSpent, NotServed, QuotaSpent, TicketRefused
from protocols.workers.crypto_provider import CryptoProvider

CLIP = 0.25
SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))
"""What a client that talks to the workers by itself tells the provider, and shows to each server a right to."""
FAINT = NoisyAnswers(clip=CLIP, noise_multiplier=0.02, max_epsilon=1e7)
LOUD = NoisyAnswers(clip=CLIP, noise_multiplier=0.2, max_epsilon=1e7)
NINE = NoisyAnswers(clip=CLIP, noise_multiplier=2.0, max_epsilon=8.0)


@contextlib.asynccontextmanager
async def noisy(cluster, model, answers, requests=1000):
    """A model with noisy answers, served until the end of the block."""
    async with await share(model, cluster, name="noisy", answers=answers) as shared:
        serving = asyncio.create_task(shared.serve(requests))
        async with connect(cluster, "noisy") as remote:
            await until_served(remote)
        try:
            yield shared
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def until_served(remote):
    """The owner's `serve` has reached all workers: it tells the provider last. More than the budget is asked for, which costs nothing."""
    for _ in range(1000):
        try:
            await remote._provider.request("noisy", remote.model, 1 << 40, "logits", HOLDERS)
        except BudgetSpent:
            return
        except NotServed:
            await asyncio.sleep(0.01)
    raise AssertionError("never served")


async def test_logits_are_clipped_and_have_the_noise_of_both_servers(cluster, model, images, expected):
    clipped = np.clip(expected, -CLIP, CLIP)
    assert 0.05 < (clipped != expected).mean() < 0.95
    async with noisy(cluster, model, FAINT) as shared, connect(cluster, "noisy") as remote:
        told = remote.guarantee
        assert told == shared.guarantee
        assert told.sigma == pytest.approx(0.02 * 2 * CLIP * 2, rel=0.01)
        assert (told.clip, told.answers, told.delta) == (CLIP, FAINT.answers, 1e-5)
        before = await remote.answers_left()
        errors = await remote.query(np.tile(images, (10, 1, 1, 1))) - np.tile(clipped, (10, 1))
        assert remote.last.rounds == 3 + 4 + 4  # clamp, network, clip
        assert await remote.answers_left() == before - 400
    assert abs(errors.var() / (2 * told.sigma**2) - 1) < 6 * np.sqrt(2 / errors.size)
    assert abs(errors.mean()) < 6 * np.sqrt(2) * told.sigma / np.sqrt(errors.size)
    assert np.abs(expected - clipped).mean() > np.abs(errors.mean())


async def test_a_client_that_sends_garbage_is_answered_within_the_clip(cluster, model):
    garbage = np.random.default_rng(0).integers(0, 2**64, (16, 8, 8, 1), np.uint64)
    async with noisy(cluster, model, FAINT), connect(cluster, "noisy") as remote:
        granted = (await remote._provider.request("noisy", remote.model, 16, "logits", HOLDERS)).granted[0]
        size, rights = granted.ticket.ticket.examples, (right_at(SECRET, 0), right_at(SECRET, 1))
        asked = zip(remote._servers, rights, strict=True)
        answers = await asyncio.gather(*(server.answer(granted.ticket, right, garbage[:size]) for server, right in asked))
        logits, _ = remote._opened(tuple(answers), "logits")
        limit = CLIP + 7 * np.sqrt(2) * remote.guarantee.sigma
    assert np.abs(logits).max() < limit < 1
    assert logits.max() > CLIP / 2 > -CLIP / 2 > logits.min()


async def test_labels_follow_the_noisy_outputs(cluster, model, images, expected):
    clipped = np.clip(expected, -CLIP, CLIP)
    async with noisy(cluster, model, LOUD), connect(cluster, "noisy") as remote:
        sigma = remote.guarantee.sigma
        labels = await remote.query(np.tile(images, (20, 1, 1, 1)), reveal="label")
        assert remote.last.rounds == 3 + 4 + 4 + 3
    draws = np.random.default_rng(0).normal(clipped, np.sqrt(2) * sigma, (4000, *clipped.shape)).argmax(axis=2)
    for label in range(4):
        likely = (draws == label).mean(axis=0)
        deviation = np.sqrt(20 * (likely * (1 - likely)).sum())
        assert deviation > 5
        assert abs((labels == label).sum() - 20 * likely.sum()) < 6 * deviation


async def test_each_image_is_an_answer_and_all_callers_without_certificate_are_one_client(cluster, model, images):
    assert NINE.answers == 9
    async with noisy(cluster, model, NINE), connect(cluster, "noisy") as remote, connect(cluster, "noisy") as other:
        assert await remote.answers_left() == 9
        with pytest.raises(BudgetSpent, match=r"10 noisy answers .* 9 of 9 are left for all clients without a certificate together"):
            await remote.query(images[:10])
        assert (await remote.query(images[:5])).shape == (5, 4)
        assert (await other.query(images[:3], reveal="label")).shape == (3,)
        assert await remote.answers_left() == await other.answers_left() == 1
        with pytest.raises(BudgetSpent, match=r"2 noisy answers .* 1 of 9"):
            await other.query(images[:2])
        await remote.query(images[:1])
        with pytest.raises(BudgetSpent, match="0 of 9"):
            await other.query(images[:1])


async def test_a_ticket_that_is_never_used_stays_paid(cluster, model):
    async with noisy(cluster, model, NINE), connect(cluster, "noisy") as remote:
        await remote._provider.request("noisy", remote.model, 4, "logits", HOLDERS)
        assert await remote.answers_left() == 5


async def test_a_spent_quota_costs_no_budget(cluster, model, images):
    async with noisy(cluster, model, NINE, requests=1), connect(cluster, "noisy") as remote:
        await remote.query(images[:1])
        with pytest.raises(QuotaSpent):
            await remote.query(images[:1])
        assert await remote.answers_left() == 8


async def test_who_shows_no_right_gets_nothing_and_spends_nothing(cluster, model, images):
    async with noisy(cluster, model, NINE), connect(cluster, "noisy") as remote:
        for nobody in ((b"", b""), (HOLDERS[0], b""), (HOLDERS[0], HOLDERS[0])):
            with pytest.raises(TicketRefused, match="another right at each server"):
                await remote._provider.request("noisy", remote.model, 1, "logits", nobody)
        assert await remote.answers_left() == 9
        grants = await remote._provider.request("noisy", remote.model, 1, "logits", HOLDERS)
        m = np.zeros((1, 8, 8, 1), np.uint64)
        for party, server in enumerate(remote._servers):
            for right in (b"", right_at(SECRET, 1 - party)):
                with pytest.raises(TicketRefused, match="issued to another client"):
                    await server.answer(grants.granted[0].ticket, right, m)
        assert (await remote.query(images[:8])).shape == (8, 4)  # no server has counted what it refused


async def test_models_without_noise_count_nothing(cluster, model):
    async with await share(model, cluster, name="plain") as shared, connect(cluster, "plain") as remote:
        assert shared.guarantee is remote.guarantee is await remote.answers_left() is None


@pytest.mark.parametrize("generous", [0, 1])
async def test_each_server_counts_by_itself(model, images, generous):
    """A provider that has lost count, and one server, too: the other still answers no more than it may."""
    async with inner_workers() as (inner, cluster), noisy(cluster, model, NINE), connect(cluster, "noisy") as remote:
        await remote.query(images[:9])
        inner[2].actor("provider")._models["noisy"].budget._spent.clear()
        inner[generous].actor("server")._entries["noisy"].model.budget._spent.clear()
        with pytest.raises(BudgetSpent, match="0 of 9"):
            await remote.query(images[:1])


async def test_with_certificates_each_client_has_a_budget_of_its_own(tmp_path, model, images):
    made = configured(tmp_path, dict.fromkeys(("owner", "alice", "bob"), 'role = "client"\n'))
    async with (
        running(made),
        made.cluster("owner") as owned,
        noisy(owned, model, NINE),
        connect(made.cluster("alice"), "noisy") as alice,
        connect(made.cluster("alice"), "noisy") as again,
        connect(made.cluster("bob"), "noisy") as bob,
    ):
        await alice.query(images[:6])
        assert [await one.answers_left() for one in (alice, again, bob)] == [3, 3, 9]
        with pytest.raises(BudgetSpent, match=r"4 noisy answers .* 3 of 9 are left for client 'alice'"):
            await again.query(images[:4])
        await bob.query(images[:9])
        with pytest.raises(BudgetSpent, match="0 of 9 are left for client 'bob'"):
            await bob.query(images[:1])
        for party, server in enumerate(bob._servers):  # a ticket that alice passes on, with the right to it
            granted = (await alice._provider.request("noisy", alice.model, 1, "logits", HOLDERS)).granted[0]
            m = np.zeros((1, 8, 8, 1), np.uint64)
            with pytest.raises(TicketRefused, match="issued to another client"):
                await server.answer(granted.ticket, right_at(new_secret(), 0), m)
            with pytest.raises(TicketRefused, match="issued to client 'alice', and client 'bob' came"):
                await server.answer(granted.ticket, right_at(SECRET, party), m)


async def test_a_presence_that_leads_elsewhere_says_nothing(cluster, model):
    """An owner is there as long as the connection by which it shares: workers follow no reference to a system that somebody names."""
    async with noisy(cluster, model, NINE) as shared, ActorSystem(listen="ws://127.0.0.1:0") as listening:
        elsewhere = await listening.spawn(Presence)
        provider = await listening.connect(f"{cluster.addresses.crypto_provider}/provider", CryptoProvider)
        with pytest.raises(MessageRejected, match="leads to another system than the two that talk"):
            await provider.open("other", shared.program, False, digest_at(SECRET, 2), elsewhere)


async def test_what_answers_cost_is_computed_beside_the_event_loop(cluster, model, monkeypatch):
    """The accountant takes a second to load, and so long no worker of this process would answer."""
    loop, threads, right = threading.get_ident(), [], NoisyAnswers.guarantee

    def guarantee(self, sigma):
        threads.append(threading.get_ident())
        return right(self, sigma)

    monkeypatch.setattr(NoisyAnswers, "guarantee", guarantee)
    async with await share(model, cluster, name="priced", answers=FAINT):
        pass
    assert len(threads) == 1
    assert loop not in threads

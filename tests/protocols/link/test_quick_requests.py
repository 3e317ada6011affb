"""Quick requests beside large ones: in how large parts the provider deals and grants."""

import asyncio

import numpy as np
import pytest

from protocols.serving import pool as supply
from protocols.serving.pool import FINE, Chunk, Pool
from protocols.serving.ticket import identifier

CHUNK = 4 * FINE


class Dealer:
    def __init__(self):
        self.sizes = []

    async def __call__(self, examples):
        self.sizes.append(examples)
        return Chunk(identifier(), np.zeros((examples, 1), np.uint64))


@pytest.fixture
async def pool():
    dealer = Dealer()
    made = Pool(dealer, chunk=CHUNK, capacity=8 * CHUNK, ahead=CHUNK)
    running = asyncio.create_task(made.run())
    yield made, dealer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def examples(grants):
    return sum(grant.stop - grant.start for grant in grants)


async def test_alone_a_large_request_is_granted_in_whole_chunks(pool):
    pool, dealer = pool
    assert examples(await pool.take(4 * CHUNK, "large")) == CHUNK
    assert set(dealer.sizes) == {CHUNK}


async def test_beside_quick_requests_a_large_one_is_granted_and_dealt_for_in_fine_parts(pool, monkeypatch):
    pool, dealer = pool
    monkeypatch.setattr(supply, "CALM", 1e9)
    monkeypatch.setattr(supply, "PACE", 1e9)
    await pool.settle(examples(await pool.take(1, "quick")), "quick")
    before = len(dealer.sizes)
    for _ in range(12):
        granted = examples(await pool.take(4 * CHUNK, "large"))
        assert 0 < granted <= FINE
        await pool.settle(granted, "large")
    assert set(dealer.sizes[before + supply.DEALERS :]) <= {FINE}


async def test_the_next_fine_part_waits_for_the_one_before_and_keeps_nobody_from_a_turn(pool, monkeypatch):
    pool, _ = pool
    monkeypatch.setattr(supply, "CALM", 1e9)
    monkeypatch.setattr(supply, "PACE", 1e9)
    await pool.settle(examples(await pool.take(1, "quick")), "quick")
    first = examples(await pool.take(4 * CHUNK, "large"))
    second = asyncio.create_task(pool.take(4 * CHUNK, "large"))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not second.done()
    assert examples(await pool.take(1, "quick")) == 1
    await pool.settle(first, "large")
    assert examples(await second) <= FINE


async def test_a_client_that_does_not_use_what_it_holds_gets_the_next_part_all_the_same(pool, monkeypatch):
    pool, _ = pool
    monkeypatch.setattr(supply, "CALM", 1e9)
    monkeypatch.setattr(supply, "PACE", 0.0)
    await pool.take(1, "quick")
    for _ in range(3):
        assert 0 < examples(await pool.take(4 * CHUNK, "large")) <= FINE


async def test_own_quick_requests_and_the_rest_of_a_large_one_change_nothing(pool):
    pool, dealer = pool
    await pool.take(1, "one")
    assert examples(await pool.take(4 * CHUNK, "one")) > FINE
    await pool.take(3, "large-rest")
    await pool.settle(3, "large-rest")
    assert set(dealer.sizes) == {CHUNK}


async def test_some_time_after_the_last_quick_request_parts_are_coarse_again(pool, monkeypatch):
    pool, _ = pool
    monkeypatch.setattr(supply, "CALM", -1.0)
    await pool.take(1, "quick")
    assert examples(await pool.take(4 * CHUNK, "large")) > FINE


async def dealt_meanwhile(dealer):
    """How many chunks are dealt while nothing else happens."""
    before = len(dealer.sizes)
    for _ in range(50):
        await asyncio.sleep(0)
    return len(dealer.sizes) - before


@pytest.fixture
async def stocked(monkeypatch):
    """A pool with four chunks on stock."""
    monkeypatch.setattr(supply, "LATER", 1e9)
    dealer = Dealer()
    made = Pool(dealer, chunk=CHUNK, capacity=16 * CHUNK, ahead=4 * CHUNK)
    running = asyncio.create_task(made.run())
    while made.available < 4 * CHUNK:
        await asyncio.sleep(0)
    yield made, dealer
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_was_granted_is_used_before_more_is_dealt_ahead(stocked):
    pool, dealer = stocked
    granted = examples(await pool.take(CHUNK, "one"))
    assert await dealt_meanwhile(dealer) == 0
    await pool.settle(granted, "one")
    assert await dealt_meanwhile(dealer) == 1


async def test_dealing_waits_for_nobody_where_half_of_the_stock_is_gone_or_somebody_waits(stocked):
    pool, dealer = stocked
    await pool.take(2 * CHUNK, "one")
    assert await dealt_meanwhile(dealer) == 0
    await pool.take(1, "one")
    assert await dealt_meanwhile(dealer) >= 1
    while pool.available:
        await pool.take(pool.available, "one")
    assert examples(await pool.take(2 * CHUNK, "another")) >= CHUNK


async def test_a_client_that_never_uses_what_it_holds_keeps_the_pool_from_dealing_for_a_while_only(stocked, monkeypatch):
    pool, dealer = stocked
    monkeypatch.setattr(supply, "LATER", 0.0)
    await pool.take(CHUNK, "one")
    assert await dealt_meanwhile(dealer) == 1

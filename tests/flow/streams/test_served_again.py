"""A model that is served again within another memory, or with other kinds of answer: the last call says what servers may hold."""

import asyncio
import contextlib

import numpy as np
import pytest
from streamed_model import LEAST, PROGRAM, TOLERANCE, X, expected, served

from actors import message
from inner_workers import inner_workers
from protocols.authority.membership import OWNER
from protocols.errors import TooLarge
from protocols.mpc import inference
from protocols.workers.crypto_provider import CryptoProvider

SIZE = inference.layout(PROGRAM).bytes_per_example


def provided(workers):
    """The model at the provider."""
    return workers[2].actor("provider")._models["stream"]


@contextlib.asynccontextmanager
async def served_again(workers, shared, kinds, **terms):
    """Serve once more, until the provider deals as this call says, and something is ready for each kind."""
    requests = provided(workers).requests
    wanted = requests._allowed + 1
    serving = asyncio.create_task(shared.serve(wanted, reveal=kinds, **terms))
    while requests._allowed < wanted:
        if serving.done():
            await serving
        await asyncio.sleep(0)
    for kind in kinds:
        while not await shared.prepared(kind):
            if serving.done():
                await serving
            await asyncio.sleep(0)
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def held(workers) -> list[int]:
    """How many bytes of whole examples or streams lie at each server, unused, of all kinds."""
    models = [worker.actor("server")._entries["stream"].model for worker in workers[:2]]
    return [sum(chunk.needed for chunk in model.stock._chunks.values() if not chunk.used.all()) for model in models]


async def settled(workers, memory: int) -> None:
    """Wait until the dealing that was under way has ended."""
    for pool in provided(workers).pools.values():
        while pool._dealing:
            await asyncio.sleep(0)
        async with pool._changed:  # after whoever has dealt last
            pass
    assert all(size <= memory for size in held(workers))


@pytest.mark.parametrize("first", [64 * SIZE, 3 * LEAST], ids=["whole", "streamed"])
@pytest.mark.parametrize("then", [2 * SIZE, LEAST], ids=["whole", "streamed"])
async def test_the_memory_of_the_last_call_holds(first, then):
    async with inner_workers() as (workers, cluster), served(cluster, memory=first) as (shared, remote):
        np.testing.assert_allclose(await remote.query(X[:1]), expected(X[:1]), atol=TOLERANCE)
        async with served_again(workers, shared, ["logits"], memory=then):
            await settled(workers, then)
            assert (provided(workers).plans["logits"].how is None) == (then >= SIZE)
            np.testing.assert_allclose(await remote.query(X), expected(X), atol=TOLERANCE)
            await settled(workers, then)


async def test_kinds_of_answer_that_are_not_given_any_more_give_their_memory_back():
    memory = 64 * SIZE
    async with inner_workers() as (workers, cluster), served(cluster, memory=memory, ahead=64) as (shared, remote):
        async with served_again(workers, shared, ["label"], memory=memory, ahead=64):
            await settled(workers, memory)
            labels = await remote.query(X, reveal="label")
            model = workers[0].actor("server")._entries["stream"].model
            assert {chunk.reveal for chunk in model.stock._chunks.values()} == {"label"}
        async with served_again(workers, shared, ["logits", "label"], memory=memory, ahead=64):
            await settled(workers, memory)
            np.testing.assert_allclose(await remote.query(X), expected(X), atol=TOLERANCE)
            assert (await remote.query(X, reveal="label")).shape == labels.shape


async def test_the_same_memory_again_keeps_what_lies_ready():
    async with inner_workers() as (workers, cluster), served(cluster, memory=64 * SIZE) as (shared, _):
        before = set(workers[0].actor("server")._entries["stream"].model.stock._chunks)
        async with served_again(workers, shared, ["logits"], memory=64 * SIZE):
            assert before <= set(workers[0].actor("server")._entries["stream"].model.stock._chunks)


async def test_a_memory_that_is_too_small_is_refused_before_anybody_allows_anything():
    async with inner_workers() as (workers, cluster), served(cluster, memory=3 * LEAST) as (shared, remote):
        with pytest.raises(TooLarge, match="serve fewer kinds, or with more memory"):
            await shared.serve(100, reveal=["logits", "label"], memory=LEAST)
        assert [worker.actor("server")._entries["stream"].model.reveal for worker in workers[:2]] == [("logits",)] * 2
        np.testing.assert_allclose(await remote.query(X[:1]), expected(X[:1]), atol=TOLERANCE)


async def test_whoever_waits_while_the_memory_changes_is_answered():
    async with inner_workers() as (workers, cluster), served(cluster, memory=64 * SIZE) as (shared, remote):
        asking = [asyncio.create_task(remote.query(X)) for _ in range(6)]
        for memory in (LEAST, 64 * SIZE, 2 * LEAST):
            async with served_again(workers, shared, ["logits"], memory=memory):
                await settled(workers, 128 * SIZE)
        for found in await asyncio.gather(*asking):
            np.testing.assert_allclose(found, expected(X), atol=TOLERANCE)


async def test_a_model_that_is_stopped_is_dealt_for_no_more_before_its_servers_forget_it():
    """A server that does not know what is dealt would be taken for one that was lost."""
    seen = []

    class Provider(CryptoProvider):
        @message(reentrant=True, by=OWNER)
        async def remove(self, name: str, right: bytes) -> None:
            for _ in range(100):
                await asyncio.sleep(0)
            seen.extend("stream" in worker.actor("server")._entries for worker in workers[:2])
            await super().remove(name, right)

    async with inner_workers(parts=[None, None, {"provider": Provider}]) as (workers, cluster), served(cluster) as (shared, _):
        await shared.stop()
    assert seen == [True, True]

"""Models whose randomness does not fit the memory for it: dealt in segments while they are evaluated. In this process, without Keras."""

import asyncio
import contextlib

import numpy as np
import pytest
from streamed_model import LAYERS, LEAST, PROGRAM, TOLERANCE, WIDTH, X, expected, program, served

from deployment import random_ring
from inner_workers import inner_workers
from protocols import connect
from protocols.authority.rights import digest_at, new_secret
from protocols.errors import TooLarge, WorkerLost
from protocols.mpc import inference, plaintext
from protocols.mpc.encoding import encoded
from protocols.serving.streams import largest_operation, window
from protocols.workers.delivery import Delivery


@pytest.mark.parametrize("equals", [False, True], ids=["provider", "equals"])
@pytest.mark.parametrize("memory", [LEAST, 3 * LEAST], ids=["least", "three"])
async def test_a_model_that_does_not_fit_memory_answers_within_it(largest, memory, equals):
    assert window(PROGRAM, memory) is not None
    async with inner_workers(equals=equals) as (workers, cluster), served(cluster, memory=memory) as (_, remote):
        one, many = await remote.query(X[:1]), await remote.query(X)
        np.testing.assert_allclose(np.concatenate([one, many]), np.concatenate([expected(X[:1]), expected(X)]), atol=TOLERANCE)
        assert remote.last.servers[1].dealt == 8 * inference.layout(PROGRAM).dealt * 4
        assert len({number for _, _, number in largest}) > 4
        assert all(held <= reserved <= memory for held, reserved, _ in largest)
        hosted = [entry.model for worker in workers for entry in worker.actor("server")._entries.values()]
        provided = [shared for worker in workers for shared in worker.actor("provider")._models.values()]
        assert [model._weights for model in hosted] == [None, None]  # only the masked weights are kept
        assert ["_kept" in shared.weight_masks.__dict__ for shared in provided] == [False]


async def test_labels_and_numbers_share_the_memory(largest):
    async with inner_workers() as (_, cluster):
        size = sum(max(largest_operation(one), 1) for one in (PROGRAM, PROGRAM.for_label()))
        async with served(cluster, reveal=["logits", "label"], memory=2 * size) as (_, remote):
            labels = await remote.query(X, reveal="label")
            logits = await remote.query(X)
        certain = np.diff(np.sort(expected(X), axis=1)[:, -2:], axis=1)[:, 0] > 2 * TOLERANCE
        assert certain.sum() > 1
        np.testing.assert_array_equal(labels[certain], logits.argmax(axis=1)[certain])


async def test_a_streamed_query_and_others_run_side_by_side():
    small = program(1)
    weights = [random_ring(shape, 40, f"s{i}") for i, shape in enumerate(small.weights)]
    wanted = plaintext.evaluate(small, weights, encoded(small, X)).view(np.int64)
    async with (
        inner_workers() as (_, cluster),
        served(cluster, memory=3 * LEAST) as (_, remote),
        served(cluster, "small", weights, small) as (_, other),
        connect(cluster, "stream") as second,
    ):
        results = await asyncio.gather(remote.query(X), second.query(X), *(other.query(X) for _ in range(8)))
    for found in results[:2]:
        np.testing.assert_allclose(found, expected(X), atol=TOLERANCE)
    for found in results[2:]:
        np.testing.assert_allclose(found, wanted, atol=WIDTH * 40)  # each of the activations may be rounded up or down


@contextlib.contextmanager
def faulty(monkeypatch, number: int, fault):
    """A provider that does something else with one segment, once."""
    piece, done = Delivery.piece, []

    async def sent(self, which, words):
        if which != number or done:
            return await piece(self, which, words)
        done.append(self)
        return await fault(self, which, words, piece)

    monkeypatch.setattr(Delivery, "piece", sent)
    yield done


async def test_a_stream_that_breaks_consumes_its_ticket_and_the_next_query_is_answered(fault, monkeypatch):
    async with inner_workers() as (workers, cluster):
        servers = [worker.actor("server") for worker in workers[:2]]
        if fault.__name__ == "never":
            for server in servers:
                server._patience = 0.2
        async with served(cluster, memory=2 * LEAST) as (_, remote):
            with faulty(monkeypatch, 3, fault) as done:
                with pytest.raises(WorkerLost, match=r"ask again|gave this computation up"):
                    await remote.query(X[:1])
                np.testing.assert_allclose(await remote.query(X[:1]), expected(X[:1]), atol=TOLERANCE)
            assert len(done) == 1
            for server in servers:
                model = server._entries["stream"].model
                assert len(model.stock._seen) >= 2  # the ticket of the broken one serves nobody any more
                assert all(one.chunk not in model.stock._chunks for one in done)


async def test_a_ticket_that_nobody_uses_gives_its_memory_back():
    async with inner_workers() as (workers, cluster), served(cluster, memory=LEAST, ticket_lifetime=0.2) as (_, remote):
        secret = new_secret()
        await cluster.links.provider.request("stream", remote.model, 1, "logits", (digest_at(secret, 0), digest_at(secret, 1)))
        held = [worker.actor("server")._entries["stream"].model.stock for worker in workers[:2]]
        first = [[chunk.supply for chunk in stock._chunks.values()] for stock in held]
        np.testing.assert_allclose(await remote.query(X[:1]), expected(X[:1]), atol=TOLERANCE)
        for open_before in first:
            assert [supply.ended for supply in open_before] == [True]
            assert not any(supply._here for supply in open_before)


async def test_a_model_that_is_stopped_ends_its_streams():
    async with inner_workers() as (workers, cluster):
        async with served(cluster, memory=LEAST):
            streams = [worker.actor("server")._entries["stream"].model.stock for worker in workers[:2]]
            assert [one.examples for one in streams] == [1, 1]
        assert [one.examples for one in streams] == [0, 0]


async def test_one_operation_that_alone_needs_more_is_refused_by_its_size():
    async with inner_workers() as (_, cluster):
        with pytest.raises(
            TooLarge, match=f"model 'stream': one example needs .* bytes of randomness at a server, {LEAST:,} of them at once"
        ):
            async with served(cluster, memory=LEAST - 1):
                pass


async def test_real_processes_answer_within_their_memory(cluster):
    async with served(cluster, memory=2 * LEAST) as (_, remote):
        found = await asyncio.gather(remote.query(X[:2]), remote.query(X[2:]))
        assert remote.last.rounds >= 3 * LAYERS + 1
    np.testing.assert_allclose(np.concatenate(found), expected(X), atol=TOLERANCE)

"""How the third party deals randomness to both servers: piece after piece; of chunks whole, or in segments while a request runs.

It knows masks and no masked value. The mathematics runs in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from actors import ActorError
from actors.observing.spans import span
from protocols.concurrency import Background
from protocols.errors import WorkerLost
from protocols.link.threads import Threads
from protocols.mpc import dealer, inference
from protocols.mpc.operations.weights import SummedMasks
from protocols.mpc.parties.exchange import Ring
from protocols.serving.pool import Chunk
from protocols.serving.streams import Window
from protocols.serving.ticket import Reveal, Ticket, identifier
from protocols.workers.compute_server import ComputeServer
from protocols.workers.delivery import Delivery
from protocols.workers.provided import Provided


class Ahead:
    """Deals pieces of randomness one after the other: one is computed while the one before is on its way.

    Args:
        threads: for the mathematics.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._sending: asyncio.Task[None] | None = None

    async def deal(self, compute: Callable[[], Ring], send: Callable[[Ring], Coroutine[Any, Any, None]]) -> None:
        """Compute a piece, and begin to send it as soon as the one before has arrived.

        Raises:
            ActorError: a server did not take the one before.
        """
        words = await self._threads.run(compute)
        await self.sent()
        self._sending = asyncio.create_task(send(words))

    async def sent(self) -> None:
        """Wait until the last piece has arrived."""
        if self._sending is not None:
            await self._sending

    def close(self) -> None:
        """Give up what is on its way."""
        if self._sending is not None:
            self._sending.cancel()


class ChunkDealer:
    """Deals for one model and one kind of answer.

    Args:
        shared: the model.
        reveal: the kind of answer.
        threads: for the mathematics.
        background: where the rest of a stream is dealt.
    """

    def __init__(self, shared: Provided, reveal: Reveal, threads: Threads, background: Background) -> None:
        self._shared, self._reveal, self._program = shared, reveal, shared.program_for(reveal)
        self._threads, self._background = threads, background

    async def discard(self, chunk: Chunk) -> None:
        """Have both servers throw away what of a chunk was not granted. A server that is gone holds nothing."""
        left = Ticket(self._shared.model, b"", 0, self._reveal, chunk.identifier, chunk.granted, len(chunk.input_mask))
        await asyncio.gather(*(server.withdraw(self._shared.model, left) for server in self._shared.servers), return_exceptions=True)

    async def chunk(self, how: Window | None, examples: int) -> Chunk:
        """Deal a chunk, whole or in segments; return when both servers have it, or its first segment.

        The others follow, each as soon as server 1 has room: it ends that when the ticket is used, or withdrawn.
        """
        shared, program, chunk = self._shared, self._program, identifier()
        keys = shared.preprocessing.keys("chunk", chunk)
        parts = inference.segments(program, None if how is None else how.segment)
        masks = shared.weight_masks if how is None else SummedMasks(shared.weight_keys, program.weights)
        dealing = dealer.SegmentDealer(program, masks, keys.of, examples, parts)
        given = Delivery(
            shared.servers,
            keys.told,
            lambda server, key, dealt: server.deal(shared.model, self._reveal, chunk, key, examples, dealt, how),
            shared.model,
            chunk,
            range(len(parts)),
        )
        ahead = Ahead(self._threads)
        try:
            with span("dealing", model=shared.name, examples=examples, reveal=self._reveal, pieces=len(parts)):
                await ahead.deal(partial(next, dealing), partial(given.piece, 0))
                await ahead.sent()
        except ActorError as error:
            raise self._lost(error) from None
        finally:
            ahead.close()
        if len(parts) > 1:
            self._background.later(self._rest(dealing, given))
        return Chunk(chunk, dealing.input_mask)

    async def _rest(self, dealing: dealer.SegmentDealer, given: Delivery[ComputeServer]) -> None:
        with contextlib.closing(Ahead(self._threads)) as ahead:
            for number in given.numbers[1:]:
                await ahead.deal(partial(next, dealing), partial(given.piece, number))
            await ahead.sent()

    def _lost(self, error: ActorError) -> WorkerLost:
        return WorkerLost(f"a server of model {self._shared.name!r} did not take its randomness: {error}")

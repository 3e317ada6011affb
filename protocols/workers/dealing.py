"""How the crypto provider deals chunks of randomness to both servers: whole, ahead of requests, or in segments while a request runs.

It knows masks and no masked value. The mathematics runs in a thread.
"""

from __future__ import annotations

import asyncio
from functools import partial

from actors import ActorError
from protocols.concurrency import Background
from protocols.errors import WorkerLost
from protocols.link.threads import Threads
from protocols.mpc import dealer, inference
from protocols.mpc.operations.weights import SummedMasks
from protocols.mpc.parties.exchange import Ring
from protocols.serving.pool import Chunk
from protocols.serving.streams import Window
from protocols.serving.ticket import Reveal, Ticket, identifier
from protocols.workers import delivery
from protocols.workers.provided import Provided


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

    async def chunk(self, how: Window | None, examples: int) -> Chunk:
        """Deal a chunk, whole or in segments."""
        return await (self.whole(examples) if how is None else self.streamed(how))

    async def discard(self, chunk: Chunk) -> None:
        """Have both servers throw away what of a chunk was not granted. A server that is gone holds nothing."""
        left = Ticket(self._shared.model, b"", 0, self._reveal, chunk.identifier, chunk.granted, len(chunk.input_mask))
        await asyncio.gather(*(server.withdraw(self._shared.model, left) for server in self._shared.servers), return_exceptions=True)

    async def whole(self, examples: int) -> Chunk:
        """Deal a chunk: keys, the dealer's mathematics, then both servers at once; return when it is on stock there."""
        shared, chunk = self._shared, identifier()
        keys = shared.preprocessing.keys("chunk", chunk)

        def deal() -> dealer.Dealing:
            return dealer.deal(self._program, shared.weight_masks, keys.of, examples)

        dealing = await self._threads.run(deal)
        try:
            given = delivery.Dealt(shared.model, self._reveal, chunk, examples)
            await given.to(shared.servers, keys.told, dealing.dealt)
        except ActorError as error:
            raise self._lost(error) from None
        return Chunk(chunk, dealing.input_mask)

    async def streamed(self, how: Window) -> Chunk:
        """Deal the first segment of a chunk of one example, and begin to deal the others, each as soon as server 1 has room."""
        shared, chunk = self._shared, identifier()
        keys = shared.preprocessing.keys("chunk", chunk)
        parts = inference.segments(self._program, how.segment)
        dealing = dealer.SegmentDealer(self._program, SummedMasks(shared.weight_keys, self._program.weights), keys.of, 1, parts)
        given = delivery.Streamed(shared.model, chunk, shared.servers[1].with_options(timeout=None))
        try:
            await given.begin(shared.servers, self._reveal, keys.told, how)
            await self._segment(given, dealing, 0)
        except ActorError as error:
            raise self._lost(error) from None
        self._background.later(self._rest(given, dealing, len(parts)))
        return Chunk(chunk, dealing.input_mask)

    async def _rest(self, given: delivery.Streamed, dealing: dealer.SegmentDealer, count: int) -> None:
        """Deal the others; the server ends this when the ticket is used, or withdrawn: it has no room for any more."""
        for number in range(1, count):
            await self._segment(given, dealing, number)

    async def _segment(self, given: delivery.Streamed, dealing: dealer.SegmentDealer, number: int) -> None:
        words: Ring = await self._threads.run(partial(next, dealing))
        await given.segment(number, words)

    def _lost(self, error: ActorError) -> WorkerLost:
        return WorkerLost(f"a server of model {self._shared.name!r} did not take its randomness: {error}")

"""How weights and randomness get to the servers: in one message, or in pieces where that is too much for one, or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from actors.limits import largest_message
from protocols.link.keys import Told
from protocols.mpc.parties.exchange import Ring
from protocols.serving.pieces import sent_ahead
from protocols.serving.streams import Window
from protocols.serving.ticket import Reveal
from protocols.workers.compute_server import ComputeServer


async def load(server: ComputeServer, name: str, right: bytes, program: bytes, masked: Sequence[Ring]) -> None:
    """Send the masked weights of a model to one server.

    Args:
        server: that hosts it.
        name: of the model.
        right: of its owner at this server.
        program: fingerprint of the program.
        masked: the weights, in the order of the program.
    """

    async def ahead(parts: list[Ring]) -> None:
        await server.load_piece(name, right, program, parts)

    left = await sent_ahead(masked, await largest_message(server), ahead)
    await server.load(name, right, program, left)


@dataclass(frozen=True)
class Dealt:
    """A chunk of randomness on its way to both servers.

    Attributes:
        model: identifier of the model.
        reveal: the kind of answer that it is for.
        chunk: its identifier.
        examples: how many it serves.
    """

    model: bytes
    reveal: Reveal
    chunk: bytes
    examples: int

    async def to(self, servers: tuple[ComputeServer, ComputeServer], keys: Sequence[Told], words: Ring) -> None:
        """Give a key to each server, and `words` to the second, at once; return when both have prepared the chunk."""
        first, second = (server.with_options(timeout=None) for server in servers)
        await asyncio.gather(
            first.deal(self.model, self.reveal, self.chunk, keys[0], self.examples, None), self._to_second(second, keys[1], words)
        )

    async def _to_second(self, second: ComputeServer, key: Told, words: Ring) -> None:
        async def ahead(parts: list[Ring]) -> None:
            await second.deal_piece(self.model, self.reveal, self.chunk, self.examples, parts)

        left = await sent_ahead([words], await largest_message(second), ahead)
        await second.deal(self.model, self.reveal, self.chunk, key, self.examples, left[0] if left else np.zeros(0, np.uint64))


@dataclass(frozen=True)
class Streamed:
    """A chunk of randomness that goes to server 1 in segments.

    Attributes:
        model: identifier of the model.
        chunk: its identifier.
        second: server 1, which takes as long as it likes.
    """

    model: bytes
    chunk: bytes
    second: ComputeServer

    async def begin(self, servers: tuple[ComputeServer, ComputeServer], reveal: Reveal, keys: Sequence[Told], how: Window) -> None:
        """Tell both servers of the stream, each with its key."""
        await asyncio.gather(*(server.stream(self.model, reveal, self.chunk, key, how) for server, key in zip(servers, keys, strict=True)))

    async def segment(self, number: int, words: Ring) -> None:
        """Send a segment as soon as there is room for it; return when it is prepared."""
        await self.second.room(self.model, self.chunk, number)

        async def ahead(parts: list[Ring]) -> None:
            await self.second.segment(self.model, self.chunk, number, parts, False)

        left = await sent_ahead([words], await largest_message(self.second), ahead)
        await self.second.segment(self.model, self.chunk, number, left, True)

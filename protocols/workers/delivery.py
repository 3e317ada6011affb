"""How weights and randomness get to the servers: in one message, or in parts where that is too much for one, or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from actors.limits import largest_message
from protocols.concurrency import at_once
from protocols.link.keys import Told
from protocols.mpc.parties.exchange import Ring
from protocols.serving.pieces import fits, sent_ahead
from protocols.workers.compute_server import ComputeServer
from protocols.workers.supplied import Supplied


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


S = TypeVar("S", bound=Supplied)


@dataclass(frozen=True)
class Delivery(Generic[S]):
    """Pieces of randomness on their way to both servers: server 1 is sent them, one after the other, and server 0 makes its own.

    Attributes:
        servers: both, which may take as long as they like.
        keys: what each of them is told of its key.
        begin: tells one of them that pieces follow; of one that is alone with what is dealt, if it fits a message.
        name: of the model or the run of training.
        chunk: of the randomness of a model; empty for a run.
        numbers: of the pieces in their supply.
    """

    servers: tuple[S, S]
    keys: tuple[Told, Told]
    begin: Callable[[S, Told, Ring | None], Coroutine[Any, Any, None]]
    name: bytes
    chunk: bytes
    numbers: range

    async def piece(self, number: int, words: Ring) -> None:
        """Send a piece as soon as there is room for it; return when it is prepared."""
        if number == self.numbers.start:
            first, second = (server.with_options(timeout=None) for server in self.servers)
            await at_once(self.begin(first, self.keys[0], None), self._first(second, words))
        else:
            await self._sent(number, words)

    async def _first(self, second: S, words: Ring) -> None:
        alone = len(self.numbers) == 1 and fits(words.nbytes, await largest_message(second))
        await self.begin(second, self.keys[1], words if alone else None)
        if not alone:
            await self._sent(self.numbers.start, words)

    async def _sent(self, number: int, words: Ring) -> None:
        second = self.servers[1].with_options(timeout=None)
        await second.room(self.name, self.chunk, number)

        async def ahead(parts: list[Ring]) -> None:
            await second.segment(self.name, self.chunk, number, parts, False)

        left = await sent_ahead([words], await largest_message(second), ahead)
        await second.segment(self.name, self.chunk, number, left, True)

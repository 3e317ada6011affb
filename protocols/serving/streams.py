"""The randomness of one example that is larger than the memory for it: it comes in segments while the example is evaluated.

The program is cut where everybody cuts it (`mpc/engine/segments.py`). A server holds the segment that is in use, and the next ones as soon
as there is room for them; until its request has come, only the first. Each segment comes once, in order, when there is room, with as many
words as it has; anything else ends the stream, and with it the ticket, whose masks are never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

import msgspec

from protocols.errors import SharingError, TicketRefused, TooLarge, WorkerLost
from protocols.link.threads import Runner
from protocols.mpc import inference
from protocols.mpc.engine import segments
from protocols.mpc.engine.segments import Segment
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Material
from protocols.mpc.program import Program
from protocols.serving.pieces import Arriving

PARTS = 8
"""Segments of which as many fit the memory, where no operation needs more: one is in use, another one comes, others wait for requests."""
SLOWEST = 1 << 20
"""Bytes a second at which a segment has to come: it may take so much longer than a message does."""


class Window(msgspec.Struct, frozen=True):
    """How randomness is streamed; it follows from the program and the memory for it, and all three parties know both.

    Attributes:
        segment: bytes of a segment, at most, but of one operation that needs more.
        room: bytes that a server holds of one example at once.
    """

    segment: int
    room: int


def largest_operation(program: Program) -> int:
    """Return the bytes of randomness that the largest operation needs for one example: no server can do with less memory."""
    return max(inference.layout(program).sizes(1).values(), default=0)


def window(program: Program, memory: int) -> Window | None:
    """Return how the randomness of one example is streamed within so many bytes; None where it need not be.

    Raises:
        TooLarge: one operation alone needs more.
    """
    size, most = inference.layout(program).bytes_per_example, largest_operation(program)
    if size <= memory:
        return None
    if most > memory:
        raise TooLarge(f"one example needs {size:,} bytes of randomness at a server, {most:,} of them at once for one operation")
    segment = max(1, memory // PARTS)
    return Window(segment, min(memory, segments.room(inference.segments(program, segment))))


class Stream:
    """The randomness of one example at one server.

    Args:
        parts: the segments.
        reserved: bytes that may be here at once.
        prepare: makes the material of the next segment of what is dealt of it, None at party 0; slow.
        run: runs that in a thread.
        patience: seconds to wait for a message.
    """

    examples = 1

    def __init__(
        self, parts: Sequence[Segment], reserved: int, *, prepare: Callable[[Ring | None], Material], run: Runner, patience: float
    ) -> None:
        self.parts, self.reserved = parts, reserved
        self._prepare, self._run, self._patience = prepare, run, patience
        self._sizes = [part.size(1) for part in parts]
        if max(self._sizes) > reserved:
            raise SharingError(f"a segment of {max(self._sizes):,} bytes does not fit the {reserved:,} bytes of its stream")
        self._next = 0
        self._begun: int | None = None
        self._announced = False
        self._arriving: Arriving | None = None
        self._here: dict[int, Material] = {}
        self._failure: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def longest(self) -> float:
        """Seconds that a segment may take: as long as a message, and so much longer as it is larger."""
        return self._patience + max(self._sizes) / SLOWEST

    @property
    def held(self) -> int:
        """Bytes of the segments that are here, or are allowed to come, with the one in use."""
        return sum(self._sizes[self._begun or 0 : self._next + (self._arriving is not None)])

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken of it."""
        return self._failure is not None

    def slice(self, start: int, stop: int) -> Stream:
        """Return the stream: it serves one example."""
        return self

    def fail(self, error: Exception) -> None:
        """End it: whoever waits gets the error, and what is here is freed."""
        self._failure = self._failure or error
        self._here.clear()
        self._arriving = None
        self._tell()

    def close(self) -> None:
        """End it, used up or not."""
        self.fail(TicketRefused("the randomness of this ticket is wanted no more: it was used, or withdrawn"))

    def _tell(self) -> None:
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
        self._waiting.clear()

    async def _until(self, there: Callable[[], bool]) -> None:
        while self._failure is not None or not there():
            if self._failure is not None:
                raise self._failure
            one = asyncio.get_running_loop().create_future()
            self._waiting.append(one)
            await one

    # At party 1, from the provider.

    async def room(self, number: int) -> None:
        """Wait until segment `number` may come.

        Raises:
            TicketRefused: it is not the next one, or is announced twice; or nobody wants it any more.
        """
        if number != self._next or number >= len(self.parts) or self._announced:
            self._refuse(f"segment {number} is announced after {self._next + self._announced} of {len(self.parts)}")
        self._announced = True
        await self._until(lambda: self._fits(number))
        self._arriving = Arriving(self.parts[number].layout.words(1, dealt=True))

    def _fits(self, number: int) -> bool:
        if self._begun is None:
            return number == 0
        alive = sum(self._sizes[self._begun : number])
        return not alive or alive + self._sizes[number] <= self.reserved

    async def add(self, number: int, parts: Sequence[Ring], *, last: bool) -> None:
        """Take a piece of what is dealt for a segment; after the last one, prepare it.

        Raises:
            TicketRefused: there is no room for it yet, it has other words than the segment, or nobody wants it any more.
        """
        if self._failure is not None:
            raise self._failure
        if number != self._next or self._arriving is None:
            self._refuse(f"segment {number} came twice, or before there was room for it")
        try:
            self._arriving.add(parts)
            if not last:
                return
            dealt = self._arriving.complete()
        except SharingError as error:
            self._refuse(f"segment {number}: {error}")
        self._next, self._announced, self._arriving = number + 1, False, None
        await self._prepared(number, dealt)

    def _refuse(self, why: str) -> NoReturn:
        self.fail(WorkerLost(f"the crypto provider broke the stream of this ticket's randomness ({why}); ask again"))
        raise TicketRefused(f"{why}: segments come in order, each once, whole, and when there is room")

    # At party 0, from its key.

    async def feed(self) -> None:
        """Make one segment after the other, each when there is room for it."""
        for number in range(len(self.parts)):
            await self._until(lambda number=number: self._fits(number))  # type: ignore[misc]  # bound at once
            self._next = number + 1
            await self._prepared(number, None)

    async def _prepared(self, number: int, dealt: Ring | None) -> None:
        try:
            material = await self._run(partial(self._prepare, dealt))
        except BaseException:
            self.fail(WorkerLost("the randomness of this ticket could not be prepared; ask again"))
            raise
        if self._failure is not None:
            raise self._failure
        self._here[number] = material
        self._tell()

    # The evaluation.

    async def take(self, number: int) -> Material:
        """Wait for the material of a segment and take it away; those before it are used up.

        Raises:
            WorkerLost: it has not come in time, or the provider broke the stream.
            TicketRefused: the stream was closed.
        """
        self._begun = number
        self._tell()
        try:
            async with asyncio.timeout(self.longest):
                await self._until(lambda: number in self._here)
        except TimeoutError:
            raise WorkerLost(
                f"segment {number + 1} of {len(self.parts)} of this ticket's randomness did not come from the crypto provider within "
                f"{self.longest:g} s; ask again"
            ) from None
        return self._here.pop(number)


class Streams:
    """The open streams of one model at one server, by chunk.

    Args:
        most: bytes that all of them together may have reserved.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[bytes, Stream] = {}

    def __len__(self) -> int:
        return sum(not stream.ended for stream in self._open.values())

    def add(self, chunk: bytes, stream: Stream) -> None:
        """Take a new stream in.

        Raises:
            TicketRefused: a stream of this name is open.
            SharingError: it needs more than the others leave.
        """
        self._open = {name: one for name, one in self._open.items() if not one.ended}
        reserved = sum(one.reserved for one in self._open.values())
        if reserved + stream.reserved > self._most:
            raise SharingError(
                f"streams of {reserved:,} bytes are open, and one more of {stream.reserved:,} bytes: {self._most:,} are the most"
            )
        if chunk in self._open:
            raise TicketRefused("a stream of this name is open: the same masks never serve twice")
        self._open[chunk] = stream

    def __getitem__(self, chunk: bytes) -> Stream:
        """Return an open stream.

        Raises:
            TicketRefused: there is none of this name any more.
        """
        stream = self._open.get(chunk)
        if stream is None:
            raise TicketRefused("no stream of this name is open: it was used, withdrawn, or broken")
        return stream

    def close(self) -> None:
        """End all of them."""
        for stream in self._open.values():
            stream.close()

"""The randomness that a server is dealt ahead: numbered pieces, each once, in order, when there is room for it, and used once.

A piece is a segment of a program (`mpc/engine/segments.py`) or all of it: for some examples of a prediction, or for a step of a training.
Where there are several, the program is cut where everybody cuts it. A server holds the piece that is in use, and the next ones as soon as
there is room for them. Whatever comes twice, in another order, without room, or with other words than it has, ends the supply, and with it
what it was for: its masks are never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, NoReturn

from protocols.errors import SharingError, TicketRefused, WorkerLost
from protocols.link.threads import Runner
from protocols.mpc.engine.segments import Segment
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.material import Material
from protocols.serving.pieces import Arriving

SLOWEST = 1 << 20
"""Bytes a second at which a piece has to come: it may take so much longer than a message does."""


class ComingPiece(NamedTuple):
    """What is known of a piece before it comes.

    Attributes:
        part: of the program.
        examples: for which it is used together.
        prepare: makes the material of what is dealt, None at party 0; slow, and of one piece after the other.
    """

    part: Segment
    examples: int
    prepare: Callable[[Ring | None], Material]

    @property
    def size(self) -> int:
        """Bytes that a server needs for it."""
        return self.part.size(self.examples)

    @property
    def words(self) -> int:
        """Words that are dealt to party 1."""
        return self.part.layout.words(self.examples, dealt=True)


class Supply:
    """Pieces at one server; those to come may be told one after the other.

    Args:
        room: bytes that may be here at once, with the piece in use.
        run: runs what is slow in a thread.
        patience: seconds to wait for a message.
        eager: whether as many as there is room for may come before anything is used; else only the first.
        whose: what it serves, for errors.
        then: what whoever waits for it can do when it ends, for errors.
    """

    def __init__(
        self, room: int, *, run: Runner, patience: float, eager: bool = False, whose: str = "this ticket", then: str = "; ask again"
    ) -> None:
        self.reserved = room
        self._run, self._patience, self._whose, self._then = run, patience, whose, then
        self._pieces: dict[int, ComingPiece] = {}
        self._count = self._next = self._taken = self._largest = 0
        self._begun: int | None = 0 if eager else None
        self._announced = False
        self._arriving: Arriving | None = None
        self._here: dict[int, Material] = {}
        self._failure: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def extend(self, pieces: Sequence[ComingPiece]) -> range:
        """Learn what comes next; return the numbers of it.

        Raises:
            SharingError: one of them alone needs more than there is room for.
        """
        largest = max(piece.size for piece in pieces)
        if largest > self.reserved:
            raise SharingError(f"a piece of {largest:,} bytes does not fit the {self.reserved:,} bytes of its supply")
        numbers = range(self._count, self._count + len(pieces))
        self._pieces.update(zip(numbers, pieces, strict=True))
        self._count, self._largest = numbers.stop, max(self._largest, largest)
        self.tell()
        return numbers

    @property
    def parts(self) -> tuple[Segment, ...]:
        """Those of the pieces that are not used up."""
        return tuple(piece.part for piece in self._pieces.values())

    @property
    def streamed(self) -> bool:
        """Whether there is more than one piece."""
        return self._count > 1

    @property
    def whole(self) -> Material | None:
        """The material of the only piece, as soon as it is here."""
        return None if self.streamed else self._here.get(0)

    def drop(self) -> None:
        """Free the material of the only piece: whoever needs the rest of it has copied that."""
        self._here.clear()

    @property
    def longest(self) -> float:
        """Seconds that a piece may take: as long as a message, and so much longer as it is larger."""
        return self._patience + self._largest / SLOWEST

    @property
    def held(self) -> int:
        """Bytes of the pieces that are here, or are allowed to come, with the one in use."""
        return self._alive(self._next + (self._arriving is not None))

    @property
    def ended(self) -> bool:
        """Whether nothing more is taken of it."""
        return self._failure is not None

    def fail(self, error: Exception) -> None:
        """End it: whoever waits gets the error, and what is here is freed."""
        self._failure = self._failure or error
        self._here.clear()
        self._arriving = None
        self.tell()

    def close(self) -> None:
        """End it, used up or not."""
        self.fail(TicketRefused(f"the randomness of {self._whose} is wanted no more: it was used, or withdrawn"))

    def tell(self) -> None:
        """Have whoever waits look again."""
        for one in self._waiting:
            if not one.done():
                one.set_result(None)
        self._waiting.clear()

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait for something that somebody tells of.

        Raises:
            ProtocolError: the supply has ended, and why.
        """
        while self._failure is not None or not there():
            if self._failure is not None:
                raise self._failure
            one = asyncio.get_running_loop().create_future()
            self._waiting.append(one)
            await one

    def _alive(self, stop: int) -> int:
        return sum(self._pieces[number].size for number in range(self._begun or 0, stop))

    def _fits(self, number: int) -> bool:
        if self._begun is None:
            return number == 0
        alive = self._alive(number)
        return not alive or alive + self._pieces[number].size <= self.reserved

    # At party 1, from the third party.

    async def room(self, number: int) -> None:
        """Wait until a piece may come.

        Raises:
            TicketRefused: it is not the next one, or is announced twice; or nobody wants it any more.
        """
        if number != self._next or number >= self._count or self._announced:
            self._refuse(f"piece {number} is announced after {self._next + self._announced} of {self._count}")
        self._announced = True
        await self.until(lambda: self._fits(number))
        self._arriving = Arriving(self._pieces[number].words)

    async def add(self, number: int, parts: Sequence[Ring], *, last: bool) -> None:
        """Take a part of what is dealt for a piece; after the last one, prepare it.

        Raises:
            TicketRefused: there is no room for it yet, it has other words than the piece, or nobody wants it any more.
        """
        if self._failure is not None:
            raise self._failure
        if number != self._next or self._arriving is None:
            self._refuse(f"piece {number} came twice, or before there was room for it")
        try:
            self._arriving.add(parts)
            if not last:
                return
            dealt = self._arriving.complete()
        except SharingError as error:
            self._refuse(f"piece {number}: {error}")
        self._next, self._announced, self._arriving = number + 1, False, None
        await self._prepared(number, dealt)

    def _refuse(self, why: str) -> NoReturn:
        self.fail(WorkerLost(f"the crypto provider broke the stream of randomness of {self._whose} ({why}){self._then}"))
        raise TicketRefused(f"{why}: pieces come in order, each once, whole, and when there is room")

    # At party 0, from its key.

    async def feed(self, numbers: range) -> None:
        """Make some of the pieces, one after the other, each when there is room for it."""
        for number in numbers:
            await self.until(lambda number=number: self._next == number and self._fits(number))  # type: ignore[misc]  # bound at once
            self._next = number + 1
            await self._prepared(number, None)

    async def _prepared(self, number: int, dealt: Ring | None) -> None:
        try:
            material = await self._run(partial(self._pieces[number].prepare, dealt))
        except BaseException:
            self.fail(WorkerLost(f"the randomness of {self._whose} could not be prepared{self._then}"))
            raise
        if self._failure is not None:
            raise self._failure
        self._here[number] = material
        self.tell()

    # Whoever uses it.

    async def take(self, number: int, *, patient: bool = False) -> Material:
        """Wait for the material of a piece and take it away; those before it are used up.

        Args:
            number: of the piece, after those that were taken before.
            patient: wait as long as it takes, not `longest`.

        Raises:
            WorkerLost: it has not come in time, or the provider broke the stream.
            TicketRefused: it was taken before, or the supply was closed.
        """
        if number < self._taken:
            raise TicketRefused(f"piece {number} of the randomness of {self._whose} was used before: the same masks never serve twice")
        for used in range(self._begun or 0, number):
            del self._pieces[used]
        self._begun, self._taken = number, number + 1
        self.tell()
        try:
            async with asyncio.timeout(None if patient else self.longest):
                await self.until(lambda: number in self._here)
        except TimeoutError:
            raise WorkerLost(
                f"piece {number + 1} of {self._count} of the randomness of {self._whose} did not come from the crypto provider within "
                f"{self.longest:g} s{self._then}"
            ) from None
        return self._here.pop(number)

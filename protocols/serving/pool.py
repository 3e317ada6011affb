"""The provider's supply of randomness for one model and one kind of answer: dealt ahead, granted once, in turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from protocols.mpc.parties.exchange import Ring
from protocols.serving.turns import Client, Turns

QUICK = 8
"""Up to so many examples a request is a quick one: who asks waits for it."""
FINE = 16
"""Examples of a chunk, and of what is granted at once, while somebody else asks quick ones."""
CALM = 1.0
"""Seconds after a quick request for which others are served in fine parts."""
PACE = 0.1
"""Seconds for which a fine part waits at most for the one before it: where answers take longer on their way, several are on it."""
LATER = 0.25
"""Seconds for which dealing ahead waits at most while what was granted is used: where all share a machine, it would slow answers down."""
DEALERS = 2
"""How many chunks of one pool are dealt at once, so that computing one overlaps sending another."""


@dataclass
class Chunk:
    """A chunk that both servers have on stock; `granted` of its examples have been given away."""

    identifier: bytes
    input_mask: Ring = field(repr=False)
    granted: int = 0

    @property
    def left(self) -> int:
        """Examples not granted yet."""
        return len(self.input_mask) - self.granted


@dataclass(frozen=True)
class GrantedPart:
    """A range of a chunk, given to one request, with the mask of its inputs."""

    chunk: bytes
    start: int
    stop: int
    input_mask: Ring = field(repr=False)


async def _kept(chunk: Chunk) -> None:
    """Nobody holds anything of a chunk."""


class Pool:
    """Keeps `target` examples ready, and never more than `capacity` dealt and not yet used up.

    Args:
        deal: deals a chunk of so many examples to both servers and returns when it is on stock there.
        chunk: examples of a chunk.
        capacity: the most examples that the servers hold for this pool; at least one chunk.
        ahead: how many are dealt ahead before anybody asks.
        blocked: called when one more has to wait, and nothing can be dealt before something that was granted is settled.
        discard: has both servers throw away what of a chunk was not granted; returns when its memory is free.
    """

    def __init__(
        self,
        deal: Callable[[int], Awaitable[Chunk]],
        *,
        chunk: int,
        capacity: int,
        ahead: int,
        blocked: Callable[[], None] = lambda: None,
        discard: Callable[[Chunk], Awaitable[None]] = _kept,
    ) -> None:
        self._deal, self._discard = deal, discard
        self._chunk = chunk
        self._capacity = max(capacity, chunk)
        self._target = min(ahead, self._capacity)
        self._size = chunk
        self._quick: dict[Client, float] = {}
        self._resting = self._released = False
        self._needed = 0
        self._ready: deque[Chunk] = deque()
        self._dealing = 0
        self._outstanding = 0
        self._held: Counter[Client] = Counter()
        self._changed = asyncio.Condition()
        self._on_blocked = blocked
        self._turns = Turns(lambda client: self._held[client])
        self._failure: Exception | None = None

    @property
    def available(self) -> int:
        """Examples that can be granted at once."""
        return sum(chunk.left for chunk in self._ready)

    @property
    def blocked(self) -> bool:
        """Whether somebody waits and nothing can be dealt, because all that the servers may hold was granted and not settled."""
        return self._needed > 0 and not self._ready and not self._dealing and not self._short() and self._failure is None

    @property
    def clients(self) -> set[Client]:
        """Who waits."""
        return self._turns.clients

    @property
    def failure(self) -> Exception | None:
        """Why nothing more is dealt."""
        return self._failure

    async def run(self) -> None:
        """Deal until cancelled, or until a chunk cannot be dealt."""
        try:
            async with asyncio.TaskGroup() as dealers:
                for _ in range(DEALERS):
                    dealers.create_task(self._dealer())
        except* Exception as group:
            await self.fail(group.exceptions[0])

    async def _dealer(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(self._short)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LATER):
                        await self._changed.wait_for(lambda: self._urgent() or not self._outstanding)
                if not self._short():
                    continue
                size, deal = self._size, self._deal
                self._dealing += size
            try:
                chunk = await deal(size)
            finally:
                self._dealing -= size
            async with self._changed:
                self._ready.append(chunk)
                if deal is not self._deal or (self._released and not self._needed):
                    await self._empty()
                self._changed.notify_all()

    def _short(self) -> bool:
        ahead = self.available + self._dealing
        return ahead < max(self._target, self._needed) and ahead + self._outstanding + self._size <= self._capacity

    def _urgent(self) -> bool:
        """Whether somebody waits, or less than half of what should be ready is there or under way."""
        ahead = self.available + self._dealing
        return ahead < self._needed or 2 * ahead < self._target

    async def take(self, examples: int, client: Client = "") -> list[GrantedPart]:
        """Wait for its turn and until something is ready, then grant up to `examples` examples of what is there.

        While others wait, a turn takes no more than an equal share of what the servers hold. While another client asks quick requests, a
        larger one is granted and dealt for in parts of `FINE` examples, one after the other, so that the servers are never busy with so
        much of it that a quick one has to wait long.

        Raises:
            Busy: this client has too many requests in line.
        """
        if self.blocked:
            self._on_blocked()
        fine = await self._gives_way(examples, client)
        async with self._turns.turn(client), self._changed:
            if examples > QUICK:
                self._size = min(FINE, self._chunk) if fine else self._chunk
            self._needed = min(examples, self._capacity)
            if not self._resting:
                self._target = max(self._target, min(2 * examples, self._capacity))
            self._changed.notify_all()
            if self.blocked:
                self._on_blocked()
            try:
                await self._changed.wait_for(lambda: self._ready or self._failure)
            finally:
                self._needed = 0
            if self._failure is not None:
                raise self._failure
            others = self._turns.others(client)
            most = min(examples, FINE) if fine else examples
            grants = self._granted(min(most, max(1, self._capacity // (others + 1))) if others else most)
            self._held[client] += sum(grant.stop - grant.start for grant in grants)
            self._changed.notify_all()
            return grants

    async def _gives_way(self, examples: int, client: Client) -> bool:
        """Whether a request is served in fine parts; if so, waits until its client has used up what it holds, `PACE` seconds at most."""
        now = asyncio.get_running_loop().time
        self._quick = {one: last for one, last in self._quick.items() if last > now() - CALM}
        if examples <= QUICK:
            if self._held[client] <= QUICK:  # the last part of a large request is none
                self._quick[client] = now()
            return False
        if self._quick.keys() <= {client}:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PACE), self._changed:
                await self._changed.wait_for(lambda: self._held[client] <= 0 or self._failure)
        return True

    def _granted(self, examples: int) -> list[GrantedPart]:
        grants = []
        while examples and self._ready:
            chunk = self._ready[0]
            start, stop = chunk.granted, chunk.granted + min(examples, chunk.left)
            grants.append(GrantedPart(chunk.identifier, start, stop, chunk.input_mask[start:stop]))
            chunk.granted = stop
            examples -= stop - start
            if not chunk.left:
                self._ready.popleft()
        self._outstanding += sum(grant.stop - grant.start for grant in grants)
        return grants

    async def settle(self, examples: int, client: Client = "") -> None:
        """So many examples granted to a client have been used up, or withdrawn."""
        async with self._changed:
            self._outstanding -= examples
            self._held[client] -= examples
            if self._held[client] <= 0:
                del self._held[client]
            self._changed.notify_all()

    async def rest(self) -> None:
        """No request is to come: deals no more ahead."""
        async with self._changed:
            self._resting, self._target = True, 0

    async def release(self) -> None:
        """Answers of this kind are given no more: deals nothing ahead, and gives the memory of what was not granted back."""
        async with self._changed:
            self._resting, self._released, self._target = True, True, 0
            await self._empty()

    async def rebound(self, deal: Callable[[int], Awaitable[Chunk]], *, chunk: int, capacity: int) -> None:
        """Deal otherwise, within another bound, from now on. What was dealt before and not granted is thrown away first."""
        async with self._changed:
            self._deal, self._chunk, self._size, self._capacity = deal, chunk, chunk, max(capacity, chunk)
            self._target = min(self._target, self._capacity)
            self._needed = min(self._needed, self._capacity)
            await self._empty()
            self._changed.notify_all()

    async def _empty(self) -> None:
        while self._ready:
            await self._discard(self._ready.popleft())

    async def resume(self, ahead: int) -> None:
        """Deal ahead again: requests are to come."""
        async with self._changed:
            self._resting, self._released, self._target = False, False, min(ahead, self._capacity)
            self._changed.notify_all()

    async def fail(self, error: Exception) -> None:
        """Nothing more can be dealt: everybody who waits gets the error."""
        async with self._changed:
            self._failure = error
            self._changed.notify_all()

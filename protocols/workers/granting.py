"""The tickets of one model that are out: who gets them, and how they come back.

An unused ticket keeps nobody else out. Whoever takes tickets and does not use them holds randomness and, until both servers have ended with
them, places in the quota; both are taken back as soon as others wait for them and nothing has happened with the request for `GRACE`
seconds: first from the client that holds the most. A ticket that both servers work on is in use, and is never taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError, Caller
from protocols.errors import Busy
from protocols.serving.pool import Pool
from protocols.serving.requests import Request, RequestPart, Requests
from protocols.serving.ticket import Reveal, SignedTicket, Ticket, sign
from protocols.serving.turns import RETRY, Turns, client_of, without_name
from protocols.workers.compute_server import ComputeServer

GRACE = 3.0
"""Seconds that a ticket may stay unused while others wait for it; without them it lives as long as the owner says."""
PATIENCE = 1.0
"""Seconds that a request waits for a place before its client is told that the model is busy."""
MOST_OPEN = 1024
"""How many requests of one client may be under way at once."""

Later = Callable[[Coroutine[Any, Any, Any]], None]
"""Runs a message that nobody waits for."""


class Granted(msgspec.Struct, frozen=True):
    """One ticket and the mask of its inputs, (examples, *input_shape), for the client's eyes only."""

    ticket: SignedTicket
    input_mask: npt.NDArray[np.uint64]

    def __repr__(self) -> str:
        return f"Granted({self.ticket.ticket.examples} examples)"


class Grants(msgspec.Struct, frozen=True):
    """The tickets of a request that are ready; `left` examples are still to be granted."""

    request: bytes
    granted: list[Granted]
    left: int


class Granting:
    """Requests and tickets of one model at the provider.

    Args:
        model: its identifier.
        requests: their account.
        pools: the randomness of each kind of answer.
        servers: of the model.
        keys: which sign tickets for both servers.
        later: runs what nobody waits for.

    Attributes:
        lifetime: seconds that an unused ticket lives.
        lost: why nothing more is granted, or None.
    """

    def __init__(
        self,
        model: bytes,
        requests: Requests,
        pools: dict[Reveal, Pool],
        *,
        servers: Sequence[ComputeServer],
        keys: tuple[bytes, bytes],
        later: Later,
    ) -> None:
        self.lifetime = 60.0
        self.lost: Exception | None = None
        self._model, self._requests, self._pools, self._servers, self._keys, self._later = model, requests, pools, servers, keys, later
        self._turns = Turns(requests.held)
        self._waiting = 0
        self._relief = False

    @property
    def waiting(self) -> int:
        """Requests that wait for a place in the quota."""
        return self._waiting

    # What clients want.

    async def place(self, examples: int, reveal: Reveal, client: str, sender: Caller) -> Request:
        """Begin a request as soon as the quota has room for it.

        Raises:
            QuotaSpent: the owner allowed no more.
            Busy: what is left is promised to others; or this client has too much under way.
        """
        self._requests.room(examples)
        whose = client_of(sender)
        if self._requests.held(whose) >= MOST_OPEN:
            raise Busy(f"{MOST_OPEN} requests of this client are under way; it has to use its tickets first", RETRY)
        if self._waiting:
            self.relieve()
        try:
            async with asyncio.timeout(PATIENCE), self._turns.turn(whose):
                self._waiting += 1
                try:
                    async with self._requests.changed:
                        if not self._requests.room(examples):
                            self.relieve()
                            await self._requests.changed.wait_for(lambda: self.lost or self._requests.room(examples))
                        if self.lost is not None:
                            raise self.lost
                        request = self._requests.open(examples, reveal, client, sender)
                finally:
                    self._waiting -= 1
        except TimeoutError:
            raise Busy("what is left of the owner's quota is promised to requests that are under way", RETRY) from None
        self._touch(request)
        return request

    async def grant(self, request: Request) -> Grants:
        """Give the next tickets of a request, as soon as there are any.

        Raises:
            Busy: this client has too much in line; or it did not use what it has, and others waited for it.
        """
        request.waiting, wanted = True, request.examples
        try:
            grants = await self._pools[request.reveal].take(wanted - request.granted, request.owner)
        except BaseException:  # the client has gone, has too much in line, or the pool is lost
            request.give_up()
            self._later(self._closed(request))
            raise
        finally:
            request.waiting = False
        granted = []
        for grant in grants:
            number = len(request.parts)
            ticket = Ticket(
                self._model,
                request.identifier,
                number,
                request.reveal,
                grant.chunk,
                grant.start,
                grant.stop,
                request.client,
                request.holders,
            )
            part = RequestPart(ticket)
            part.expiry = asyncio.get_running_loop().call_later(self.lifetime, self._expire, request, part)
            request.parts.append(part)
            request.granted += ticket.examples
            granted.append(Granted(sign(ticket, self._keys), grant.input_mask))
        self._touch(request)
        if request.examples < wanted:  # it was given up while it waited
            request.give_up()
            for part in request.parts[-len(grants) :]:
                self._later(self._withdraw(request, part))
            raise Busy("others waited for what this request held and did not use; it was given up", RETRY)
        if self._short(None) or any(map(self._short, self._pools)):
            self.relieve()
        return Grants(request.identifier, granted, max(0, request.examples - request.granted))

    def _touch(self, request: Request) -> None:
        request.touched = asyncio.get_running_loop().time()

    # What becomes of tickets.

    async def ended(self, request: Request, part: RequestPart, party: int, released: bool) -> None:
        """Note that a server is done with a ticket, or will never begin with it."""
        if part.settled:
            return
        part.end(party, released)
        self._touch(request)
        if not released:
            request.give_up()
        if not part.settled:
            if not released:
                self._later(self._withdraw(request, part))
            return
        if part.expiry is not None:
            part.expiry.cancel()
        await self._pools[request.reveal].settle(part.ticket.examples, request.owner)
        if request.idle and not request.settled:
            asyncio.get_running_loop().call_later(self.lifetime, self._abandon, request, request.granted)
        await self._closed(request)

    def _expire(self, request: Request, part: RequestPart) -> None:
        self._later(self._withdraw(request, part))

    async def _withdraw(self, request: Request, part: RequestPart) -> None:
        """Take an unused ticket back where no server has begun with it; where one has, it will tell how it ended."""
        for party, server in enumerate(self._servers):
            if party not in part.ended and await server.withdraw(self._model, part.ticket):
                await self.ended(request, part, party, False)

    def _abandon(self, request: Request, granted: int) -> None:
        """Give up the rest of the tickets of a client that has not come back for them."""
        if request.granted == granted and not request.waiting:
            request.give_up()
            self._later(self._closed(request))

    async def _closed(self, request: Request) -> None:
        """Close a request that has ended. One that got no answer does not count."""
        if request.settled:
            await self._requests.close(request)

    # Taking back what nobody uses and others wait for.

    def relieve(self) -> None:
        """See to it that who waits gets what others do not use."""
        if not self._relief:
            self._relief = True
            self._later(self._relieving())

    def _short(self, reveal: Reveal | None) -> bool:
        """Return whether somebody waits for a place in the quota (None), or for randomness of a kind, and only what is out can help."""
        return self._waiting > 0 if reveal is None else self._pools[reveal].blocked

    def _wanted(self, request: Request) -> bool:
        """Return whether another client waits for what a request holds, and does not use right now."""
        if request.idle if request.waiting else request.settled:
            return False
        waiting = self._turns.clients if self._short(None) else set()
        if self._short(request.reveal):
            waiting |= self._pools[request.reveal].clients
        return bool(waiting - {request.owner})

    async def _relieving(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while wanted := [request for request in self._requests.open_ones if self._wanted(request)]:
                ripe = [request for request in wanted if loop.time() - request.touched >= GRACE]
                if ripe:
                    await self._take_back(
                        max(ripe, key=lambda one: (self._requests.held(one.owner), without_name(one.owner), -one.touched))
                    )
                else:
                    await asyncio.sleep(max(0.0, min(request.touched for request in wanted) + GRACE - loop.time()))
        except ActorError:
            return  # a server is lost: who watches it tells everybody
        finally:
            self._relief = False

    def _first_to_give(self, request: Request) -> tuple[int, bool, float]:
        """Return what is larger the sooner a request is taken back: of who holds most, of who has no name, and the oldest."""
        return self._requests.held(request.owner), without_name(request.owner), -request.touched

    async def _take_back(self, request: Request) -> None:
        """Withdraw the tickets of a request, unless both servers work on one of them; the rest of it is not granted."""
        self._touch(request)
        first, second = await asyncio.gather(*(server.under_way(self._model, request.identifier) for server in self._servers))
        if set(first) & set(second):
            return
        request.give_up()
        for part in request.parts:
            if not part.settled:
                await self._withdraw(request, part)
        await self._closed(request)

"""The actor that deals correlated randomness and issues one-time tickets: the third party of a cluster, or of a model among three equals.

It knows masks and no masked value. Its messages come from the owner (`open`, `serve`, `answered`, `keep`, `remove`), clients (`request`,
`more`, `remaining`), and the servers (`settle`, `leaving`, `knows`): none carries anything that depends on a weight, an input or an
answer. Who a message may come from is in its declaration; which worker is meant follows from the model's name.

Adversary: semi-honest; it colludes with nobody. **Leaks** to it: the program, who asks when, how many examples, whether it was answered.
"""

from __future__ import annotations

import asyncio

from actors import caller, message
from actors.observing.notes import noted
from protocols.authority.membership import CLIENT, OWNER, SERVER
from protocols.errors import BudgetSpent, Busy, NotServed, Resuming, TicketRefused, UnknownModel
from protocols.serving.allowance import Tally
from protocols.serving.requests import Request
from protocols.serving.ticket import Reveal, traced
from protocols.serving.turns import RETRY
from protocols.workers.dealt_models import DealtModels
from protocols.workers.granting import Grants
from protocols.workers.provided import Provided, same_client

DIGEST_BYTES = 32


class CryptoProvider(DealtModels):
    """Deals randomness to two servers and tickets to clients; see `DealtModels` for what owners do, and for its arguments."""

    # The owner's messages.

    @message(reentrant=True, by=OWNER)
    async def answered(self, name: str, right: bytes, after: int) -> Tally:
        """Wait until more than `after` requests have been answered, or a server is lost; return how many have been."""
        shared = self._owned(name, right)
        requests = shared.requests
        async with requests.changed:
            await requests.changed.wait_for(lambda: requests.answered > after or shared.lost or self._models.get(name) is not shared)
        if shared.lost is not None:
            raise shared.lost
        if self._models.get(name) is not shared:
            self._shared(name)
            raise Resuming(f"the workers of model {name!r} have come together again", 0.0)
        return Tally(requests.answered, requests.examples)

    @message(reentrant=True, by=OWNER)
    async def prepared(self, name: str, right: bytes, reveal: Reveal) -> int:
        """How many examples are dealt ahead for a kind of answer, ready at both servers."""
        pool = self._owned(name, right).pools.get(reveal)
        return pool.available if pool else 0

    # The clients' messages.

    @message(reentrant=True, by=CLIENT)
    async def request(self, name: str, model: bytes, examples: int, reveal: Reveal, holders: tuple[bytes, bytes]) -> Grants:
        """Begin a request and return its first tickets, as soon as there are any.

        Where answers are noisy, the budget of the client, who is known by its certificate, pays here and now, whatever becomes of it. The
        quota pays for what is answered. Until then it has a place in it, and keeps it as long as it uses its tickets or nobody else waits.

        Args:
            name: of the model.
            model: its identifier, from the handshake.
            examples: how many, at least 1.
            reveal: the kind of answer.
            holders: digests of the client's rights to the tickets at server 0 and at server 1.

        Raises:
            QuotaSpent: the owner allowed no more, or fewer examples; the message says how many are left.
            Busy: what is left is promised to others, this client has too much under way, or the model is shared anew and not served yet.
                Nothing was spent. `Resuming`: it stays, and a worker was lost or has been told to end.
            WorkerLost: it does not stay, and so.
            BudgetSpent: fewer noisy answers are left for this client.
            NotServed, UnknownModel, TicketRefused: there is no such model, kind of answer or request.
        """
        noted(model=name, examples=examples, reveal=reveal)
        if name in self._opening:
            raise Busy(f"model {name!r} is being shared", RETRY)
        shared = self._shared(name)
        shared.check_begins()
        if shared.model != model:
            raise UnknownModel(f"model {name!r} was shared anew, perhaps with another program; connect to it again")
        if shared.again and not shared.reveal:
            raise Busy(f"model {name!r} is about to be served anew", RETRY)
        if reveal not in shared.reveal:
            raise NotServed(f"model {name!r} is not served with answers of kind {reveal!r} now (served: {list(shared.reveal)})")
        if examples < 1:
            raise TicketRefused(f"{examples} examples were asked for; at least one is needed")
        if {len(holder) for holder in holders} != {DIGEST_BYTES} or holders[0] == holders[1]:
            raise TicketRefused(f"a client shows another right at each server: two different digests of {DIGEST_BYTES} bytes are needed")
        request = await self._opened(shared, examples, reveal)
        request.holders = holders
        noted(request=traced(request.identifier))
        await shared.charge(request)
        if shared.requests.left < 1:
            for pool in shared.pools.values():
                await pool.rest()
        return await self._grant(shared, request)

    async def _opened(self, shared: Provided, examples: int, reveal: Reveal) -> Request:
        sender = caller()
        if shared.budget is None:
            return await shared.granting.place(examples, reveal, "", sender)
        client = sender.common_name
        shared.budget.check(client, examples)
        request = await shared.granting.place(examples, reveal, client, sender)
        try:
            shared.budget.spend(client, examples)
        except BudgetSpent:  # by another request of this client, while this one waited
            request.give_up()
            await shared.requests.close(request)
            raise
        return request

    @message(reentrant=True, by=CLIENT)
    async def remaining(self, name: str) -> int | None:
        """How many noisy answers a client may still get; None if they are not counted.

        The servers have counted no more than this provider: they answer its tickets only.
        """
        budget = self._shared(name).budget
        return None if budget is None else budget.left(caller().common_name)

    @message(reentrant=True, by=CLIENT)
    async def more(self, name: str, request: bytes) -> Grants:
        """Return the next tickets of a request."""
        shared = self._shared(name)
        found = shared.requests.get(request)
        if found is None or found.granted >= found.examples or not same_client(found.sender, caller()):
            raise TicketRefused(f"no such request for model {name!r} is waiting for tickets; begin a new one")
        if found.waiting:
            raise TicketRefused(f"the tickets of this request for model {name!r} are being waited for already; ask once at a time")
        return await self._grant(shared, found)

    async def _grant(self, shared: Provided, request: Request) -> Grants:
        if shared.lost is not None:
            raise shared.lost
        return await shared.granting.grant(request)

    # The end of a worker that has been told to.

    @message(reentrant=True)
    async def drain(self) -> None:
        """Begin no request; return when those under way have ended. This worker's own process alone can send it."""
        await asyncio.gather(*(shared.drained("its third party") for shared in self._models.values()))

    @message(reentrant=True, by=SERVER)
    async def leaving(self, model: bytes, party: int) -> None:
        """Server `party`, 0 or 1, has been told to end: see `Settlement`."""
        for shared in list(self._models.values()):
            if shared.model == model and party in (0, 1):
                self._cluster.require(shared.seats.servers[party], "leaving")
                await shared.drained(f"its server {party}")
                return

    # The servers' messages.

    @message(reentrant=True, by=SERVER)
    async def knows(self, model: bytes) -> bool:
        """Tell a server whether a model is still shared."""
        return any(model == shared.model for shared in self._models.values())

    @message(reentrant=True, by=SERVER)
    async def settle(self, model: bytes, request: bytes, part: int, party: int, answered: bool) -> None:
        """Server `party`, 0 or 1, tells how a part of a request ended there."""
        for shared in self._models.values():
            if shared.model == model and party in (0, 1):
                self._cluster.require(shared.seats.servers[party], "settle")
                found = shared.requests.get(request)
                if found is not None and 0 <= part < len(found.parts):
                    await shared.granting.ended(found, found.parts[part], party, answered)
                return

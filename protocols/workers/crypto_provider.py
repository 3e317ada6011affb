"""The actor that deals correlated randomness and issues one-time tickets: the third party of a cluster, or of a model among three equals.

It knows masks and no masked value. Its messages come from the owner (`open`, `serve`, `answered`, `remove`), clients (`request`, `more`,
`remaining`), and the servers (`settle`, `knows`): none carries anything that depends on a weight, an input or an answer. Who a message
may come from is in its declaration; which worker is meant follows from the model's name.

Adversary: semi-honest; it colludes with nobody. **Leaks** to it: the program, who asks when, how many examples, whether it was answered.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from actors import caller, message
from actors.observing.figures import Figure, state
from actors.observing.log_lines import event
from actors.observing.notes import noted
from protocols.authority.membership import CLIENT, OWNER, SERVER, Membership
from protocols.authority.presence import Presence, check_presence
from protocols.authority.rights import Claim
from protocols.concurrency import Background
from protocols.errors import (
    BudgetSpent,
    Busy,
    ClusterError,
    NameTaken,
    NotServed,
    ServingError,
    TicketRefused,
    UnknownModel,
    WorkerLost,
)
from protocols.link.keys import third_party
from protocols.link.threads import Threads
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.serving.allowance import Allowance, Opening, Tally
from protocols.serving.claims import check_guarantee, check_terms
from protocols.serving.hosting import check_program
from protocols.serving.memory import MemoryPlan, memory_plans
from protocols.serving.pool import Pool
from protocols.serving.requests import Request
from protocols.serving.room import Room, weight_bytes
from protocols.serving.settlement import Settlement
from protocols.serving.ticket import Reveal, identifier, traced
from protocols.serving.turns import RETRY
from protocols.workers.compute_server import ComputeServer
from protocols.workers.dealing import ChunkDealer
from protocols.workers.granting import Grants
from protocols.workers.provided import Provided, same_client
from protocols.workers.shown import PROVIDER

DIGEST_BYTES = 32
LONGEST_LIFETIME = 1e7

log = logging.getLogger(__name__)


class CryptoProvider(Settlement):
    """Deals randomness to two servers and tickets to clients.

    Args:
        cluster: whose third party it is.
    """

    def __init__(self, cluster: Membership | None = None) -> None:
        self._cluster = cluster or Membership()
        self._models: dict[str, Provided] = {}
        self._opening: set[str] = set()
        self._background = Background()
        self._room = Room()
        self._dealer = Threads("dealer", 1)

    async def stopped(self) -> None:
        """End what runs in the background."""
        tasks = [task for shared in self._models.values() for task in shared.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._background.ended()
        self._dealer.close()

    async def observed(self) -> list[Figure]:
        """Return what this worker shows as third party; see `actors.observing.figures`."""
        models = state("models", "models that are shared", len(self._models), part=PROVIDER)
        return [models, *(one for shared in self._models.values() for one in shared.figures())]

    def _shared(self, name: str) -> Provided:
        if name not in self._models:
            shared = ", ".join(sorted(self._models)) or "none"
            raise UnknownModel(f"no model named {name!r} is shared here (shared: {shared})")
        return self._models[name]

    def _owned(self, name: str, right: bytes) -> Provided:
        shared = self._shared(name)
        shared.claim.check(right, f"the model {name!r}")
        return shared

    # The owner's messages.

    @message(reentrant=True, by=OWNER)
    async def open(
        self,
        name: str,
        program: Program,
        equals: bool,
        digest: bytes,
        presence: Presence,
        guarantee: Guarantee | None = None,
        right: bytes | None = None,
    ) -> Opening:
        """Begin to share a model: tell both servers, and give the owner the masks of the weights.

        The model is removed when its owner is gone: when `presence` ends, or the connection to it. Before this, the owner claims the name
        at both servers.

        Args:
            name: of the model.
            program: its public half.
            equals: whether the owner takes the cluster for one of three equals.
            digest: of the owner's right here.
            presence: of the owner, over the connection of this message.
            guarantee: where answers are noisy.
            right: to the model of that name that is shared here, in whose place this one comes: what was spent of a budget is spent.

        Raises:
            NotOwner: that model is somebody else's.
            ClusterError: this worker is not the third party of that name, or belongs to another cluster.
            NameTaken: the name is somebody's already.
            NotAllowed: the cluster file says whose it is.
            TooLarge: the weights are, or with those of the other models of this owner. Nothing was allocated.
        """
        seats = self._cluster.seats(equals, name)
        if seats.third != self._cluster.place:
            raise ClusterError(
                f"this worker is not the third party of the model {name!r}: list the three workers in the order of the cluster"
            )
        self._cluster.check_name(name)
        check_presence(self.system, presence)
        claim = Claim.of_caller(digest)
        before = self._models.get(name) if right is not None else None
        if before is not None and right is not None:
            before.claim.check(right, f"the model {name!r}")
        if (name in self._models and before is None) or name in self._opening:
            raise NameTaken(f"a model named {name!r} is shared here already; choose another name or stop it first")
        check_program(program)
        check_guarantee(program, guarantee)
        self._opening.add(name)
        try:
            if before is not None:
                await self._removed(before)
            self._room.take(claim.holder, weight_bytes(program))
        except BaseException:
            self._opening.discard(name)
            raise
        try:
            urls = [self._cluster.address(place) for place in seats.servers]
            first, second = [await self.system.connect(f"{url}/server", ComputeServer) for url in urls]
            model = identifier()
            seals: dict[int, bytes] = {}

            async def agree(party: int, public: bytes | None) -> bytes | None:
                agreed = await (first, second)[party].agree(name, model, equals, public)
                seals[party] = agreed.seal
                return agreed.helper

            preprocessing = await third_party(equals, model, [partial(agree, 0), partial(agree, 1)])
            servers, both = (first, second), (seals[0], seals[1])
            shared = Provided(name, program, seats, claim, servers, guarantee, model, preprocessing, both, self._background.later)
            if before is not None and before.budget is not None and shared.budget is not None:
                shared.budget.spent_before(before.budget)
            shared.again = before is not None and before.reveal != ()
            await self._host(shared)
            self._models[name] = shared
        except BaseException:
            self._room.give(claim.holder, weight_bytes(program))
            raise
        finally:
            self._opening.discard(name)
        shared.tasks += [asyncio.create_task(self._watch(shared, party)) for party in (0, 1)]
        shared.tasks.append(asyncio.create_task(self._watch_owner(shared, presence)))
        return Opening(shared.weight_keys)

    async def _host(self, shared: Provided) -> None:
        hosted: list[int] = []
        try:
            for party, server in enumerate(shared.servers):
                await server.host(shared.hostings[party])
                hosted.append(party)
        except BaseException:
            for party in hosted:
                self._background.later(shared.servers[party].retire(shared.model))
            raise

    async def _watch(self, shared: Provided, party: int) -> None:
        ended = await self.system.watch(shared.servers[party])
        await self._lose(shared, f"server {party} of model {shared.name!r} is gone: {ended.reason}")

    async def _supply_from(self, pool: Pool, shared: Provided) -> None:
        await pool.run()
        await self._lose(shared, f"nothing more can be dealt for model {shared.name!r}: {pool.failure}")

    async def _lose(self, shared: Provided, why: str) -> None:
        """Tell everybody who waits for a model that it is no more."""
        if shared.lost is None:
            event(log, logging.WARNING, "model lost", model=shared.name, reason=why)
        shared.lost = shared.granting.lost = shared.lost or WorkerLost(f"{why}; the model must be shared again")
        for pool in shared.pools.values():
            await pool.fail(shared.lost)
        await shared.requests.tell()

    async def _watch_owner(self, shared: Provided, presence: Presence) -> None:
        ended = await self.system.watch(presence)
        event(log, logging.INFO, "owner gone", model=shared.name, reason=ended.reason)
        for server in shared.servers:
            self._background.later(server.retire(shared.model))
        self._background.later(self._removed(shared))

    @message(reentrant=True, by=OWNER)
    async def serve(self, name: str, right: bytes, allowance: Allowance) -> None:
        """Allow requests, and begin to deal ahead."""
        noted(model=name, requests=allowance.terms.total)
        shared = self._owned(name, right)
        if not 0 < allowance.ticket_lifetime <= LONGEST_LIFETIME:  # NaN would put all timers of this process out of order
            raise ServingError(f"tickets live for {allowance.ticket_lifetime} seconds; above 0 and up to {LONGEST_LIFETIME:g} are possible")
        check_terms(shared.program, allowance.terms.total, allowance.terms.reveal, allowance.terms.examples)
        limits = memory_plans(name, shared.program, allowance.terms.reveal, allowance.memory)
        shared.granting.lifetime = allowance.ticket_lifetime
        for reveal in set(shared.pools) - set(limits):
            await shared.pools[reveal].release()
        for reveal in sorted(limits, key=lambda kind: kind not in shared.pools):  # what is there gives memory back for what is new
            await self._supply(shared, reveal, limits[reveal], allowance.ahead)
        shared.reveal = allowance.terms.reveal
        shared.requests.allow(allowance.terms.total, allowance.terms.examples)
        await shared.requests.tell()

    async def _supply(self, shared: Provided, reveal: Reveal, limit: MemoryPlan, wanted: int) -> None:
        """Deal for a kind of answer within a limit from now on, `wanted` examples ahead, or a chunk if that is 0."""
        ahead, pool, before = wanted or limit.chunk, shared.pools.get(reveal), shared.plans.get(reveal)
        dealing = ChunkDealer(shared, reveal, self._dealer, self._background)
        deal = partial(dealing.chunk, limit.how)
        shared.plans[reveal] = limit
        if pool is None:
            pool = shared.pools[reveal] = Pool(
                deal,
                chunk=limit.chunk,
                capacity=limit.capacity,
                ahead=ahead,
                blocked=shared.granting.relieve,
                discard=dealing.discard,
            )
            shared.tasks.append(asyncio.create_task(self._supply_from(pool, shared)))
            return
        if before != limit:
            await pool.rebound(deal, chunk=limit.chunk, capacity=limit.capacity)
        await pool.resume(ahead)

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
            raise UnknownModel(f"model {name!r} has been stopped")
        return Tally(requests.answered, requests.examples)

    @message(reentrant=True, by=OWNER)
    async def prepared(self, name: str, right: bytes, reveal: Reveal) -> int:
        """How many examples are dealt ahead for a kind of answer, ready at both servers."""
        pool = self._owned(name, right).pools.get(reveal)
        return pool.available if pool else 0

    @message(reentrant=True, by=OWNER)
    async def remove(self, name: str, right: bytes) -> None:
        """Forget a model; who waits for it is told."""
        noted(model=name)
        await self._removed(self._owned(name, right))

    async def _removed(self, shared: Provided) -> None:
        if self._models.get(shared.name) is not shared:
            return
        del self._models[shared.name]
        self._room.give(shared.claim.holder, weight_bytes(shared.program))
        gone = UnknownModel(f"model {shared.name!r} has been stopped")
        shared.granting.lost = shared.granting.lost or gone
        for task in shared.tasks:
            task.cancel()
        for pool in shared.pools.values():
            await pool.fail(gone)
        await shared.requests.tell()

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
                Nothing was spent.
            BudgetSpent: fewer noisy answers are left for this client.
            NotServed, UnknownModel, TicketRefused: there is no such model, kind of answer or request.
        """
        noted(model=name, examples=examples, reveal=reveal)
        if name in self._opening:
            raise Busy(f"model {name!r} is being shared", RETRY)
        shared = self._shared(name)
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

"""The third party's side of models that are served now: keys that are agreed on, supplies of randomness, and who is watched."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from actors.observing.log_lines import event
from protocols.authority.membership import Membership
from protocols.authority.rights import Claim
from protocols.authority.seats import THIRD, Seats
from protocols.concurrency import Background
from protocols.errors import Resuming, UnknownModel, WorkerLost
from protocols.link.keys import third_party
from protocols.link.threads import Threads
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.serving.allowance import Allowance
from protocols.serving.lasting import Lasting, LastingModels
from protocols.serving.memory import MemoryPlan, memory_plans
from protocols.serving.pool import Pool
from protocols.serving.room import Room, weight_bytes
from protocols.serving.settlement import Settlement
from protocols.serving.ticket import Reveal, identifier
from protocols.serving.turns import RETRY
from protocols.storage.holdings import Holdings
from protocols.workers.compute_server import ComputeServer
from protocols.workers.dealing import ChunkDealer
from protocols.workers.provided import Provided

log = logging.getLogger(__name__)


class Sessions(Settlement):
    """The part of a third party that nobody asks by itself.

    Args:
        cluster: whose third party it is.
        holdings: of this worker.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None) -> None:
        self._cluster = cluster or Membership()
        self._models: dict[str, Provided] = {}
        self._background = Background()
        self._room = Room()
        self._dealer = Threads("dealer", 1)
        self._lasting = LastingModels(holdings or Holdings(), (THIRD,))

    async def stopped(self) -> None:
        """End what runs in the background."""
        tasks = [task for shared in self._models.values() for task in shared.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._background.ended()
        await self._lasting.close()
        self._dealer.close()

    def _shared(self, name: str) -> Provided:
        if name not in self._models:
            lasting = self._lasting.get(name)
            if lasting is not None:
                raise Resuming(f"model {name!r} stays, and is not served yet: {lasting.told}", RETRY)
            shared = ", ".join(sorted(self._models)) or "none"
            raise UnknownModel(f"no model named {name!r} is shared here (shared: {shared})")
        return self._models[name]

    def _owned(self, name: str, right: bytes) -> Provided:
        self._lasting.owned(name, right)
        shared = self._shared(name)
        shared.claim.check(right, f"the model {name!r}")
        return shared

    async def _agreed(
        self, name: str, program: Program, seats: Seats, claim: Claim, guarantee: Guarantee | None, lasting: Lasting | None = None
    ) -> Provided:
        """Reach both servers, and agree on fresh keys for a session of a model under a fresh identifier; nothing is hosted yet."""
        urls = [self._cluster.address(place) for place in seats.servers]
        first, second = [await self.system.connect(f"{url}/server", ComputeServer) for url in urls]
        model = identifier()
        seals: dict[int, bytes] = {}

        async def agree(party: int, public: bytes | None) -> bytes | None:
            agreed = await (first, second)[party].agree(name, model, seats.equals, public)
            seals[party] = agreed.seal
            return agreed.helper

        preprocessing = await third_party(seats.equals, model, [partial(agree, 0), partial(agree, 1)])
        servers, both = (first, second), (seals[0], seals[1])
        return Provided(name, program, seats, claim, servers, guarantee, model, preprocessing, both, self._background.later, lasting)

    def _begun(self, shared: Provided) -> None:
        """Offer a session that both servers host."""
        self._models[shared.name] = shared
        shared.tasks += [asyncio.create_task(self._watch(shared, party)) for party in (0, 1)]

    async def _watch(self, shared: Provided, party: int) -> None:
        ended = await self.system.watch(shared.servers[party])
        await self._lose(shared, f"server {party} of model {shared.name!r} is gone: {ended.reason}")

    async def _lose(self, shared: Provided, why: str) -> None:
        """Tell everybody who waits for a session that it is no more."""
        if shared.lost is None:
            ended = Resuming(f"{why}; the model stays, and its workers come together again", RETRY) if shared.lasting is not None else None
            shared.lost = ended or WorkerLost(f"{why}; the model must be shared again")
            shared.why = why
            event(log, logging.WARNING, "model lost", model=shared.name, reason=why)
        shared.granting.lost = shared.lost
        shared.ended.set()
        for pool in shared.pools.values():
            await pool.fail(shared.lost)
        await shared.requests.tell()

    async def _removed(self, shared: Provided) -> None:
        """End a session."""
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

    # What it deals.

    async def _allow(self, shared: Provided, allowance: Allowance) -> None:
        """Serve as the owner allows, and deal ahead for it."""
        limits = memory_plans(shared.name, shared.program, allowance.terms.reveal, allowance.memory)
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

    async def _supply_from(self, pool: Pool, shared: Provided) -> None:
        await pool.run()
        await self._lose(shared, f"nothing more can be dealt for model {shared.name!r}: {pool.failure}")

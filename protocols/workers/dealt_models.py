"""The third party's models as their owners have to do with them: shared, allowed, kept, and the end; and how those that stay come back.

A model that stays is served in sessions. Whenever one of the three workers was lost, the third party begins a new one as soon as it reaches
both servers: (1) they agree on new keys, as for a new model; (2) each server takes its shares of the weights from its folder, and both open
W + lambda_W under new masks; (3) the third party compares the seals of that; (4) what the owner has allowed holds, less what each of the
three has counted by itself. No key, mask, ticket or piece of randomness of one session is worth anything in another one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging

import msgspec

from actors import ActorError, message
from actors.observing.figures import Figure, state
from actors.observing.log_lines import event
from actors.observing.notes import noted
from protocols.authority.membership import OWNER, Membership
from protocols.authority.presence import Presence, check_presence
from protocols.authority.rights import Claim
from protocols.authority.seats import THIRD, Seats
from protocols.concurrency import at_once
from protocols.errors import Altered, ClusterError, NameTaken, ProtocolError, ServingError
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.serving.allowance import Allowance, ModelStanding, Opening
from protocols.serving.claims import check_guarantee, check_terms
from protocols.serving.hosting import check_program, fingerprint
from protocols.serving.lasting import Lasting
from protocols.serving.memory import memory_plans
from protocols.serving.room import weight_bytes
from protocols.serving.shown import PROVIDER
from protocols.storage.holdings import Holdings
from protocols.storage.kept_models import content, words
from protocols.workers.provided import Provided
from protocols.workers.sessions import Sessions

LONGEST_LIFETIME = 1e7
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds after which a new session is tried again: each time twice as many, up to the longest."""
PROGRAM = "program"
"""The array of a program in a folder."""

log = logging.getLogger(__name__)


class DealtModels(Sessions):
    """The part of a third party that owners see.

    Args:
        cluster: whose third party it is.
        holdings: of this worker.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None) -> None:
        super().__init__(cluster, holdings)
        self._opening: set[str] = set()
        self._sustained: dict[str, asyncio.Task[None]] = {}

    async def started(self) -> None:
        """Find the models that stay, and bring their servers together."""
        self._lasting.load()
        for lasting in self._lasting.all.values():
            self._sustain(lasting)

    async def stopped(self) -> None:
        """End what runs in the background."""
        tasks = list(self._sustained.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().stopped()

    async def observed(self) -> list[Figure]:
        """Return what this worker shows as third party; see `actors.observing.figures`."""
        models = state("models", "models that are shared", len(self._models), part=PROVIDER)
        return [models, *(one for shared in self._models.values() for one in shared.figures())]

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

        The model is removed when its owner is gone: when `presence` ends, or the connection to it; unless it is to stay, see `keep`.
        Before this, the owner claims the name at both servers.

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
        seats = self._seated(equals, name)
        self._cluster.check_name(name)
        check_presence(self.system, presence)
        claim = Claim.of_caller(digest)
        before = self._models.get(name) if right is not None else None
        if before is not None and right is not None:
            before.claim.check(right, f"the model {name!r}")
        if (name in self._models and before is None) or name in self._opening:
            raise NameTaken(f"a model named {name!r} is shared here already; choose another name or stop it first")
        self._lasting.check_free(name)
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
            shared = await self._agreed(name, program, seats, claim, guarantee)
            if before is not None and before.budget is not None and shared.budget is not None:
                shared.budget.spent_before(before.budget)
            shared.again = before is not None and before.reveal != ()
            await self._host(shared)
            self._begun(shared)
        except BaseException:
            self._room.give(claim.holder, weight_bytes(program))
            raise
        finally:
            self._opening.discard(name)
        shared.owner = asyncio.create_task(self._watch_owner(shared, presence))
        shared.tasks.append(shared.owner)
        return Opening(shared.weight_keys)

    def _seated(self, equals: bool, name: str) -> Seats:
        seats = self._cluster.seats(equals, name)
        if seats.third != self._cluster.place:
            raise ClusterError(
                f"this worker is not the third party of the model {name!r}: list the three workers in the order of the cluster"
            )
        return seats

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
        memory_plans(name, shared.program, allowance.terms.reveal, allowance.memory)  # refused before anything is noted
        if shared.lasting is not None:
            shared.lasting.allow(msgspec.msgpack.encode(allowance))
            await shared.lasting.written()
        await self._allow(shared, allowance)

    @message(reentrant=True, by=OWNER)
    async def remove(self, name: str, right: bytes) -> None:
        """Forget a model, also one that stays; who waits for it is told."""
        noted(model=name)
        shared = self._models.get(name)
        if shared is not None:
            shared.claim.check(right, f"the model {name!r}")
        kept = await self._lasting.remove(name, right)
        sustained = self._sustained.pop(name, None) if kept else None
        if sustained is not None:
            sustained.cancel()
            await asyncio.gather(sustained, return_exceptions=True)
            shared = self._models.get(name)
        if shared is not None:
            await self._removed(shared)
        elif not kept:
            self._shared(name)

    # Models that stay.

    @message(reentrant=True, by=OWNER)
    async def check_keep(self, name: str) -> None:
        """Return if a model of this name can stay here when its owner has gone.

        Raises:
            KeepsNothing: this worker has no folder.
            NameTaken, ServingError: the name is taken, or none for a folder.
        """
        self._lasting.check_possible(name)

    @message(reentrant=True, by=OWNER)
    async def keep(self, name: str, right: bytes, identifier: bytes) -> None:
        """Write the program down: the model stays from now on, also when its owner is gone. Both servers keep it by now.

        Args:
            name: of the model.
            right: to it, here.
            identifier: 16 bytes, the same at all three workers.

        Raises:
            KeepsNothing, NameTaken, ServingError: see `check_keep`; or it is served already.
            VaultError: it cannot be written.
        """
        shared = self._owned(name, right)
        if shared.reveal:
            raise ServingError(f"model {name!r} is served already: what was counted of it could not be kept")
        program = msgspec.msgpack.encode(shared.program)
        lasting = await self._lasting.keep(
            name,
            identifier,
            party=THIRD,
            equals=shared.seats.equals,
            claim=shared.claim,
            program=fingerprint(shared.program),
            promise=shared.guarantee,
            cluster=self._cluster,
            arrays={PROGRAM: words(program)},
            length=len(program),
        )
        lasting.take_over(shared.budget)
        await lasting.written()
        shared.keep(lasting)
        self._sustain(lasting)

    @message(reentrant=True, by=OWNER)
    async def standing(self, name: str, right: bytes) -> ModelStanding:
        """Return what was counted of a model that stays, and whether it is served."""
        lasting = self._lasting.kept(name, right)
        allowance = msgspec.msgpack.decode(lasting.terms, type=Allowance) if lasting.terms else None
        return ModelStanding(lasting.requests, lasting.examples, allowance, lasting.waits)

    def _sustain(self, lasting: Lasting) -> None:
        self._sustained[lasting.label.name] = asyncio.create_task(self._sustaining(lasting))

    async def _sustaining(self, lasting: Lasting) -> None:
        """Have a model served in one session after the other, until it is removed."""
        name, pause = lasting.label.name, FIRST_PAUSE
        while True:
            shared = self._models.get(name)
            if shared is None or shared.lost is not None:
                try:
                    shared = await self._resume(lasting)
                except (ActorError, ProtocolError) as error:
                    why = f"{type(error).__name__}: {error}"
                    if why != lasting.waits:
                        event(log, logging.WARNING, "model waits", model=name, reason=why)
                    refused = f"a worker refuses it, and its log says why ({type(error).__name__})"
                    lasting.waits, lasting.told = why, str(error) if isinstance(error, ActorError) else refused
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                event(log, logging.INFO, "model served", model=name)
            lasting.waits, pause = "", FIRST_PAUSE
            await shared.ended.wait()
            lasting.waits = lasting.told = shared.why
            event(log, logging.WARNING, "model waits", model=name, reason=shared.why)

    async def _resume(self, lasting: Lasting) -> Provided:
        """Begin a new session of a model, in the place of the one before.

        Raises:
            ActorError: a server cannot be reached.
            ProtocolError: a server does not keep this model, or its files are damaged; or the two do not agree on what they opened.
        """
        name, about = lasting.label.name, lasting.about
        before = self._models.get(name)
        if before is not None:
            await self._removed(before)
        program, seats = await self._program(lasting), self._seated(about.equals, name)
        size = weight_bytes(program)
        self._room.take(about.holder, size)
        try:
            shared = await self._agreed(name, program, seats, lasting.claim, lasting.promise, lasting)
            await self._together(shared, lasting)
        except BaseException:
            self._room.give(about.holder, size)
            raise
        self._begun(shared)
        try:
            if lasting.terms:
                await self._allow(shared, msgspec.msgpack.decode(lasting.terms, type=Allowance))
        except BaseException:
            await self._removed(shared)
            raise
        return shared

    async def _together(self, shared: Provided, lasting: Lasting) -> None:
        """Have both servers host a session of what they keep, or none of them."""
        try:
            for party, server in enumerate(shared.servers):
                await server.resume(shared.hostings[party], lasting.label.tag)
            patient = [server.with_options(timeout=None) for server in shared.servers]
            first, second = await at_once(*(server.open_kept(shared.model) for server in patient))
            if not hmac.compare_digest(first, second):
                raise Altered(f"the servers do not agree on what they sent each other of the weights of model {shared.name!r}")
        except BaseException:
            for server in shared.servers:
                self._background.later(server.retire(shared.model))
            raise

    async def _program(self, lasting: Lasting) -> Program:
        kept = content((await self._lasting.arrays(lasting))[PROGRAM], lasting.about.length)
        try:
            program = msgspec.msgpack.decode(kept, type=Program)
        except msgspec.MsgspecError:
            raise ServingError(f"the program of model {lasting.label.name!r} was kept by another version of confide") from None
        check_program(program)
        return program

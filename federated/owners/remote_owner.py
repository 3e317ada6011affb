"""An owner at an address, as the aggregator asks it: what is the same in all rounds it is sent once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from actors import ActorSystem
from federated.owners.giver import Drop, Giver, HandedIn
from federated.owners.hiding import Hiding
from federated.owners.masker import Masker, Prepared
from federated.owners.owner import DataOwner
from federated.tasks.base import TaskBase, supplied
from federated.tasks.update import Evaluation, Task, Update, size
from protocols.secure_aggregation import AggregationTerms
from protocols.secure_aggregation.session import Advertisement, Confirmation, MaskedVector, Opened, Shares
from protocols.workers.sum_server import SumServer

BUSY = 60
"""Seconds for which the event loop of whoever plays rounds may be busy, as owners are told: it averages, and evaluates between them."""

R = TypeVar("R")


class RemoteOwner:
    """An owner at an address. It is connected to anew each time, so that one that was away can come back.

    Attributes:
        supplied: bytes of weights that no round changes that it was sent so far.
    """

    supplied = 0

    def __init__(self, system: ActorSystem, url: str) -> None:
        self._system, self.name = system, url

    async def train(self, task: Task) -> Update:
        """See `DataOwner.train`; takes as long as it takes, for the round has the deadline."""
        return await self._asked(task, lambda owner, sent: owner.train(sent))

    async def evaluate(self, task: Task) -> Evaluation:
        """See `DataOwner.evaluate`."""
        return await self._asked(task, lambda owner, sent: owner.evaluate(sent))

    async def masker(self) -> Masker:
        """Return this owner, see `Masker`."""
        return self

    async def prepare(self, task: Task, hiding: Hiding) -> Prepared:
        """See `DataOwner.prepare`."""
        return await self._asked(task, lambda owner, sent: owner.prepare(sent, hiding))

    async def advertise(self, ticket: bytes, terms: AggregationTerms) -> Advertisement:
        """See `DataOwner.advertise`."""
        return await (await self._reach()).advertise(ticket, terms)

    async def share(self, session: bytes, advertisements: list[Advertisement], nonces: tuple[bytes, ...] = ()) -> Shares:
        """See `DataOwner.share`."""
        return await (await self._reach()).share(session, advertisements, nonces)

    async def mask(self, session: bytes, sealed: dict[int, bytes]) -> MaskedVector:
        """See `DataOwner.mask`."""
        return await (await self._reach()).mask(session, sealed)

    async def confirm(self, session: bytes, survivors: list[int]) -> Confirmation:
        """See `DataOwner.confirm`."""
        return await (await self._reach()).confirm(session, survivors)

    async def unmask(self, session: bytes, confirmations: list[Confirmation]) -> Opened:
        """See `DataOwner.unmask`."""
        return await (await self._reach()).unmask(session, confirmations)

    async def giver(self) -> Giver:
        """Return this owner, see `Giver`."""
        return self

    async def give(self, task: Task, hiding: Hiding, drop: Drop, vectors: SumServer, seeds: SumServer) -> HandedIn:
        """See `DataOwner.give`."""
        return await self._asked(task, lambda owner, sent: owner.give(sent, hiding, drop, vectors, seeds))

    async def _asked(self, task: Task, ask: Callable[[DataOwner, Task], Awaitable[R]]) -> R:
        owner = await self._reach()

        async def give(base: TaskBase) -> None:
            await owner.hold(base)
            self.supplied += size(base.kept)

        def work(sent: Task) -> Awaitable[R]:
            if task.base and not sent.base:
                self.supplied += size(task.kept)
            return ask(owner, sent)

        return await supplied(task, work, give)

    async def _reach(self) -> DataOwner:
        return (await self._system.connect(self.name, DataOwner)).with_options(timeout=None)

"""A program and its weights come to the three workers: the first time, or in the place of those that were there before.

The weights are the owner's, who masks them, or nobody's: what a training has made ready at both servers (`TrainingServer.ready`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from hmac import compare_digest

import numpy as np

from actors import ActorError, ConnectFailed, ConnectionLost
from protocols.authority.rights import digest_at, right_at
from protocols.clusters.three_workers import ThreeWorkers
from protocols.errors import Altered, KeepsNothing, NotOwner, ProtocolError, UnknownModel, WorkerLost
from protocols.mpc.operations.weights import SummedMasks
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.owner.placing.right import ModelRight
from protocols.serving.allowance import Opening
from protocols.serving.hosting import fingerprint
from protocols.serving.ticket import identifier
from protocols.workers import delivery
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider

FORGOTTEN = (ActorError, UnknownModel, NotOwner)
"""What a worker says that was started again, and has forgotten a model whose name may be somebody else's by now."""
Deliver = Callable[[Opening], Awaitable[None]]


class Placing:
    """One model of an owner at the workers of a cluster.

    Args:
        cluster: where.
        name: of the model.
        secret: from which the rights to it follow.
    """

    def __init__(self, cluster: ThreeWorkers, name: str, secret: bytes) -> None:
        self._cluster, self._name, self.secret = cluster, name, secret
        self._links = cluster.links_for(name)
        *self._places, self._third = cluster.seats_for(name).all

    @staticmethod
    def of(cluster: ThreeWorkers, right: ModelRight) -> Placing:
        """Return that of a model that stays, for whoever has its right."""
        return Placing(cluster, right.name, right.secret)

    async def first(self, program: Program, guarantee: Guarantee | None, weights: list[Ring]) -> None:
        """Place a model whose weights the owner has, at all three workers or at none of them."""

        async def deliver(opening: Opening) -> None:
            masked = _masked(weights, opening, program)
            await asyncio.gather(
                *(delivery.load(server, self._name, right, fingerprint(program), masked) for server, right in self._servers())
            )

        await self._placed(program, guarantee, deliver, again=False)

    async def again(self, program: Program, guarantee: Guarantee | None, handle: bytes, secret: bytes) -> None:
        """Place weights that are ready at both servers in the stead of those that are served; nobody learns them.

        Requests that are under way fail, and clients connect anew. What a client has spent of a budget stays spent.

        Args:
            program: their program.
            guarantee: where answers are noisy.
            handle: of the weights at both servers.
            secret: from which the rights to them follow.

        Raises:
            Altered: the servers do not agree on what they sent each other: the model is removed.
        """

        async def deliver(opening: Opening) -> None:
            shown = [right_at(secret, place) for place in self._places]
            both = zip(self._servers(), shown, strict=True)
            work = (server.load_ready(self._name, right, fingerprint(program), handle, mine) for (server, right), mine in both)
            first, second = await asyncio.gather(*work)
            if not compare_digest(first, second):
                raise Altered("the servers do not agree on what they sent each other of the weights: something on the way was altered")

        await self._placed(program, guarantee, deliver, again=True)

    async def check_keep(self) -> None:
        """Return if all three workers can keep a model of this name when its owner has gone.

        Raises:
            KeepsNothing: one has no folder; it is named.
            NameTaken, ServingError: see `OwnedModels.check_keep`.
        """
        for url, worker in self._workers():
            try:
                await worker.check_keep(self._name)
            except KeepsNothing as error:
                raise KeepsNothing(f"{url}: {error}") from None

    async def keep(self, right: ModelRight) -> None:
        """Have all three workers keep the model from now on, once the right to it is written; otherwise it is removed.

        The third party comes last, which no more ends it when this process has gone.

        Raises:
            VaultError: one of them, or this process, cannot write it.
        """
        right.write()
        try:
            await self._keep()
        except BaseException:
            with contextlib.suppress(ActorError, ProtocolError):
                await self.remove(stays=True)
                right.forget()
            raise

    async def _keep(self) -> None:
        name = identifier()
        for server, right in self._servers():
            await server.with_options(timeout=None).keep(self._name, right, name)
        await self._links.provider.with_options(timeout=None).keep(self._name, right_at(self.secret, self._third), name)

    async def remove(self, *, stays: bool) -> None:
        """Remove the model from all three workers. One that is gone, or was started again, has forgotten it, unless the model stays.

        Raises:
            WorkerLost: a worker is there and does not answer; or the model stays, and a worker could not be told.
            NotOwner: it stays, and is somebody else's.
        """
        third = self._links.provider.remove(self._name, right_at(self.secret, self._third))
        first = await asyncio.gather(third, return_exceptions=True)  # it deals to servers no more
        removals = (server.remove(self._name, right) for server, right in self._servers())
        gone = () if stays else (ConnectFailed, ConnectionLost)
        for outcome in [*first, *await asyncio.gather(*removals, return_exceptions=True)]:
            if isinstance(outcome, ActorError) and not isinstance(outcome, gone):
                raise WorkerLost(f"model {self._name!r} could not be removed: {outcome}")
            if isinstance(outcome, BaseException) and not isinstance(outcome, (ActorError, UnknownModel) if stays else FORGOTTEN):
                raise outcome

    def _workers(self) -> list[tuple[str, ComputeServer | CryptoProvider]]:
        """Return the urls of all three workers, and who is asked at each."""
        return list(zip(self._cluster.addresses_for(self._name).all, (*self._links.servers, self._links.provider), strict=True))

    def _servers(self) -> list[tuple[ComputeServer, bytes]]:
        """Both servers, with the right to the model at each."""
        return [(server, right_at(self.secret, place)) for server, place in zip(self._links.servers, self._places, strict=True)]

    async def _placed(self, program: Program, guarantee: Guarantee | None, deliver: Deliver, *, again: bool) -> None:
        provider, third = self._links.provider, right_at(self.secret, self._third)
        claimed: list[tuple[ComputeServer | CryptoProvider, bytes]] = []
        try:
            for (server, right), place in zip(self._servers(), self._places, strict=True):
                if not (again and await self._renewed(server, right)):
                    await server.claim(self._name, digest_at(self.secret, place))
                claimed.append((server, right))
            digest, presence, equals = digest_at(self.secret, self._third), self._cluster.presence, self._cluster.equals
            opening = await provider.open(self._name, program, equals, digest, presence, guarantee, third if again else None)
            claimed.append((provider, third))
            await deliver(opening)
        except BaseException:
            for worker, right in claimed:
                with contextlib.suppress(ActorError, ProtocolError):
                    await worker.remove(self._name, right)
            raise

    async def _renewed(self, server: ComputeServer, right: bytes) -> bool:
        """Whether the model was there, and its name stays claimed."""
        try:
            await server.renew(self._name, right)
        except UnknownModel:
            return False
        return True


def _masked(weights: list[Ring], opening: Opening, program: Program) -> list[Ring]:
    """Return M_W = W + lambda_{W,0} + lambda_{W,1}."""
    masks = SummedMasks(opening.weight_keys, program.weights)
    return [np.add(masked := masks[index], weight, out=masked) for index, weight in enumerate(weights)]

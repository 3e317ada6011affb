"""A model that stays, for whoever has its right: how it stands, how often it may be asked, and its end. Nobody needs the model for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from actors import ActorError
from protocols.clusters.three_workers import ThreeWorkers
from protocols.errors import ProtocolError, ServingError, WorkerLost
from protocols.owner.placing.placing import Placing
from protocols.owner.placing.right import ModelRight
from protocols.owner.placing.serving import Serving
from protocols.serving.allowance import Allowance, ModelStanding, allowed
from protocols.serving.hosting import Terms
from protocols.serving.ticket import REVEALS, Reveal


class ManagedModel:
    """One model at the workers of a cluster, inside its block.

    Args:
        cluster: where it is kept.
        right: to it.
    """

    def __init__(self, cluster: ThreeWorkers, right: ModelRight) -> None:
        self._cluster, self._right = cluster, right
        self._links = cluster.links_for(right.name)
        self._rights = right.at(cluster.seats_for(right.name).all)

    async def standings(self) -> dict[str, ModelStanding | str]:
        """Return by url what each worker says of it: server 0, server 1, the third party; or why it says nothing."""

        async def ask(number: int, right: bytes) -> ModelStanding | str:
            worker = (*self._links.servers, self._links.provider)[number]
            try:
                return await worker.standing(self._right.name, right)
            except (ActorError, ProtocolError) as error:
                return str(error).partition("\n")[0]

        found = await asyncio.gather(*(ask(number, right) for number, right in enumerate(self._rights)))
        return dict(zip(self._cluster.addresses_for(self._right.name).all, found, strict=True))

    async def limit(self, requests: int, examples: int | None = None, reveal: Collection[Reveal] | None = None) -> Terms:
        """Allow so many requests more than were counted until now, in the place of what was allowed before.

        Args:
            requests: at least 0: nothing more is answered then.
            examples: of all these requests together, at least 0; None: any number.
            reveal: the kinds of answer; None: as before, or all that the model can give.

        Returns:
            What is allowed in all.

        Raises:
            Resuming: its workers come together again; nothing was changed.
            NotOwner, UnknownModel: it is somebody else's, or not there.
            ServingError: it has no such kind of answer.
            WorkerLost: a worker cannot be reached; those that were told have taken it.
        """
        requests, examples = allowed("requests", requests, 0), None if examples is None else allowed("examples", examples, 0)
        name = self._right.name
        try:
            standing = await self._links.provider.standing(name, self._rights[-1])
            before = standing.allowance or Allowance(Terms(0, await self._possible()))
            kinds = before.terms.reveal if reveal is None else tuple(kind for kind in REVEALS if kind in reveal)
            if reveal is not None and (not kinds or set(reveal) - set(await self._possible())):
                raise ServingError(f"answers of kinds {sorted(reveal)} were asked for; this model can give {list(await self._possible())}")
            terms = msgspec.structs.replace(before.terms, reveal=kinds)
            serving = Serving(self._links, name, self._rights, stays=True)
            await serving.allow(requests, examples, msgspec.structs.replace(before, terms=terms))
        except ActorError as error:
            raise WorkerLost(f"a worker of model {name!r} cannot be told: {error}") from None
        assert serving.terms is not None
        return serving.terms

    async def _possible(self) -> tuple[Reveal, ...]:
        found = await self._links.servers[0].describe(self._right.name)
        return REVEALS if found.program.label is not None else ("logits",)

    async def stop(self) -> None:
        """Remove it from all workers, and the file of its right when all have forgotten it.

        Raises:
            WorkerLost: a worker could not be told: call it again when it is there.
        """
        await Placing.of(self._cluster, self._right).remove(stays=True)
        self._right.forget()

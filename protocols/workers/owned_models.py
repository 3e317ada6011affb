"""A server's models as their owners have to do with them: names that are claimed, weights that arrive, what is allowed, and the end.

It knows no client and computes nothing but M_W = W + lambda_W of weights that nobody knows, together with the other server.
"""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from actors import message
from actors.observing.figures import Figure, state
from actors.observing.notes import noted
from protocols.authority.membership import OWNER, Membership
from protocols.authority.pending import PendingClaims
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import NameTaken, Resuming, ServingError, UnknownModel
from protocols.link.seal import Seal
from protocols.link.twins import Twins
from protocols.mpc.operations.weights import opened
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import derive
from protocols.serving.allowance import Allowance, ModelStanding
from protocols.serving.budget import Budget
from protocols.serving.hosting import HostedModel, Terms, fingerprint
from protocols.serving.lasting import Lasting, LastingModels
from protocols.serving.room import Room, weight_bytes
from protocols.serving.settlement import Settlement
from protocols.serving.shown import SERVER, of_server
from protocols.serving.turns import RETRY
from protocols.storage.holdings import Holdings
from protocols.workers.supplied import Supplied

COMING_TOGETHER = "model {!r} stays, and its workers come together again after one of them was lost"


class HostedEntry:
    """A hosted model: who its owner is, who the other parties are, the links to them.

    Attributes:
        lasting: what is kept of it, if it stays.
        together: of one that stays: this session has begun, with weights and terms.
    """

    def __init__(self, model: HostedModel, claim: Claim, seats: Seats, key: bytes, twins: Twins, provider: Settlement) -> None:
        self.model, self.claim, self.seats = model, claim, seats
        self.seal_key, self.twins = key, twins
        self.provider = provider.with_options(one_way=True)
        self.watch: asyncio.Task[None] | None = None
        self.lasting: Lasting | None = None
        self.together = False

    def close(self, reason: Exception) -> None:
        """End what is under way, for this reason."""
        self.twins.close(reason)
        self.model.stock.close()
        if self.watch is not None:
            self.watch.cancel()


class OwnedModels(Supplied):
    """The part of a server that owners see.

    Args:
        cluster: whose server it is.
        holdings: of this worker.
        patience: see `Supplied`.
    """

    def __init__(self, cluster: Membership, holdings: Holdings, patience: float) -> None:
        super().__init__(patience, "ahead")
        self._cluster, self._holdings = cluster, holdings
        self._entries: dict[str, HostedEntry] = {}
        self._claims = PendingClaims()
        self._lasting = LastingModels(holdings, (0, 1))
        self._budgets: dict[str, tuple[Claim, Budget]] = {}
        self._room = Room()

    async def started(self) -> None:
        """Find the models that stay."""
        self._lasting.load()

    async def stopped(self) -> None:
        """End what runs in the background, and what is written."""
        await self._lasting.close()
        await super().stopped()

    async def observed(self) -> list[Figure]:
        """Return what this server shows of its models, too."""
        models = state("models", "models that are shared", len(self._entries), part=SERVER)
        return [*await super().observed(), models, *(one for entry in self._entries.values() for one in of_server(entry.model))]

    @message(reentrant=True, by=OWNER)
    async def claim(self, name: str, digest: bytes) -> None:
        """Keep a name for whoever asks, for a while, until the third party shares the model. `digest` is that of the owner's right here.

        Raises:
            NameTaken: the name is somebody's already.
            NotAllowed: the cluster file says whose it is.
            TooLarge: too many names are claimed.
        """
        noted(model=name)
        self._cluster.check_name(name)
        self._check_free(name)
        self._claims.add(name, digest)

    def _owned(self, name: str, right: bytes) -> HostedEntry:
        if name not in self._entries:
            if self._lasting.owned(name, right) is not None:
                raise Resuming(COMING_TOGETHER.format(name), RETRY)
            raise UnknownModel(f"no model named {name!r} is shared here; it may have been stopped")
        self._entries[name].claim.check(right, f"the model {name!r}")
        return self._entries[name]

    @message(reentrant=True, by=OWNER)
    async def load(self, name: str, right: bytes, program: bytes, masked: list[npt.NDArray[np.uint64]]) -> None:
        """Take M_W = W + lambda_W of every weight. `program` is the fingerprint of the program that the owner has shared.

        Raises:
            ServingError: another program is hosted here.
        """
        noted(model=name)
        model = self._agreed_on(name, right, program)
        model.load(masked)
        await self._ahead.run(lambda: model.weights_fingerprint)

    @message(reentrant=True, by=OWNER)
    async def load_piece(self, name: str, right: bytes, program: bytes, parts: list[npt.NDArray[np.uint64]]) -> None:
        """Take a piece of weights that are larger than a message; `load` comes after the last, without any."""
        self._agreed_on(name, right, program).arrive(parts)

    def _agreed_on(self, name: str, right: bytes, program: bytes) -> HostedModel:
        if fingerprint(self._owned(name, right).model.hosting.program) != program:
            raise ServingError(f"another program than that of the owner is hosted here for {name!r}: the third party has changed it")
        return self._entries[name].model

    @message(reentrant=True, by=OWNER)
    async def serve(self, name: str, right: bytes, terms: Terms) -> None:
        """Allow requests."""
        noted(model=name, requests=terms.total)
        entry = self._owned(name, right)
        entry.model.serve(terms)
        if entry.lasting is not None:
            entry.lasting.allow(msgspec.msgpack.encode(terms))
            await entry.lasting.written()

    @message(reentrant=True, by=OWNER)
    async def remove(self, name: str, right: bytes) -> None:
        """Forget a model, also one that stays, or the claim to its name."""
        noted(model=name)
        if self._claims.give_back(name, right):
            return
        entry = self._owned(name, right) if name in self._entries else None
        if entry is not None:
            self._forget(entry)
        if not await self._lasting.remove(name, right) and entry is None:
            raise UnknownModel(f"no model named {name!r} is shared here; it may have been stopped")

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
        """Write this server's shares of the weights down: the model stays from now on, as long as the third party keeps it, too.

        Args:
            name: of the model.
            right: to it, at this server.
            identifier: 16 bytes, the same at all three workers.

        Raises:
            NotServed: its weights have not arrived.
            KeepsNothing, NameTaken, ServingError: see `check_keep`; or it is served already.
            VaultError: it cannot be written.
        """
        entry = self._owned(name, right)
        model = entry.model
        if model.reveal:
            raise ServingError(f"model {name!r} is served already: what was counted of it could not be kept")
        shares = model.derived.share
        arrays = await asyncio.to_thread(lambda: {str(index): shares[index] for index in range(len(model.hosting.program.weights))})
        lasting = await self._lasting.keep(
            name,
            identifier,
            party=model.me.index,
            equals=entry.seats.equals,
            claim=entry.claim,
            program=fingerprint(model.hosting.program),
            promise=model.hosting.guarantee,
            cluster=self._cluster,
            arrays=arrays,
        )
        lasting.quota = model.quota
        lasting.take_over(model.budget)
        await lasting.written()
        entry.lasting, entry.together = lasting, True

    @message(reentrant=True, by=OWNER)
    async def standing(self, name: str, right: bytes) -> ModelStanding:
        """Return what this server has counted of a model that stays, and whether it is served."""
        lasting = self._lasting.kept(name, right)
        allowance = Allowance(msgspec.msgpack.decode(lasting.terms, type=Terms)) if lasting.terms else None
        waits = "" if name in self._entries and self._entries[name].together else COMING_TOGETHER.format(name)
        return ModelStanding(lasting.requests, lasting.examples, allowance, waits)

    @message(reentrant=True, by=OWNER)
    async def load_ready(self, name: str, right: bytes, program: bytes, handle: bytes, shown: bytes) -> bytes:
        """Take weights that a training has made ready here (`TrainingServer.ready`), which nobody knows.

        Steps: (1) add this server's half of lambda_W to its shares; (2) open M_W with the other server; (3) forget the shares.

        Args:
            name: of the model.
            right: to it, at this server.
            program: see `load`.
            handle: of the weights.
            shown: the right to these, at this server.

        Returns:
            The seal of what both servers have sent each other: the owner compares them.

        Raises:
            UnknownModel: nothing is ready under that handle.
            NotOwner: it is somebody else's.
            ServingError, SharingError: see `load`.
        """
        noted(model=name)
        model, entry = self._agreed_on(name, right, program), self._entries[name]
        self._holdings.check(handle, shown, "weights")
        if handle not in self._holdings.served:
            raise UnknownModel("no weights are ready under this handle; their owner may be gone, or the server was started anew")
        masked = await self._ahead.run(partial(model.masked, self._holdings.served[handle]))
        self._holdings.forget(handle)
        return await self._open(entry, masked)

    async def _open(self, entry: HostedEntry, masked: list[Ring]) -> bytes:
        """Open M_W with the other server, from this server's shares under its half of lambda_W; return the seal of that."""
        model = entry.model
        channel = derive(model.hosting.model, "weights that are ready")
        seal = Seal(entry.seal_key, channel)
        words = weight_bytes(model.hosting.program) // 8
        both, _ = await entry.twins.compute(opened(model.me, masked), channel, seal, words=words, dealt=0, who=model.hosting.model)
        model.opened(both)
        await self._ahead.run(lambda: model.weights_fingerprint)
        return seal.close()

    @message(reentrant=True, by=OWNER)
    async def renew(self, name: str, right: bytes) -> None:
        """Forget a model in whose place its owner shares another one: the name stays claimed, and what was spent of a budget is spent.

        Raises:
            ServingError: it is one that stays.
        """
        entry = self._owned(name, right)
        if entry.lasting is not None:
            raise ServingError(f"model {name!r} stays as it was shared: share the new one under another name, beside it")
        self._claims.put(name, entry.claim)
        if entry.model.budget is not None:
            self._budgets[name] = entry.claim, entry.model.budget
        self._forget(entry)

    def _spent(self, name: str, claim: Claim) -> Budget | None:
        """Return what was spent of the model that was here before, if it was of the same owner."""
        before = self._budgets.pop(name, None)
        return before[1] if before is not None and before[0] is claim else None

    def _check_free(self, name: str) -> None:
        if name in self._entries:
            raise NameTaken(f"a model named {name!r} is hosted here already; choose another name or stop it first")
        self._lasting.check_free(name)

    def _forget(self, entry: HostedEntry) -> None:
        """Forget shares, randomness, and requests under way."""
        del self._entries[entry.model.name]
        self._room.give(entry.claim.holder, weight_bytes(entry.model.hosting.program))
        entry.close(UnknownModel(f"model {entry.model.name!r} has been stopped"))

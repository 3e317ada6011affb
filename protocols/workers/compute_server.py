"""The actor that evaluates shared models: one of the two servers of a cluster.

It holds one share of each model and of each input. Its messages come from four sides: the third party (`agree`, `host`, `deal`, `room`,
`segment`, `withdraw`, `under_way`, `retire`), the model's owner (`claim`, `load`, `serve`, `remove`), clients (`describe`, `names`,
`answer`), and the other server (`deliver`, `give_up`). Who may send a message is in its declaration; which worker that is follows from the
model's name.

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the program, who asks when, and how many
examples; nothing of weights, inputs, values in between, or answers.
"""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from actors import ActorError, caller, message, portable_error
from protocols import errors
from protocols.authority.membership import CLIENT, OWNER, THIRD_PARTY, WORKERS, Membership
from protocols.authority.pending import PendingClaims
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import ClusterError, NameTaken, NotOwner, ServingError, UnknownModel, WorkerLost
from protocols.link.keys import answered
from protocols.link.run import Cost
from protocols.link.seal import Seal, seal_key
from protocols.link.twins import Twins
from protocols.mpc import inference
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import derive
from protocols.mpc.parties.material import Material
from protocols.mpc.parties.pair import Agreement, Pair
from protocols.serving.answer import Answer
from protocols.serving.hosting import Agreed, Handshake, HostedModel, Hosting, Terms, fingerprint
from protocols.serving.room import Room, weight_bytes
from protocols.serving.settlement import Settlement
from protocols.serving.streams import Window
from protocols.serving.supply import Supply
from protocols.serving.ticket import Reveal, SignedTicket, Ticket, check
from protocols.workers.supplied import Supplied

for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.ProtocolError):
        portable_error(_error)


AGREED_WITHIN = 60.0
"""Seconds after an agreement on keys within which its model arrives."""


class _Entry:
    """A hosted model: who its owner is, who the other parties are, and the links to them."""

    def __init__(self, model: HostedModel, claim: Claim, seats: Seats, key: bytes, twins: Twins, provider: Settlement) -> None:
        self.model, self.claim, self.seats = model, claim, seats
        self.seal_key, self.twins = key, twins
        self.provider = provider.with_options(one_way=True)
        self.watch: asyncio.Task[None] | None = None

    def close(self, reason: Exception) -> None:
        self.twins.close(reason)
        self.model.stock.close()
        if self.watch is not None:
            self.watch.cancel()


class ComputeServer(Supplied):
    """Evaluates shared models together with its twin.

    Args:
        cluster: whose server it is.
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, cluster: Membership | None = None, patience: float = 30.0) -> None:
        super().__init__(patience, "ahead")
        self._cluster = cluster or Membership()
        self._entries: dict[str, _Entry] = {}
        self._claims = PendingClaims()
        self._agreed: dict[bytes, tuple[Agreement, Pair | None]] = {}
        self._room = Room()

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for entry in self._entries.values():
            entry.close(WorkerLost("the server stops"))
        await super().stopped()

    def _model(self, model: bytes) -> _Entry:
        for entry in self._entries.values():
            if entry.model.hosting.model == model:
                return entry
        raise UnknownModel("this server hosts no such model; it may have been stopped")

    # The third party's messages.

    def _dealt(self, model: bytes, what: str) -> _Entry:
        """The model of a message that its third party alone may send."""
        entry = self._model(model)
        self._cluster.require(entry.seats.third, what)
        return entry

    def _seated(self, equals: bool, name: str, what: str) -> tuple[Seats, int]:
        """Who does what for a model that its third party begins to share, and which server this one is."""
        seats = self._cluster.seats(equals, name)
        self._cluster.require(seats.third, what)
        return seats, seats.servers.index(self._cluster.place)

    @message(reentrant=True, by=THIRD_PARTY)
    async def agree(self, name: str, model: bytes, equals: bool, public: bytes | None) -> Agreed:
        """Agrees on keys for a model that will be hosted here: with the other server, and among equals with the helper.

        Args:
            name: of the model.
            model: its identifier.
            equals: see `Hosting`.
            public: of the helper, among equals.
        """
        _, party = self._seated(equals, name, "agree")
        if (public is not None) != equals:
            raise ClusterError("a helper among equals agrees on a secret with this server, and a crypto provider does not")
        mine, pair = (None, None) if public is None else answered(public, model, party)
        seal = Agreement()
        self._agreed[model] = seal, pair
        asyncio.get_running_loop().call_later(AGREED_WITHIN, self._agreed.pop, model, None)
        return Agreed(seal.public, mine)

    @message(reentrant=True, by=THIRD_PARTY)
    async def host(self, hosting: Hosting) -> None:
        """Makes room for a model whose name its owner has claimed here, and connects to the other server.

        Raises:
            NotOwner: nobody has claimed the name.
            NameTaken: it is somebody else's.
            ClusterError: the third party takes this server for the other one, or has not agreed on keys.
            TooLarge: the weights are, or with those of the other models of this owner.
        """
        seats, party = self._seated(hosting.equals, hosting.name, "host")
        if hosting.party != party or hosting.model not in self._agreed:
            raise ClusterError(f"server {party} of the model {hosting.name!r} is asked to be server {hosting.party}, or agreed on no keys")
        self._check_free(hosting.name)
        claim = self._claims.take(hosting.name)
        if claim is None:
            raise NotOwner(f"no owner has claimed the name {hosting.name!r} at this server: the owner itself has to, before it is shared")
        seal, pair = self._agreed.pop(hosting.model)
        model = HostedModel(hosting, pair)
        key = seal_key(seal, hosting.seal, hosting.model)
        size = weight_bytes(hosting.program)
        self._room.take(claim.holder, size)
        try:
            peer = await self.system.connect(f"{self._cluster.address(seats.servers[model.me.other])}/server", ComputeServer)
            settlement: type[Settlement] = Settlement  # type: ignore[type-abstract]  # the provider implements it
            provider = await self.system.connect(f"{self._cluster.address(seats.third)}/provider", settlement)
            self._check_free(hosting.name)
        except BaseException:
            self._room.give(claim.holder, size)
            raise
        twins = self._twinned(hosting.model, model.me, peer)
        twins.watch(self.system, peer)
        entry = self._entries[hosting.name] = _Entry(model, claim, seats, key, twins, provider)
        entry.watch = asyncio.create_task(self._watch_provider(entry, provider))

    async def _watch_provider(self, entry: _Entry, provider: Settlement) -> None:
        """Without its provider a model has no future. What was granted is still answered; then the name is free again, also if the owner
        is gone, too, and can stop nothing. A connection that only broke is no loss.
        """
        known = True
        while known:
            await self.system.watch(provider)
            await asyncio.sleep(self._patience)
            try:
                known = await provider.knows(entry.model.hosting.model)
            except ActorError:
                known = False
        if self._entries.get(entry.model.name) is entry:
            self._forget(entry)

    def _check_free(self, name: str) -> None:
        if name in self._entries:
            raise NameTaken(f"a model named {name!r} is hosted here already; choose another name or stop it first")

    @message(reentrant=True, by=THIRD_PARTY)
    async def deal(
        self,
        model: bytes,
        reveal: Reveal,
        chunk: bytes,
        key: bytes | None,
        examples: int,
        dealt: npt.NDArray[np.uint64] | None,
        how: Window | None = None,
    ) -> None:
        """Take a chunk of randomness, whole or, if it is said `how`, in segments.

        Of a whole one what is `dealt` to server 1 is here, or it follows: see `Supplied`.
        """
        hosted = self._dealt(model, "deal").model
        own = hosted.key(key, "chunk", chunk)
        supply, pieces = hosted.supply(reveal, chunk, own, examples, how, run=self._ahead.run, patience=self._patience)
        await self._supplied(hosted.me, supply, pieces, dealt)

    def _supply(self, name: bytes, chunk: bytes, what: str) -> tuple[Party, Supply]:
        hosted = self._dealt(name, what).model
        return hosted.me, hosted.stock[chunk]

    @message(reentrant=True, by=THIRD_PARTY)
    async def withdraw(self, model: bytes, ticket: Ticket) -> bool:
        """Throws an unused ticket's randomness away, so that the other server, if it has begun, stops waiting; False if it was used."""
        entry = self._dealt(model, "withdraw")
        withdrawn = entry.model.stock.withdraw(ticket)
        if withdrawn:
            entry.twins.give_up(derive(model, ticket.run))
        return withdrawn

    @message(reentrant=True, by=THIRD_PARTY)
    async def under_way(self, model: bytes, request: bytes) -> list[int]:
        """The parts of a request that this server works on now."""
        return self._dealt(model, "under_way").model.quota.under_way(request)

    @message(reentrant=True, by=THIRD_PARTY)
    async def retire(self, model: bytes) -> None:
        """Forgets a model that could not be shared completely, or whose owner is gone."""
        self._forget(self._dealt(model, "retire"))

    def _forget(self, entry: _Entry) -> None:
        """Shares, randomness, and requests under way."""
        del self._entries[entry.model.name]
        self._room.give(entry.claim.holder, weight_bytes(entry.model.hosting.program))
        entry.close(UnknownModel(f"model {entry.model.name!r} has been stopped"))

    # The owner's messages.

    @message(reentrant=True, by=OWNER)
    async def claim(self, name: str, digest: bytes) -> None:
        """Keeps a name for whoever asks, for a while, until the third party shares the model. `digest` is that of the owner's right here.

        Raises:
            NameTaken: the name is somebody's already.
            NotAllowed: the cluster file says whose it is.
            TooLarge: too many names are claimed.
        """
        self._cluster.check_name(name)
        self._check_free(name)
        self._claims.add(name, digest)

    def _owned(self, name: str, right: bytes) -> _Entry:
        if name not in self._entries:
            raise UnknownModel(f"no model named {name!r} is shared here; it may have been stopped")
        self._entries[name].claim.check(right, f"the model {name!r}")
        return self._entries[name]

    @message(reentrant=True, by=OWNER)
    async def load(self, name: str, right: bytes, program: bytes, masked: list[npt.NDArray[np.uint64]]) -> None:
        """Takes M_W = W + lambda_W of every weight. `program` is the fingerprint of the program that the owner has shared.

        Raises:
            ServingError: another program is hosted here.
        """
        model = self._agreed_on(name, right, program)
        model.load(masked)

    @message(reentrant=True, by=OWNER)
    async def load_piece(self, name: str, right: bytes, program: bytes, parts: list[npt.NDArray[np.uint64]]) -> None:
        """Takes a piece of weights that are larger than a message; `load` comes after the last, without any."""
        self._agreed_on(name, right, program).arrive(parts)

    def _agreed_on(self, name: str, right: bytes, program: bytes) -> HostedModel:
        if fingerprint(self._owned(name, right).model.hosting.program) != program:
            raise ServingError(f"another program than that of the owner is hosted here for {name!r}: the third party has changed it")
        return self._entries[name].model

    @message(reentrant=True, by=OWNER)
    async def serve(self, name: str, right: bytes, terms: Terms) -> None:
        """Allows requests."""
        self._owned(name, right).model.serve(terms)

    @message(reentrant=True, by=OWNER)
    async def remove(self, name: str, right: bytes) -> None:
        """Forgets a model, or the claim to its name."""
        if not self._claims.give_back(name, right):
            self._forget(self._owned(name, right))

    # The clients' messages.

    @message(reentrant=True, by=CLIENT)
    async def describe(self, name: str) -> Handshake:
        """The public half of a model."""
        if name not in self._entries:
            shared = ", ".join(sorted(self._entries)) or "none"
            raise UnknownModel(f"no model named {name!r} is shared here (shared: {shared})")
        entry = self._entries[name]
        return entry.model.handshake(entry.claim.holder)

    @message(reentrant=True, by=(CLIENT, *WORKERS))
    async def names(self) -> list[str]:
        """The names of the models hosted here; whoever looks after another worker of the cluster may ask, too (`confide status`)."""
        return sorted(self._entries)

    @message(reentrant=True, by=CLIENT)
    async def answer(self, signed: SignedTicket, right: bytes, m: npt.NDArray[np.uint64]) -> Answer:
        """This server's share of the answer for masked examples.

        Steps: (1) verify the ticket, and the client's right to it at this server; (2) check the shape; (3) consume the randomness;
        (4) count it as under way; (5) evaluate with the other server; (6) count it as answered, or not at all; tell the provider.
        Nothing is sent before (4), and a ticket that is refused in (3) counts nowhere.
        """
        entry = self._model(signed.ticket.model)
        model = entry.model
        ticket = check(signed, model.ticket_key, model.me.index, right)
        model.check_input(ticket, m)
        client = caller().common_name if model.counts_clients else ""
        material = model.stock.take(ticket)
        released = False
        try:
            model.admit(ticket, client)
            try:
                share, cost, seal = await self._evaluate(entry, ticket, material, m)
                released = True
            finally:
                model.ended(ticket, released)
        finally:
            if isinstance(material, Supply):
                material.close()
            self._settle(entry, ticket, released)
        return Answer(share, cost, seal)

    async def _evaluate(self, entry: _Entry, ticket: Ticket, material: Material | Supply, m: Ring) -> tuple[Ring, Cost, bytes]:
        model, program = entry.model, entry.model.programs[ticket.reveal]
        channel = derive(model.hosting.model, ticket.run)
        seal = Seal(entry.seal_key, channel)
        delay: float | None = None
        if isinstance(material, Supply):
            protocol = inference.evaluate_in_segments(model.me, program, model.derived, material.parts, material.take, m)
            delay = material.longest  # the other server may wait as long for a segment, and sends its round after that
        else:
            protocol = inference.evaluate(model.me, program, model.weights, material, m)
        words, dealt, rest = model.work(ticket), model.dealt_bytes(ticket), ticket.part > 0
        share, cost = await entry.twins.compute(
            protocol, channel, seal, words=words, dealt=dealt, received=m, who=ticket.request, rest=rest, delay=delay
        )
        return share, cost, seal.close()

    def _settle(self, entry: _Entry, ticket: Ticket, answered: bool) -> None:
        self._background.later(
            entry.provider.settle(entry.model.hosting.model, ticket.request, ticket.part, entry.model.me.index, answered)
        )

    # The other server's messages.

    def _linked(self, name: bytes, what: str) -> Twins | None:
        for entry in self._entries.values():
            if entry.model.hosting.model == name:
                self._cluster.require(entry.seats.servers[entry.model.me.other], what)
                return entry.twins
        return None

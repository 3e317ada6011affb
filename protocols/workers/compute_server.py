"""The actor that evaluates shared models: one of the two servers of a cluster.

It holds one share of each model and of each input. Its messages come from four sides: the third party (`agree`, `host`, `deal`, `room`,
`segment`, `withdraw`, `under_way`, `retire`, `resume`, `open_kept`), the model's owner (`claim`, `load`, `serve`, `keep`, `remove`),
clients (`describe`, `names`, `answer`), and the other server (`deliver`, `give_up`). Who may send a message is in its declaration; which
worker that is follows from the model's name.

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the program, who asks when, and how many
examples; nothing of weights, inputs, values in between, or answers.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError, caller, message, portable_error
from actors.observing.notes import noted
from protocols import errors
from protocols.authority.membership import CLIENT, THIRD_PARTY, WORKERS, Membership
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import Busy, ClusterError, NotOwner, ProtocolError, Resuming, ServingError, UnknownModel, WorkerLost
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
from protocols.serving.lasting import Lasting
from protocols.serving.room import weight_bytes
from protocols.serving.settlement import Settlement
from protocols.serving.streams import Window
from protocols.serving.supply import Supply
from protocols.serving.ticket import Reveal, SignedTicket, Ticket, check, traced
from protocols.serving.turns import RETRY
from protocols.storage.holdings import Holdings
from protocols.workers.owned_models import COMING_TOGETHER, HostedEntry, OwnedModels

for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.ProtocolError):
        portable_error(_error)


AGREED_WITHIN = 60.0
"""Seconds after an agreement on keys within which its model arrives."""


class ComputeServer(OwnedModels):
    """Evaluates shared models together with its twin.

    Args:
        cluster: whose server it is.
        holdings: of this worker; of its own if None.
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None, patience: float = 30.0) -> None:
        super().__init__(cluster or Membership(), holdings or Holdings(), patience)
        self._agreed: dict[bytes, tuple[Agreement, Pair | None]] = {}

    async def stopped(self) -> None:
        """End what runs in the background."""
        for entry in self._entries.values():
            entry.close(WorkerLost("the server stops"))
        await super().stopped()

    @message(reentrant=True)
    async def drain(self) -> None:
        """Have no requests begun here; return when those under way have ended. This worker's own process alone can send it."""

        async def leave(entry: HostedEntry) -> None:
            with contextlib.suppress(ActorError, ProtocolError):  # its third party is gone, and nothing is under way
                provider = entry.provider.with_options(one_way=False, timeout=None)
                await provider.leaving(entry.model.hosting.model, entry.model.me.index)

        await asyncio.gather(*(leave(entry) for entry in self._entries.values()))

    def _model(self, model: bytes) -> HostedEntry:
        for entry in self._entries.values():
            if entry.model.hosting.model == model:
                return entry
        raise UnknownModel("this server hosts no such model; it may have been stopped")

    # The third party's messages.

    def _dealt(self, model: bytes, what: str) -> HostedEntry:
        """Return the model of a message that its third party alone may send."""
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
        """Agree on keys for a model that will be hosted here: with the other server, and among equals with the helper.

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
        """Make room for a model whose name its owner has claimed here, and connect to the other server.

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
        model = HostedModel(hosting, pair, self._spent(hosting.name, claim))
        await self._enter(model, claim, seats, seal, None)

    async def _enter(self, model: HostedModel, claim: Claim, seats: Seats, seal: Agreement, lasting: Lasting | None) -> None:
        """Connect to the other two, and host a model from then on; one that stays in the place of what was hosted of it before."""
        hosting = model.hosting
        key = seal_key(seal, hosting.seal, hosting.model)
        size = weight_bytes(hosting.program)
        self._room.take(claim.holder, size)
        try:
            peer = await self.system.connect(f"{self._cluster.address(seats.servers[model.me.other])}/server", ComputeServer)
            settlement: type[Settlement] = Settlement  # type: ignore[type-abstract]  # the provider implements it
            provider = await self.system.connect(f"{self._cluster.address(seats.third)}/provider", settlement)
            if lasting is None:
                self._check_free(hosting.name)
            elif self._lasting.get(hosting.name) is not lasting:
                raise UnknownModel(f"model {hosting.name!r} has been stopped")
            else:
                self._leave(hosting.name)
        except BaseException:
            self._room.give(claim.holder, size)
            raise
        finally:
            self._claims.arrived(hosting.name)
        twins = self._twinned(hosting.model, model.me, peer)
        twins.watch(self.system, peer)
        entry = self._entries[hosting.name] = HostedEntry(model, claim, seats, key, twins, provider)
        entry.lasting = lasting
        entry.watch = asyncio.create_task(self._watch_provider(entry, provider))

    def _leave(self, name: str) -> None:
        """Forget what is hosted of a model that stays: its next session takes the place."""
        if name in self._entries:
            self._forget(self._entries[name])

    @message(reentrant=True, by=THIRD_PARTY)
    async def resume(self, hosting: Hosting, identifier: bytes) -> None:
        """Host a model that stays anew, after one of the three was lost: with new keys, and without weights until `open_kept`.

        What is hosted is what this server keeps: the word of the third party about program, promise or owner is not taken for it.

        Raises:
            UnknownModel: nothing of that name and identifier is kept here, or its files are damaged.
            ServingError: this server keeps it with another program, promise or part.
            ClusterError, TooLarge: see `host`.
        """
        seats, party = self._seated(hosting.equals, hosting.name, "resume")
        if hosting.party != party or hosting.model not in self._agreed:
            raise ClusterError(f"server {party} of the model {hosting.name!r} is asked to be server {hosting.party}, or agreed on no keys")
        lasting = self._lasting.get(hosting.name)
        if lasting is None or lasting.label.tag != identifier:
            raise UnknownModel(f"model {hosting.name!r} is not kept here, or it is another one of that name, or its files are damaged")
        about = lasting.about
        kept = (about.party, about.equals, about.program, lasting.promise)
        if kept != (party, hosting.equals, fingerprint(hosting.program), hosting.guarantee):
            raise ServingError(
                f"model {hosting.name!r} is kept here with another program, promise or part than the third party names: it has changed it,"
                " or it was kept by another version of confide"
            )
        seal, pair = self._agreed.pop(hosting.model)
        self._leave(hosting.name)
        model = HostedModel(hosting, pair, lasting.budget, lasting.quota)
        lasting.budget = model.budget
        await self._enter(model, lasting.claim, seats, seal, lasting)

    @message(reentrant=True, by=THIRD_PARTY)
    async def open_kept(self, model: bytes) -> bytes:
        """Take the shares of a model that stays from the folder, and open M_W with the other server under new masks.

        Returns:
            The seal of what both servers have sent each other: the third party compares them, which learns nothing from it.

        Raises:
            ServingError: it is none that stays, or its weights are here already.
            VaultError: its file is damaged.
        """
        entry = self._dealt(model, "open_kept")
        lasting, hosted = entry.lasting, entry.model
        if lasting is None:
            raise ServingError(f"model {hosted.name!r} is not kept here")
        arrays = await self._lasting.arrays(lasting)
        masked = await self._ahead.run(lambda: hosted.masked([arrays[str(index)] for index in range(len(arrays))]))
        seal = await self._open(entry, masked)
        if lasting.terms:
            hosted.serve(msgspec.msgpack.decode(lasting.terms, type=Terms))
        entry.together = True
        return seal

    async def _watch_provider(self, entry: HostedEntry, provider: Settlement) -> None:
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
        """Throw an unused ticket's randomness away, so that the other server, if it has begun, stops waiting; False if it was used."""
        entry = self._dealt(model, "withdraw")
        withdrawn = entry.model.stock.withdraw(ticket)
        if withdrawn:
            entry.twins.give_up(derive(model, ticket.run))
        return withdrawn

    @message(reentrant=True, by=THIRD_PARTY)
    async def under_way(self, model: bytes, request: bytes) -> list[int]:
        """Return the parts of a request that this server works on now."""
        return self._dealt(model, "under_way").model.quota.under_way(request)

    @message(reentrant=True, by=THIRD_PARTY)
    async def retire(self, model: bytes) -> None:
        """Forget a model that could not be shared completely, or whose owner is gone."""
        self._forget(self._dealt(model, "retire"))

    # The clients' messages.

    @message(reentrant=True, by=CLIENT)
    async def describe(self, name: str) -> Handshake:
        """Return the public half of a model.

        Raises:
            Busy: its owner is sharing it anew.
            Resuming: it stays, and its workers come together.
            UnknownModel: there is none, or its files are damaged.
        """
        entry, lasting = self._entries.get(name), self._lasting.get(name)
        if lasting is not None and (entry is None or not entry.together):
            raise Resuming(COMING_TOGETHER.format(name), RETRY)
        if entry is None:
            if name in self._claims.renewed:
                raise Busy(f"model {name!r} is being shared anew", RETRY)
            if name in self._lasting.damaged:
                raise UnknownModel(f"the files of the model {name!r} are damaged at this worker, and its log says how: share it anew")
            shared = ", ".join(sorted(self._entries)) or "none"
            raise UnknownModel(f"no model named {name!r} is shared here (shared: {shared})")
        return entry.model.handshake(entry.claim.holder, b"" if lasting is None else lasting.label.tag)

    @message(reentrant=True, by=(CLIENT, *WORKERS))
    async def names(self) -> list[str]:
        """Return the names of the models hosted here; whoever looks after another worker of the cluster may ask, too (`confide status`)."""
        return sorted({*self._entries, *self._lasting.all, *self._claims.renewed})

    @message(reentrant=True, by=CLIENT)
    async def answer(self, signed: SignedTicket, right: bytes, m: npt.NDArray[np.uint64]) -> Answer:
        """Return this server's share of the answer for masked examples.

        Steps: (1) verify the ticket, and the client's right to it at this server; (2) check the shape; (3) see that what is counted can be
        written; (4) consume the randomness; (5) count it as under way; (6) evaluate with the other server, while the count of a model that
        stays is written down; (7) see that the count is on the disk; (8) count it as answered, or not at all; tell the provider. Nothing
        is sent before (5), and a ticket that is refused in (3) or (4) counts nowhere.
        """
        entry = self._model(signed.ticket.model)
        model = entry.model
        ticket = check(signed, model.ticket_key, model.me.index, right)
        model.check_input(ticket, m)
        noted(model=model.name, examples=ticket.examples, reveal=ticket.reveal, request=traced(ticket.request))
        client = caller().common_name if model.counts_clients else ""
        if entry.lasting is not None:
            await entry.lasting.writable()
        material = model.stock.take(ticket)
        released = False
        try:
            model.admit(ticket, client)
            if entry.lasting is not None:
                entry.lasting.count_begun(client, ticket.examples if model.counts_clients else 0)
                self._background.later(entry.lasting.written())
            try:
                share, cost, seal = await self._evaluate(entry, ticket, material, m)
                if entry.lasting is not None:
                    await entry.lasting.written()
                released = True
            finally:
                model.ended(ticket, released)
                if entry.lasting is not None and not released:
                    entry.lasting.count_begun()
                    self._background.later(entry.lasting.written())
        finally:
            if isinstance(material, Supply):
                material.close()
            self._settle(entry, ticket, released)
        return Answer(share, cost, seal)

    async def _evaluate(self, entry: HostedEntry, ticket: Ticket, material: Material | Supply, m: Ring) -> tuple[Ring, Cost, bytes]:
        model, program = entry.model, entry.model.programs[ticket.reveal]
        channel = derive(model.hosting.model, ticket.run)
        seal = Seal(entry.seal_key, channel)
        seal.add([model.weights_fingerprint])  # each server was sent the weights by itself
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

    def _settle(self, entry: HostedEntry, ticket: Ticket, answered: bool) -> None:
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

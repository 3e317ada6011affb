"""The actor that evaluates shared models: one of the two servers of a cluster.

It holds one share of each model and of each input. Its messages come from four sides: the third party (`agree`, `host`, `deal`, `withdraw`,
`give_back`, `retire`), the model's owner (`load`, `serve`, `remove`), clients (`describe`, `names`, `answer`), and the other server
(`deliver`, `give_up`).

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the program, who asks when, and how many
examples; nothing of weights, inputs, values in between, or answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, message, portable_error
from protocols import errors, inference
from protocols.client_name import client_name
from protocols.errors import NameTaken, NotOwner, UnknownModel, WorkerLost
from protocols.exchange import Ring
from protocols.hosting import Handshake, HostedModel, Hosting, Terms
from protocols.keystream import derive
from protocols.material import Material
from protocols.pair import Pair
from protocols.preprocessing import answered
from protocols.presence import Presence
from protocols.run import Cost, Inboxes, drive
from protocols.seal import Seal
from protocols.settlement import Settlement
from protocols.ticket import Reveal, SignedTicket, Ticket, check

for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.ProtocolError):
        portable_error(_error)


HOSTED_WITHIN = 60.0
"""Seconds after an agreement within which its model arrives."""


class Answer(msgspec.Struct, frozen=True):
    """One server's share of an answer, (examples, words), what it cost that server, and its seal. It is told to the client only."""

    share: npt.NDArray[np.uint64]
    cost: Cost
    seal: bytes

    def __repr__(self) -> str:
        return f"Answer({self.cost})"


class _Entry:
    """A hosted model with its links to the other server and the provider."""

    def __init__(self, model: HostedModel, peer: ComputeServer, provider: Settlement, patience: float) -> None:
        self.model = model
        self.peer = peer.with_options(one_way=True)
        self.provider = provider.with_options(one_way=True)
        self.inboxes = Inboxes(patience)
        self.watches: list[asyncio.Task[None]] = []


class ComputeServer(Actor):
    """Evaluates shared models together with its twin.

    Args:
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, patience: float = 30.0) -> None:
        self._patience = patience
        self._entries: dict[str, _Entry] = {}
        self._agreed: dict[bytes, Pair] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for entry in self._entries.values():
            self._close(entry, WorkerLost("the server stops"))
        for task in self._background:
            task.cancel()
        self._ahead.shutdown(wait=False, cancel_futures=True)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Sends a message nobody waits for; if its receiver is gone, those who watch it will say so."""
        task = asyncio.create_task(_quietly(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _by(self, capability: str, value: bytes) -> _Entry:
        for entry in self._entries.values():
            if getattr(entry.model.hosting, capability) == value:
                return entry
        raise (NotOwner if capability == "owner" else UnknownModel)("this server hosts no such model; it may have been stopped")

    # The crypto provider's messages.

    @message(reentrant=True)
    async def agree(self, model: bytes, party: int, public: bytes) -> bytes:
        """Among equals: agrees on a secret with the helper of a model that will be hosted here; gives this server's public key."""
        mine, self._agreed[model] = answered(public, model, party)
        asyncio.get_running_loop().call_later(HOSTED_WITHIN, self._agreed.pop, model, None)
        return mine

    @message(reentrant=True)
    async def host(self, hosting: Hosting) -> None:
        """Makes room for a model and connects to the other server."""
        if hosting.name in self._entries:
            raise NameTaken(f"a model named {hosting.name!r} is hosted here already; choose another name or stop it first")
        model = HostedModel(hosting, self._agreed.pop(hosting.model, None))
        peer = await self.system.connect(f"{hosting.addresses.servers[model.me.other]}/server", ComputeServer)
        settlement: type[Settlement] = Settlement  # type: ignore[type-abstract]  # the provider implements it
        provider = await self.system.connect(f"{hosting.addresses.crypto_provider}/provider", settlement)
        if hosting.name in self._entries:
            raise NameTaken(f"a model named {hosting.name!r} is hosted here already; choose another name or stop it first")
        entry = self._entries[hosting.name] = _Entry(model, peer, provider, self._patience)
        entry.watches = [asyncio.create_task(self._watch(entry, peer)), asyncio.create_task(self._watch_provider(entry, provider))]

    async def _watch(self, entry: _Entry, peer: ComputeServer) -> None:
        ended = await self.system.watch(peer)
        entry.inboxes.fail_all(WorkerLost(f"the other server is gone: {ended.reason}"))

    async def _watch_provider(self, entry: _Entry, provider: Settlement) -> None:
        """Without its provider a model has no future. What was granted is still answered; then the name is free again, also if the owner
        is gone, too, and can stop nothing. A connection that only broke is no loss.
        """
        known = True
        while known:
            await self.system.watch(provider)
            await asyncio.sleep(self._patience)
            try:
                known = await provider.knows(entry.model.hosting.authority)
            except ActorError:
                known = False
        if self._entries.get(entry.model.name) is entry:
            self._forget(entry)

    @message(reentrant=True)
    async def deal(
        self, authority: bytes, reveal: Reveal, chunk: bytes, key: bytes | None, examples: int, dealt: npt.NDArray[np.uint64] | None
    ) -> None:
        """Takes a chunk of randomness; returns when it is prepared and on stock."""
        model = self._by("authority", authority).model
        own = model.key(key, "chunk", chunk)
        prepare = asyncio.get_running_loop().run_in_executor(self._ahead, model.prepared, reveal, own, examples, dealt)
        model.stocks[reveal].add(chunk, await prepare)

    @message(reentrant=True)
    async def withdraw(self, authority: bytes, ticket: Ticket) -> bool:
        """Throws the randomness of an unused ticket away; False if it has been used."""
        return self._by("authority", authority).model.stocks[ticket.reveal].withdraw(ticket)

    @message(reentrant=True)
    async def give_back(self, authority: bytes, request: bytes) -> None:
        """A request got no answer and does not count."""
        self._by("authority", authority).model.give_back(request)

    @message(reentrant=True)
    async def retire(self, authority: bytes) -> None:
        """Forgets a model that could not be shared completely, or whose owner is gone."""
        self._forget(self._by("authority", authority))

    def _forget(self, entry: _Entry) -> None:
        """Shares, randomness, and requests under way."""
        del self._entries[entry.model.name]
        self._close(entry, UnknownModel(f"model {entry.model.name!r} has been stopped"))

    def _close(self, entry: _Entry, reason: Exception) -> None:
        entry.inboxes.fail_all(reason)
        entry.inboxes.close()
        for watch in entry.watches:
            watch.cancel()

    # The owner's messages.

    @message(reentrant=True)
    async def load(self, owner: bytes, masked: list[npt.NDArray[np.uint64]]) -> None:
        """Takes M_W = W + lambda_W of every weight."""
        self._by("owner", owner).model.load(masked)

    @message(reentrant=True)
    async def serve(self, owner: bytes, terms: Terms) -> None:
        """Allows requests."""
        self._by("owner", owner).model.serve(terms)

    @message(reentrant=True)
    async def remove(self, name: str, owner: bytes) -> None:
        """Forgets a model."""
        entry = self._by("owner", owner)
        if entry.model.name == name:
            self._forget(entry)

    # The clients' messages.

    @message(reentrant=True)
    async def describe(self, name: str) -> Handshake:
        """The public half of a model."""
        if name not in self._entries:
            shared = ", ".join(sorted(self._entries)) or "none"
            raise UnknownModel(f"no model named {name!r} is shared here (shared: {shared})")
        return self._entries[name].model.handshake

    @message(reentrant=True)
    async def names(self) -> list[str]:
        """The names of the models hosted here."""
        return sorted(self._entries)

    @message(reentrant=True)
    async def answer(self, signed: SignedTicket, m: npt.NDArray[np.uint64], presence: Presence | None = None) -> Answer:
        """This server's share of the answer for masked examples.

        Steps: (1) verify the ticket; (2) check the shape; (3) consume the randomness; (4) count the request; (5) evaluate with the other
        server; (6) tell the provider how it ended. Nothing is sent before (4), and a ticket that is refused in (3) counts nowhere.
        `presence` says who asks; it is needed where answers are noisy.
        """
        entry = self._by("model", signed.ticket.model)
        model = entry.model
        ticket = check(signed, model.ticket_key, model.me.index)
        model.check_input(ticket, m)
        client = client_name(self.system, presence) if model.counts_clients else ""
        material = model.stocks[ticket.reveal].take(ticket)
        answered = False
        try:
            model.admit(ticket, client)
            share, cost, seal = await self._evaluate(entry, ticket, material, m)
            answered = True
        finally:
            self._settle(entry, ticket, answered)
        return Answer(share, cost, seal)

    async def _evaluate(self, entry: _Entry, ticket: Ticket, material: Material, m: Ring) -> tuple[Ring, Cost, bytes]:
        model, link = entry.model, entry.model.hosting.link
        channel = derive(link, ticket.run)
        seal = Seal(link, channel)
        seal.add([m])

        async def send(channel: bytes, number: int, arrays: list[Ring]) -> None:
            await entry.peer.deliver(link, channel, number, arrays)

        protocol = inference.evaluate(model.me, model.programs[ticket.reveal], model.weights, material, m)
        try:
            with entry.inboxes.claimed(channel) as inbox:
                share, cost = await drive(
                    protocol,
                    channel,
                    inbox,
                    send,
                    other=model.me.other,
                    seal=seal,
                    dealt=model.dealt_bytes(ticket),
                    patience=self._patience,
                    received=m,
                )
            return share, cost, seal.close()
        except ActorError as error:
            raise WorkerLost(f"the other server cannot be reached: {error}") from None
        except BaseException:
            self._later(entry.peer.give_up(link, channel))
            raise

    def _settle(self, entry: _Entry, ticket: Ticket, answered: bool) -> None:
        self._later(entry.provider.settle(entry.model.hosting.authority, ticket.request, ticket.part, entry.model.me.index, answered))

    # The other server's messages.

    @message(reentrant=True)
    def deliver(self, link: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        """One round of a computation; of a model that has been stopped meanwhile, nothing."""
        for entry in self._linked(link):
            entry.inboxes.put(channel, number, arrays)

    @message(reentrant=True)
    def give_up(self, link: bytes, channel: bytes) -> None:
        """The other server will send no more for a computation."""
        for entry in self._linked(link):
            entry.inboxes.fail(channel, WorkerLost("the other server gave this request up"))

    def _linked(self, link: bytes) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.model.hosting.link == link]


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(ActorError):
        await work

"""The actor that trains: one of the two servers of a cluster, beside its `ComputeServer`.

It holds one share of each array and each model under training. Its messages come from owners (`store`, `hold`, `load`, `begin`, `epoch`,
`weights`, `save`, `restore`, `forget`), the third party (`agree`, `supply`) and the other server (`deliver`, `give_up`).

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the plan (layers, loss, learning rates),
the shapes of arrays, their order in each epoch; nothing of features, labels, weights or gradients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, message
from protocols.errors import CheckpointError, NotGranted, SharingError, TicketRefused, UnknownModel, WorkerLost
from protocols.exchange import Party, Ring
from protocols.keystream import KeyStream, derive
from protocols.pair import Pair
from protocols.preprocessing import answered, server_key
from protocols.presence import Presence
from protocols.run import Inboxes, drive
from protocols.seal import Seal
from protocols.training.evaluation import Affine, evaluate
from protocols.training.holdings import Background, Holdings, Model, Stored
from protocols.training.kept import RUN, About, Progress, digest, run_name
from protocols.training.preprocessing import StepMaterial
from protocols.training.replicated import Component, Replicated
from protocols.training.step import Plan
from protocols.training.supply import Supply
from protocols.training.terms import Column, Report, Steps, Terms, widened
from protocols.vault import Label

T = TypeVar("T")

_SUM = "sum of "
"""Beside the weights in a checkpoint: the sums of the metric and the loss over the steps so far of an epoch."""


class _Session:
    """One run of training at one server. Its `shares` are ahead of the model's until an epoch is complete at both."""

    def __init__(self, terms: Terms, party: int, model: Model, peer: TrainingServer, patience: float) -> None:
        self.terms, self.me, self.model = terms, Party(party), model
        self.peer = peer.with_options(one_way=True)
        self.steps = Steps(terms)
        self.supply = Supply(self.steps.ahead)
        self.inboxes = Inboxes(patience)
        self.shares, self.sums = model.shares, model.sums
        self.done = 0
        self.watch: asyncio.Task[None] | None = None
        self.pair: Pair | None = None

    def close(self, reason: Exception) -> None:
        self.inboxes.fail_all(reason)
        self.inboxes.close()
        if self.watch is not None:
            self.watch.cancel()


class TrainingServer(Actor):
    """Trains shared models on shared data together with its twin.

    Args:
        holdings: of this worker; of its own if None.
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, holdings: Holdings | None = None, patience: float = 30.0) -> None:
        self._patience = patience
        self._holdings = holdings or Holdings()
        self._stored, self._models = self._holdings.arrays, self._holdings.models
        self._sessions: dict[bytes, _Session] = {}
        self._background = Background()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="expand")

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for session in self._sessions.values():
            session.close(WorkerLost("the server stops"))
        self._background.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _while(self, presence: Presence, table: dict[bytes, T], handle: bytes, closing: Callable[[T], None] | None = None) -> None:
        self._background.while_present(self.system, presence, table, handle, closing)

    # The owners' messages.

    @message(reentrant=True)
    async def store(self, column: Column, masked: npt.NDArray[np.uint64], key: bytes, presence: Presence) -> None:
        """Keeps an array as long as its owner is there: the masked values, and the key of this server's half of the mask."""
        if masked.shape != column.shape:
            raise SharingError(f"an array of shape {masked.shape} arrived for {column.name!r} of shape {column.shape}")
        self._stored[column.handle] = Stored(column, masked, KeyStream(key).words(column.shape))
        self._while(presence, self._stored, column.handle)

    @message(reentrant=True)
    async def hold(self, column: Column, components: dict[int, Component], presence: Presence) -> None:
        """Among equals: keeps two of the three components of an array as long as its owner is there."""
        self._holdings.hold(column.handle, Replicated(components, column.shape))
        self._while(presence, self._stored, column.handle)
        self._while(presence, self._holdings.masks, column.handle)

    @message(reentrant=True)
    async def load(self, handle: bytes, plan: Plan, shares: list[npt.NDArray[np.uint64]], presence: Presence) -> None:
        """Keeps this server's shares of the weights of a model, in the order of `Plan.shapes`."""
        shapes = plan.shapes
        if [share.shape for share in shares] != list(shapes.values()):
            raise SharingError(f"weights of shapes {[share.shape for share in shares]} arrived, the plan has {list(shapes.values())}")
        states = {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
        self._models[handle] = Model(plan, dict(zip(shapes, shares, strict=True)) | states)
        self._while(presence, self._models, handle)

    @message(reentrant=True)
    async def begin(self, terms: Terms, model: bytes, party: int, presence: Presence) -> None:
        """Begins a run of training, which ends when its owner is gone: finds the data and the other server."""
        if model not in self._models or terms.x.handle not in self._stored or terms.y.handle not in self._stored:
            raise UnknownModel("this server has no such model or data; its owner may be gone, or the server was started anew")
        if party not in (0, 1):
            raise SharingError(f"party={party}; 0 or 1 is needed")
        peer = await self.system.connect(f"{terms.addresses.servers[1 - party]}/training", TrainingServer)
        session = _Session(terms, party, self._models[model], peer, self._patience)
        self._sessions[terms.session] = session
        self._while(presence, self._sessions, terms.session, lambda gone: gone.close(WorkerLost("the owner is gone")))
        session.watch = asyncio.create_task(self._watch(session, peer))

    async def _watch(self, session: _Session, peer: TrainingServer) -> None:
        ended = await self.system.watch(peer)
        session.inboxes.fail_all(WorkerLost(f"the other server is gone: {ended.reason}"))

    @message(reentrant=True)
    async def epoch(self, owner: bytes, number: int, start: int, stop: int, told: list[str]) -> Report:
        """Makes the steps `start` to `stop` of an epoch. At its end the shares of those of "metric" and "loss" leave that are `told`."""
        session = self._owned(owner)
        clock = asyncio.get_running_loop().time
        rounds, sent, received, waited, begun = 0, 0, 0, 0.0, clock()
        seal = Seal(session.terms.link, derive(session.terms.link, "epoch", number, start))
        if start == 0:
            session.sums = {}
        steps = session.terms.rows(number)
        for rows in steps[start:stop]:
            before = clock()
            material, dealt = await session.supply.take(session.done)
            waited += clock() - before
            outputs, cost = await self._step(session, rows, material, dealt, seal)
            session.sums = {
                name: session.sums.get(name, np.zeros(1, np.uint64)) + outputs[name] for name in outputs.keys() - session.shares.keys()
            }
            session.shares = {name: outputs[name] for name in session.shares}
            session.done += 1
            rounds, sent, received = rounds + cost[0], sent + cost[1], received + dealt
        sums = {name: session.sums[name] for name in told} if stop >= len(steps) else {}
        seconds = clock() - begun
        return Report(len(steps[start:stop]), sums, session.shares["outside"], rounds, sent, received, seconds, waited, seal.close())

    @message(reentrant=True)
    async def keep(self, owner: bytes) -> None:
        """Both servers have made the same steps: their weights are the model's. Without this the model is as it was before them."""
        session = self._owned(owner)
        session.model.shares, session.model.sums = session.shares, session.sums

    @message(reentrant=True)
    async def begun(self, owner: bytes, number: int) -> int:
        """Waits until step `number` of the run has begun; how many have."""
        return await self._owned(owner).supply.passed(number)

    # Checkpoints.

    @message(reentrant=True)
    async def save(self, owner: bytes, label: Label, right: bytes, progress: Progress) -> None:
        """Writes this server's shares of all that the next step depends on: a version of the training that `right` is the right to."""
        model = self._owned(owner).model
        if label.kind != RUN or label.name != run_name(right):
            raise NotGranted("this is the right to another training")
        about = About("server", digest(right), digest(right), progress=progress)
        arrays = model.shares | {f"{_SUM}{name}": total for name, total in model.sums.items()}
        await asyncio.to_thread(self._holdings.vault.write, label, msgspec.msgpack.encode(about), arrays)

    @message(reentrant=True)
    async def restore(self, handle: bytes, plan: Plan, label: Label, right: bytes, presence: Presence) -> None:
        """Holds a model as it was saved. The version must have been re-randomised since, see `Keeper.refresh`."""
        if label.kind != RUN or label.name != run_name(right):
            raise NotGranted("this is the right to another training")
        _, arrays = await asyncio.to_thread(self._holdings.vault.read, label)
        sums = {name.removeprefix(_SUM): arrays.pop(name) for name in list(arrays) if name.startswith(_SUM)}
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != plan.shapes | plan.states:
            raise CheckpointError("the weights or the optimizer's state of the checkpoint have other names or shapes than the model's")
        self._models[handle] = Model(plan, arrays, sums)
        self._while(presence, self._models, handle)

    async def _step(
        self, session: _Session, rows: npt.NDArray[np.int64], material: StepMaterial, dealt: int, seal: Seal
    ) -> tuple[dict[str, Ring], tuple[int, int]]:
        terms, link = session.terms, session.terms.link
        channel = derive(link, "step", session.done)
        given: dict[str, Affine | Ring] = dict(session.shares)
        given["x"] = self._wire(terms, terms.x, rows, lambda array: widened(array, terms.plan.inputs))
        given["y"] = self._wire(terms, terms.y, rows, terms.targets)

        async def send(channel: bytes, number: int, arrays: list[Ring]) -> None:
            await session.peer.deliver(link, channel, number, arrays)

        protocol = evaluate(session.me, session.steps.at(len(rows), terms.made + session.done), material, given)
        try:
            with session.inboxes.claimed(channel) as inbox:
                other, patience = session.me.other, self._patience
                outputs, cost = await drive(protocol, channel, inbox, send, other=other, seal=seal, dealt=dealt, patience=patience)
        except ActorError as error:
            raise WorkerLost(f"the other server cannot be reached: {error}") from None
        except BaseException:
            self._background.later(session.peer.give_up(link, channel))
            raise
        return outputs, (cost.rounds, cost.sent)

    def _wire(self, terms: Terms, column: Column, rows: npt.NDArray[np.int64], form: Callable[[Ring], Ring]) -> Affine:
        """Some examples of an array, in the form in which a step takes them."""
        wire = self._stored[column.handle].wire(terms.addresses.helper, rows)
        return Affine(form(wire.a), {"R": form(wire.parts["R"])})

    @message(reentrant=True)
    async def weights(self, handle: bytes) -> list[npt.NDArray[np.uint64]]:
        """This server's shares of the weights of a model, for its owner: the handle is the owner's alone."""
        if handle not in self._models:
            raise UnknownModel("this server has no such model; its owner may be gone, or the server was started anew")
        model = self._models[handle]
        return [model.shares[name] for name in model.plan.shapes]

    @message(reentrant=True)
    async def end(self, owner: bytes) -> None:
        """Ends a run; the weights stay."""
        session = self._owned(owner)
        del self._sessions[session.terms.session]
        session.close(UnknownModel("this training has ended"))

    @message(reentrant=True)
    async def forget(self, handle: bytes) -> None:
        """Forgets a model's shares, or a stored array's."""
        self._models.pop(handle, None)
        self._stored.pop(handle, None)

    def _owned(self, owner: bytes) -> _Session:
        return self._by("owner", owner)

    def _by(self, capability: str, value: bytes) -> _Session:
        for session in self._sessions.values():
            if getattr(session.terms, capability) == value:
                return session
        raise UnknownModel("no such training runs here; it may have ended")

    # The third party's messages.

    @message(reentrant=True)
    async def agree(self, authority: bytes, public: bytes) -> bytes:
        """Among equals: agrees on a secret with the helper of a run, once; gives this server's public key."""
        session = self._by("authority", authority)
        if session.pair is not None:
            raise TicketRefused("the keys of this training are agreed on already; begin a new one")
        mine, session.pair = answered(public, session.terms.session, session.me.index)
        return mine

    @message(reentrant=True)
    async def supply(self, authority: bytes, number: int, examples: int, key: bytes | None, dealt: npt.NDArray[np.uint64] | None) -> None:
        """Takes the randomness of a step as soon as there is room; returns when it is expanded."""
        session = self._by("authority", authority)
        await session.supply.room(number)
        own = server_key(session.terms.addresses.equals, session.pair, key, "step", number)
        layout = session.steps[examples][1]
        loop = asyncio.get_running_loop()
        material = await loop.run_in_executor(self._thread, StepMaterial.of, layout, own, dealt)
        await session.supply.put(number, material, 0 if dealt is None else dealt.nbytes)

    # The other server's messages.

    @message(reentrant=True)
    def deliver(self, link: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        """One round of a step; of a training that has ended meanwhile, nothing."""
        for session in self._sessions.values():
            if session.terms.link == link:
                session.inboxes.put(channel, number, arrays)

    @message(reentrant=True)
    def give_up(self, link: bytes, channel: bytes) -> None:
        """The other server will send no more for a step."""
        for session in self._sessions.values():
            if session.terms.link == link:
                session.inboxes.fail(channel, WorkerLost("the other server gave this step up"))

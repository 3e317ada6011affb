"""The actor that trains: one of the two servers of a cluster, beside its `ComputeServer`.

It holds one share of each array and each model under training. Its messages come from owners (`store`, `load`, `begin`, `epoch`,
`weights`, `forget`), the crypto provider (`supply`) and the other server (`deliver`, `give_up`).

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the plan (layers, loss, learning rates),
the shapes of arrays, their order in each epoch; nothing of features, labels, weights or gradients.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, message
from protocols.errors import UnknownModel, WorkerLost
from protocols.exchange import Party, Ring
from protocols.keystream import KeyStream, derive
from protocols.presence import Presence
from protocols.run import Inboxes, drive
from protocols.seal import Seal
from protocols.training.evaluation import Affine, evaluate
from protocols.training.preprocessing import StepMaterial
from protocols.training.step import Plan
from protocols.training.supply import Supply
from protocols.training.terms import Column, Report, Steps, Terms, widened


@dataclass(frozen=True)
class _Stored:
    """An array at this server: m = x + lambda, and this server's half of lambda."""

    column: Column
    masked: Ring = field(repr=False)
    mask: Ring = field(repr=False)

    def wire(self, rows: npt.NDArray[np.int64], form: Callable[[Ring], Ring]) -> Affine:
        """Some of its examples, in the form in which a step takes them."""
        return Affine(form(self.masked[rows]), {"R": form(self.mask[rows])})


@dataclass
class _Model:
    """This server's shares of the weights and optimizer states of one model, by name."""

    plan: Plan
    shares: dict[str, Ring] = field(repr=False)


class _Session:
    """One run of training at one server. Its `shares` are ahead of the model's until an epoch is complete at both."""

    def __init__(self, terms: Terms, party: int, model: _Model, peer: TrainingServer, patience: float) -> None:
        self.terms, self.me, self.model = terms, Party(party), model
        self.peer = peer.with_options(one_way=True)
        self.steps = Steps(terms)
        self.supply = Supply(self.steps.ahead)
        self.inboxes = Inboxes(patience)
        self.shares = model.shares
        self.done = 0
        self.watch: asyncio.Task[None] | None = None

    def close(self, reason: Exception) -> None:
        self.inboxes.fail_all(reason)
        self.inboxes.close()
        if self.watch is not None:
            self.watch.cancel()


class TrainingServer(Actor):
    """Trains shared models on shared data together with its twin.

    Args:
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, patience: float = 30.0) -> None:
        self._patience = patience
        self._stored: dict[bytes, _Stored] = {}
        self._models: dict[bytes, _Model] = {}
        self._sessions: dict[bytes, _Session] = {}
        self._watches: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="expand")

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        for session in self._sessions.values():
            session.close(WorkerLost("the server stops"))
        for watch in self._watches:
            watch.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _while(self, presence: Presence, table: dict[bytes, Any], handle: bytes) -> None:
        """Forgets what an owner left here when the owner is gone."""

        async def watch() -> None:
            await self.system.watch(presence)
            gone = table.pop(handle, None)
            if isinstance(gone, _Session):
                gone.close(WorkerLost("the owner is gone"))

        self._later(watch())

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        async def quietly() -> None:
            with contextlib.suppress(ActorError):
                await work

        task = asyncio.create_task(quietly())
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)

    # The owners' messages.

    @message(reentrant=True)
    async def store(self, column: Column, masked: npt.NDArray[np.uint64], key: bytes, presence: Presence) -> None:
        """Keeps an array as long as its owner is there: the masked values, and the key of this server's half of the mask."""
        if masked.shape != column.shape:
            raise ValueError(f"an array of shape {masked.shape} arrived for {column.name!r} of shape {column.shape}")
        self._stored[column.handle] = _Stored(column, masked, KeyStream(key).words(column.shape))
        self._while(presence, self._stored, column.handle)

    @message(reentrant=True)
    async def load(self, handle: bytes, plan: Plan, shares: list[npt.NDArray[np.uint64]], presence: Presence) -> None:
        """Keeps this server's shares of the weights of a model, in the order of `Plan.shapes`."""
        shapes = plan.shapes
        if [share.shape for share in shares] != list(shapes.values()):
            raise ValueError(f"weights of shapes {[share.shape for share in shares]} arrived, the plan has {list(shapes.values())}")
        states = {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
        self._models[handle] = _Model(plan, dict(zip(shapes, shares, strict=True)) | states)
        self._while(presence, self._models, handle)

    @message(reentrant=True)
    async def begin(self, terms: Terms, model: bytes, party: int, presence: Presence) -> None:
        """Begins a run of training, which ends when its owner is gone: finds the data and the other server."""
        if model not in self._models or terms.x.handle not in self._stored or terms.y.handle not in self._stored:
            raise UnknownModel("this server has no such model or data; its owner may be gone, or the server was started anew")
        if party not in (0, 1):
            raise ValueError(f"party={party}; 0 or 1 is needed")
        peer = await self.system.connect(f"{terms.addresses.servers[1 - party]}/training", TrainingServer)
        session = _Session(terms, party, self._models[model], peer, self._patience)
        self._sessions[terms.session] = session
        self._while(presence, self._sessions, terms.session)
        session.watch = asyncio.create_task(self._watch(session, peer))

    async def _watch(self, session: _Session, peer: TrainingServer) -> None:
        ended = await self.system.watch(peer)
        session.inboxes.fail_all(WorkerLost(f"the other server is gone: {ended.reason}"))

    @message(reentrant=True)
    async def epoch(self, owner: bytes, number: int, told: list[str]) -> Report:
        """Trains for one epoch. Of "metric" and "loss" the shares of those that are `told` leave this server."""
        session = self._owned(owner)
        clock = asyncio.get_running_loop().time
        sums = dict.fromkeys(told, np.zeros(1, np.uint64))
        rounds, sent, received, waited, start = 0, 0, 0, 0.0, clock()
        seal = Seal(session.terms.link, derive(session.terms.link, "epoch", number))
        for rows in session.terms.rows(number):
            before = clock()
            material, dealt = await session.supply.take(session.done)
            waited += clock() - before
            outputs, cost = await self._step(session, rows, material, dealt, seal)
            sums = {name: total + outputs[name] for name, total in sums.items()}
            session.shares = {name: outputs[name] for name in session.shares}
            session.done += 1
            rounds, sent, received = rounds + cost[0], sent + cost[1], received + dealt
        outside = session.shares["outside"]
        return Report(sums, outside, rounds, sent, received, clock() - start, waited, seal.close())

    @message(reentrant=True)
    async def keep(self, owner: bytes) -> None:
        """Both servers have finished an epoch: its weights are the model's. Without this the model is as it was before the epoch."""
        session = self._owned(owner)
        session.model.shares = session.shares

    async def _step(
        self, session: _Session, rows: npt.NDArray[np.int64], material: StepMaterial, dealt: int, seal: Seal
    ) -> tuple[dict[str, Ring], tuple[int, int]]:
        terms, link = session.terms, session.terms.link
        channel = derive(link, "step", session.done)
        given: dict[str, Affine | Ring] = dict(session.shares)
        given["x"] = self._stored[terms.x.handle].wire(rows, lambda array: widened(array, terms.plan.inputs))
        given["y"] = self._stored[terms.y.handle].wire(rows, terms.targets)

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
            self._later(session.peer.give_up(link, channel))
            raise
        return outputs, (cost.rounds, cost.sent)

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

    # The crypto provider's messages.

    @message(reentrant=True)
    async def supply(self, authority: bytes, number: int, examples: int, key: bytes, dealt: npt.NDArray[np.uint64] | None) -> None:
        """Takes the randomness of a step as soon as there is room; returns when it is expanded."""
        session = self._by("authority", authority)
        await session.supply.room(number)
        layout = session.steps[examples][1]
        loop = asyncio.get_running_loop()
        material = await loop.run_in_executor(self._thread, StepMaterial.of, layout, key, dealt)
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

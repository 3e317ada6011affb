"""The actor that trains: one of the two servers of a cluster, beside its `ComputeServer`.

It holds one share of each array and each model under training. Its messages come from owners (`store`, `store_replicated`, `load`,
`begin`, `meet`, `epoch`, `hold`, `ready`, `weights`, `save`, `restore`, `forget`), the third party (`agree`, `supply`, `room`, `segment`)
and the other server (`deliver`, `give_up`). An owner shows a right that holds at this server only; which workers the others are follows
from the model's name.

Adversary: semi-honest; no two of the servers and the provider collude. **Leaks** to this server: the plan (layers, loss, learning rates),
the shapes of arrays, their order in each epoch; nothing of features, labels, weights or gradients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np
import numpy.typing as npt

from actors import caller, message
from protocols.authority.membership import OWNER, THIRD_PARTY, Membership
from protocols.authority.presence import Presence, while_present
from protocols.authority.rights import Claim, digest, shows
from protocols.datasets.dataset import Dataset
from protocols.datasets.masked import MaskedDataset
from protocols.datasets.replicated import Component, Replicated, replicated
from protocols.errors import CheckpointError, ClusterError, InputError, NameTaken, NotGranted, TicketRefused, UnknownModel, WorkerLost
from protocols.link.keys import answered, server_key
from protocols.link.run import Cost
from protocols.link.seal import Seal, seal_key
from protocols.link.twins import Twins
from protocols.mpc.engine.values import Affine
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import derive
from protocols.serving.supply import Supply
from protocols.storage.holdings import Holdings, Model
from protocols.storage.vault import Label
from protocols.storage.versions import RUN, About, Progress
from protocols.training.asked import FEATURES, WEIGHT, AskedPlan, Derivation, SharedPrediction
from protocols.training.circuits import MicroBatch, StepCircuits, none_yet
from protocols.training.step import Plan
from protocols.training.terms import ARRAYS, AnyPlan, StepsReport, ToldTerms, check_held, check_made
from protocols.workers.held_models import HeldModels, kept_apart, kept_arrays
from protocols.workers.training_run import TrainingRun

_SUM = "sum of "
"""Beside the weights in a checkpoint: the sums of the metric and the loss over the steps so far of an epoch."""


class TrainingServer(HeldModels):
    """Trains shared models on shared data together with its twin.

    Args:
        cluster: whose server it is.
        holdings: of this worker; of its own if None.
        patience: seconds to wait for a message of the other server.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None, patience: float = 30.0) -> None:
        super().__init__(cluster or Membership(), holdings or Holdings(), patience)
        self._datasets = self._holdings.datasets
        self._sessions: dict[bytes, TrainingRun] = {}

    async def stopped(self) -> None:
        """End what runs in the background."""
        for session in self._sessions.values():
            session.close(WorkerLost("the server stops"))
        await super().stopped()

    # The owners' messages.

    @message(reentrant=True, by=OWNER)
    async def store(self, dataset: Dataset, digest: bytes, masked: npt.NDArray[np.uint64], key: bytes, presence: Presence) -> None:
        """Hold a dataset as long as its owner is there: the masked values, and the key of this server's half of the mask.

        `digest` is that of the right to train on it, at this worker.
        """
        part = MaskedDataset.expanded(dataset, masked, key)
        self._claim(presence, dataset.handle, digest)
        self._datasets[dataset.handle] = part

    @message(reentrant=True, by=OWNER)
    async def store_replicated(self, dataset: Dataset, digest: bytes, components: dict[int, Component], presence: Presence) -> None:
        """Hold, among equals, two of the three components of a dataset as long as its owner is there."""
        array = Replicated(components, dataset.shape)
        self._claim(presence, dataset.handle, digest)
        self._holdings.hold(dataset.handle, array)

    @message(reentrant=True, by=OWNER)
    async def begin(self, told: ToldTerms, digest: bytes, model: bytes, rights: tuple[bytes, ...], presence: Presence) -> bytes:
        """Begin a run of training, which ends when its owner is gone: find the data and the other server.

        Args:
            told: terms of the run.
            digest: of the right to the run, at this server.
            model: handle of the weights.
            rights: to the arrays of the run in their order, and the model, at this server.
            presence: of the owner.

        Returns:
            This server's public key for the seals, to be brought to the other one, see `meet`.

        Raises:
            NotOwner: the data or the model are somebody else's.
            UnknownModel: they are not here.
            NotGranted: the owners of the data do not allow steps of so few examples.
            ClusterError: this worker is no server of a model of this name, belongs to another cluster, or reads the terms otherwise.
        """
        terms = told.terms
        arrays = [dataset.handle for dataset in terms.datasets.values()]
        owned = (*((dataset.handle, ARRAYS[name[0]]) for name, dataset in terms.datasets.items()), (model, "model"))
        if len(rights) != len(owned):
            raise InputError(f"{len(rights)} rights were shown for {len(owned)} things: one for each array, and one for the model")
        for (handle, kind), right in zip(owned, rights, strict=True):
            self._holdings.check(handle, right, kind)
        if model not in self._models or any(array not in self._datasets for array in arrays):
            raise UnknownModel("this server has no such model or data; its owner may be gone, or the server was started anew")
        check_held(told, *(self._datasets[array].shape for array in arrays))
        self._holdings.check_bounded(arrays, terms.plan)
        self._holdings.check_steps(arrays, terms.rows(0), weighted=terms.weighted)
        if {name: share.shape for name, share in self._models[model].shares.items()} != terms.plan.shapes | terms.plan.states:
            raise InputError("the plan of this run is not that of the model: its weights have other names or shapes")
        claim, where = Claim.of_caller(digest), self._cluster.seats(terms.equals, terms.name)
        if self._cluster.place == where.third:
            raise ClusterError(f"this worker deals for the model {terms.name!r}: list the three workers in the order of the cluster")
        party = where.party(self._cluster.place)
        peer = await self.system.connect(f"{self._cluster.address(where.servers[1 - party])}/training", TrainingServer)
        if terms.session in self._sessions:
            raise NameTaken("a run of this name is under way; begin another one")
        twins = self._twinned(terms.session, Party(party), peer)
        session = TrainingRun(terms, claim, self._models[model], twins, self._ahead.run, self._patience)
        session.use &= self._holdings.use_of(*arrays)
        if not isinstance(terms.plan, AskedPlan):  # what is asked leaves the weights as they are
            session.model.use = session.use
        if isinstance(terms.plan, SharedPrediction):
            self._holdings.check_own(arrays)
        session.watch = while_present(self._background, self.system, presence, lambda: self._gone(session))
        self._sessions[terms.session] = session
        twins.watch(self.system, peer)
        return session.agreement.public

    def _gone(self, session: TrainingRun) -> None:
        if self._sessions.get(session.terms.session) is session:
            del self._sessions[session.terms.session]
            session.close(WorkerLost("the owner is gone"))

    @message(reentrant=True, by=OWNER)
    async def meet(self, run: bytes, right: bytes, public: bytes) -> None:
        """Take the public key of the other server, once: from now on both seal what they send each other."""
        session = self._owned(run, right)
        if session.seal_key:
            raise TicketRefused("the servers of this training have met already; begin a new one")
        session.seal_key = seal_key(session.agreement, public, run)

    @message(reentrant=True, by=OWNER)
    async def epoch(self, run: bytes, right: bytes, number: int, start: int, stop: int, told: list[str]) -> StepsReport:
        """Make the steps `start` to `stop` of an epoch. At its end the shares of what is `told` leave: "metric", "loss", "outputs".

        Raises:
            NotGranted: the owners of the data open it to others only.
        """
        session = self._owned(run, right)
        clock = asyncio.get_running_loop().time
        rounds, sent, dealt, begun, made = 0, 0, 0, clock(), session.made
        before = session.randomness.waited
        if told and isinstance(session.terms.plan, Plan) and session.terms.plan.private is not None:
            raise NotGranted("sums over examples are told without noise, and this training protects each example")
        if told:
            session.use.check_reveal(caller().common_name)
        if not session.seal_key:
            raise TicketRefused("the servers of this training have not met: each needs the public key of the other")
        seal = Seal(session.seal_key, derive(run, "epoch", number, start, session.done))
        session.partial = {}
        if start == 0:
            session.sums, session.wires = {}, []
        steps = session.terms.rows(number)
        self._holdings.check_steps([dataset.handle for dataset in session.terms.datasets.values()], steps)
        for index, rows in enumerate(steps[start:stop], start):
            for micro, some in session.steps.micro_batches(rows, last=index == stop - 1):
                outputs, cost = await self._micro_batch(session, micro, some, seal)
                session.take(micro, outputs)
                rounds, sent, dealt = rounds + cost.rounds, sent + cost.sent, dealt + cost.dealt
            session.done += 1
        known = session.sums | {name: session.shares[name] for name in session.terms.plan.told}
        sums = {name: known[name] for name in told if not name.startswith(WEIGHT)} if stop >= len(steps) else {}
        outside, seconds, waited = session.shares["outside"], clock() - begun, session.randomness.waited - before
        count, parts = len(steps[start:stop]), session.made - made
        return StepsReport(count, sums, outside, rounds, sent, dealt, seconds, waited, seal.close(), parts)

    @message(reentrant=True, by=OWNER)
    async def adopt(self, run: bytes, right: bytes) -> None:
        """Make the weights of a run those of the model, once both servers have made the same steps. Without this it is as before them."""
        session = self._owned(run, right)
        session.model.shares, session.model.sums = session.shares, session.sums

    @message(reentrant=True, by=OWNER)
    async def finish(self, run: bytes, right: bytes) -> None:
        """Let a training be a whole one, whose steps have been adopted: averages of weights, if it keeps any, take their places."""
        session = self._owned(run, right)
        if isinstance(session.terms.plan, Plan):
            session.shares = session.model.shares = session.terms.plan.finished(session.model.shares)

    @message(reentrant=True, by=OWNER)
    async def hold(self, run: bytes, right: bytes, dataset: Dataset, digest: bytes, presence: Presence) -> None:
        """Hold what a run has made of all its examples as a dataset, as long as its owner is there; nobody is told anything of it.

        `digest` is that of the right to it at this server. The owners of the examples, and of what the weights were trained on, have as
        much say in what is done with it.

        Raises:
            InputError: the run has made nothing of that kind, or of another shape.
        """
        session = self._owned(run, right)
        made = [wires[FEATURES] for wires in session.wires]
        m, mask = session.terms.stored([one.a for one in made]), session.terms.stored([one.mask for one in made])
        check_made(session.terms, dataset, m)
        stretches = self._holdings.allowed([one.handle for one in session.terms.datasets.values()], len(m), session.use)
        helper, party = session.seats.helper, session.me.index
        equal = None if helper is None else replicated(helper, party, {"masked": m, "mask": mask})
        self._claim(presence, dataset.handle, digest, stretches)
        self._holdings.folded[dataset.handle] = isinstance(session.terms.plan, AskedPlan) and session.terms.plan.plan.private is not None
        self._datasets[dataset.handle], session.wires = equal or MaskedDataset(dataset, m, mask), []

    @message(reentrant=True, by=OWNER)
    async def ready(self, run: bytes, right: bytes, handle: bytes, digest: bytes, presence: Presence) -> None:
        """Hold what a run has derived of the weights under a handle of its own, for a `ComputeServer` of this worker to serve.

        `digest` is that of the right to it at this server.

        Raises:
            NotGranted: the owners of the data on which the model was trained open weights to others only; answers tell of weights.
            InputError: the run has derived nothing.
        """
        session = self._owned(run, right)
        plan = session.terms.plan
        session.use.check_reveal(caller().common_name)
        if not isinstance(plan, Derivation) or not session.done:
            raise InputError("this run has derived no weights that could be served")
        self._claim(presence, handle, digest)
        self._holdings.served[handle] = [session.sums[f"{WEIGHT}{index}"] for index in range(len(plan.made))]

    @message(reentrant=True, by=OWNER)
    async def begun(self, run: bytes, right: bytes, number: int) -> int:
        """Wait until step `number` of the run has begun, and return how many have."""
        return await self._owned(run, right).randomness.after(number)

    # Checkpoints.

    @message(reentrant=True, by=OWNER)
    async def save(self, run: bytes, right: bytes, label: Label, own: bytes, progress: Progress) -> None:
        """Write this server's shares of all that the next step depends on: a version of the training that `own` is the right to, here.

        Raises:
            NotGranted: versions of that name belong to somebody else.
        """
        session, vault = self._owned(run, right), self._holdings.vault
        model = session.model
        if label.kind != RUN or not all([shows(own, (await self._about(one)).own) for one in vault.labels(RUN, label.name)]):
            raise NotGranted("this is the right to another training")
        check = derive(run, "saved", label.serial, label.tag, session.done)
        about = About("server", digest(own), digest(own), progress=progress, check=check, granted=model.use)
        arrays = model.shares | {f"{_SUM}{name}": total for name, total in model.sums.items()} | kept_arrays(model)
        await asyncio.to_thread(vault.write, label, msgspec.msgpack.encode(about), arrays)

    async def _about(self, label: Label) -> About:
        return msgspec.msgpack.decode(await asyncio.to_thread(self._holdings.vault.about, label), type=About)

    @message(reentrant=True, by=OWNER)
    async def restore(self, handle: bytes, digest: bytes, plan: AnyPlan, label: Label, own: bytes, presence: Presence) -> None:
        """Hold a model as it was saved. The version must have been re-randomised since, see `Keeper.refresh`.

        Args:
            handle: for the model.
            digest: of the right to it, at this server.
            plan: what is trained.
            label: of the version.
            own: the right to the training, at this server.
            presence: of the owner.
        """
        about = await self._about(label) if label.kind == RUN else None
        if about is None or not shows(own, about.use):
            raise NotGranted("this is the right to another training")
        _, arrays = await asyncio.to_thread(self._holdings.vault.read, label)
        sums = {name.removeprefix(_SUM): arrays.pop(name) for name in list(arrays) if name.startswith(_SUM)}
        kept = kept_apart(arrays, plan)
        if {name: array.shape for name, array in arrays.items()} != plan.shapes | plan.states:
            raise CheckpointError("the weights or the optimizer's state of the checkpoint have other names or shapes than the model's")
        self._claim(presence, handle, digest)
        self._models[handle] = Model(plan, arrays, sums, about.granted, kept)

    async def _micro_batch(
        self, session: TrainingRun, micro: MicroBatch, rows: npt.NDArray[np.int64], seal: Seal
    ) -> tuple[dict[str, Ring], Cost]:
        """Compute some examples of a step: with masks, a channel and draws of their own, which follow from how many were before."""
        terms, run = session.terms, session.terms.session
        channel = derive(run, "step", session.made)
        circuit = session.steps.at(micro, terms.made + session.done)
        drawn = StepCircuits.drawn(circuit, derive(run, "drawn", session.made))
        taken = {name: self._wire(session, dataset, rows, partial(terms.given, name)) for name, dataset in terms.datasets.items()}
        given: dict[str, Affine | Ring] = {**none_yet(circuit), **session.shares, **session.partial, **drawn, **taken}
        own = np.frombuffer(circuit.fingerprint, np.uint64)  # each server finds or was sent all of this by itself
        seal.add([own, *drawn.values(), *(wire.a for wire in taken.values())])
        wires: dict[str, Affine] = {}
        protocol, delay = await session.randomness.evaluation(session.made, circuit, given, micro, wires=wires)
        words, dealt = session.steps.bytes // 8, 8 * circuit.layout.dealt * session.me.index
        made = await session.twins.compute(protocol, channel, seal, words=words, dealt=dealt, who=run, delay=delay)
        if wires:
            session.wires.append(wires)
        return made

    def _wire(self, session: TrainingRun, dataset: Dataset, rows: npt.NDArray[np.int64], form: Callable[[Ring], Ring]) -> Affine:
        """Return some examples of an array, in the form in which a step takes them."""
        if dataset.handle not in self._datasets:
            raise UnknownModel(f"{dataset.name!r} is not held here any more: its owner is gone")
        wire = self._datasets[dataset.handle].wire(session.seats.helper, rows)
        return Affine(form(wire.a), {"R": form(wire.mask)})

    @message(reentrant=True, by=OWNER)
    async def end(self, run: bytes, right: bytes) -> None:
        """End a run; the weights stay."""
        session = self._owned(run, right)
        del self._sessions[run]
        session.close(UnknownModel("this training has ended"))

    def _owned(self, run: bytes, right: bytes) -> TrainingRun:
        session = self._session(run)
        session.claim.check(right, "this training")
        return session

    def _session(self, run: bytes) -> TrainingRun:
        if run not in self._sessions:
            raise UnknownModel("no such training runs here; it may have ended")
        return self._sessions[run]

    # The third party's messages.

    def _dealt(self, run: bytes, what: str) -> TrainingRun:
        """Return the run of a message that its third party alone may send."""
        session = self._session(run)
        self._cluster.require(session.seats.third, what)
        return session

    @message(reentrant=True, by=THIRD_PARTY)
    async def agree(self, run: bytes, public: bytes | None) -> bytes | None:
        """Agree on a secret with the helper of a run, among equals, once; return this server's public key."""
        session = self._dealt(run, "agree")
        if (public is not None) != session.terms.equals:
            raise ClusterError("a helper among equals agrees on a secret with this server, and a crypto provider does not")
        if public is None:
            return None
        if session.pair is not None:
            raise TicketRefused("the keys of this training are agreed on already; begin a new one")
        mine, session.pair = answered(public, run, session.me.index)
        return mine

    @message(reentrant=True, by=THIRD_PARTY)
    async def supply(
        self, run: bytes, number: int, micro: MicroBatch, circuit: bytes, key: bytes | None, dealt: npt.NDArray[np.uint64] | None
    ) -> None:
        """Take the randomness of a micro-batch, dealt for `circuit`, as there is room: see `Supplied`."""
        session = self._dealt(run, "supply")
        own = server_key(session.terms.equals, session.pair, key, "step", number)
        pieces = session.randomness.expect(number, own, micro, circuit)
        await self._supplied(session.me, session.randomness.pieces, pieces, dealt)

    def _supply(self, name: bytes, chunk: bytes, what: str) -> tuple[Party, Supply]:
        session = self._dealt(name, what)
        return session.me, session.randomness.pieces

    def _linked(self, name: bytes, what: str) -> Twins | None:
        session = self._sessions.get(name)
        if session is None:
            return None
        self._cluster.require(session.seats.servers[session.me.other], what)
        return session.twins

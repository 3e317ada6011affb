"""The actor that deals the randomness of training: the crypto provider's part, or the helper's among equals, beside its `CryptoProvider`.

It knows the masks of stored arrays and no masked value. Its messages come from owners only, who show rights that hold here: `store`,
`begin`, `epoch`, `hold`, `end`, `forget`.

Adversary: semi-honest; it colludes with nobody. **Leaks** to it: the plan, the shapes of arrays, how many steps are made.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, message
from protocols.authority.membership import OWNER, Membership
from protocols.authority.presence import Presence, while_present
from protocols.authority.rights import Claim
from protocols.concurrency import Background
from protocols.datasets.dataset import Dataset
from protocols.datasets.masked import halves
from protocols.datasets.use import Use
from protocols.errors import ClusterError, InputError, NameTaken, ProtocolError, UnknownModel, WorkerLost
from protocols.link.keys import ExternalDealer, Preprocessing, third_party
from protocols.link.threads import Threads
from protocols.mpc.circuit import deal_in_segments
from protocols.mpc.parties.exchange import Ring
from protocols.storage.holdings import Holdings
from protocols.training.asked import FEATURES
from protocols.training.circuits import MicroBatch, StepCircuits
from protocols.training.terms import ARRAYS, ToldTerms, TrainingTerms, check_held, check_made
from protocols.workers.dealing import Ahead
from protocols.workers.delivery import Delivery
from protocols.workers.training_server import TrainingServer


class _DealtTraining:
    """One run of training at the provider; `done` micro-batches have been dealt for, in so many `pieces`."""

    def __init__(self, terms: TrainingTerms, claim: Claim, servers: tuple[TrainingServer, TrainingServer]) -> None:
        self.terms, self.claim, self.servers = terms, claim, servers
        self.steps = StepCircuits(terms)
        self.done = self.pieces = 0
        self.wires: list[dict[str, Ring]] = []
        self.preprocessing: Preprocessing = ExternalDealer()
        self.watch: asyncio.Task[None] | None = None


class TrainingDealer(Actor):
    """Deals the randomness of each micro-batch to both servers, ahead of them and within their memory.

    Args:
        cluster: whose third party it is.
        holdings: of this worker; of its own if None.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None) -> None:
        self._cluster, self._holdings = cluster or Membership(), holdings or Holdings()
        self._masks = self._holdings.masks
        self._sessions: dict[bytes, _DealtTraining] = {}
        self._background = Background()
        self._dealer = Threads("training-dealer", 1)

    async def stopped(self) -> None:
        """End what runs in the background."""
        self._background.close()
        self._dealer.close()

    @message(reentrant=True, by=OWNER)
    async def store(self, dataset: Dataset, digest: bytes, keys: tuple[bytes, bytes], presence: Presence) -> None:
        """Hold the mask of a dataset as long as its owner is there. The masked array never comes here.

        `digest` is that of the right to train on it, at this worker.
        """
        first, second = await asyncio.to_thread(halves, dataset, keys)
        self._holdings.claim_while_present(self._background, self.system, presence, dataset.handle, digest)
        self._masks[dataset.handle] = first + second

    @message(reentrant=True, by=OWNER)
    async def begin(self, told: ToldTerms, digest: bytes, rights: tuple[bytes, ...], presence: Presence) -> None:
        """Begin a run of training, which ends when its owner is gone: find both servers.

        Args:
            told: terms of the run.
            digest: of the right to the run, at this worker.
            rights: to the arrays of the run in their order, at this worker.
            presence: of the owner.

        Raises:
            NotOwner: the data are somebody else's.
            UnknownModel: they are not here.
            NotGranted: the owners of the data do not allow steps of so few examples.
            ClusterError: this worker does not deal for a model of this name, belongs to another cluster, or reads the terms otherwise.
        """
        terms = told.terms
        datasets = list(terms.datasets.values())
        if len(rights) != len(datasets):
            raise InputError(f"{len(rights)} rights were shown for {len(datasets)} arrays: one for each is needed")
        for (name, dataset), right in zip(terms.datasets.items(), rights, strict=True):
            self._holdings.check(dataset.handle, right, ARRAYS[name[0]])
            if dataset.handle not in self._masks:
                raise UnknownModel(f"the masks of {dataset.name!r} are not here: was it stored in a cluster of the other form?")
        check_held(told, *(self._masks[dataset.handle].shape for dataset in datasets))
        self._holdings.check_steps([dataset.handle for dataset in datasets], terms.rows(0), weighted=terms.weighted)
        where = self._cluster.seats(terms.equals, terms.name)
        if self._cluster.place != where.third:
            raise ClusterError(
                f"this worker does not deal for the model {terms.name!r}: list the three workers in the order of the cluster"
            )
        claim, urls = Claim.of_caller(digest), [self._cluster.address(place) for place in where.servers]
        first, second = [await self.system.connect(f"{url}/training", TrainingServer) for url in urls]
        session = _DealtTraining(terms, claim, (first, second))
        agree = [partial(server.agree, terms.session) for server in session.servers]
        session.preprocessing = await third_party(terms.equals, terms.session, agree)
        if terms.session in self._sessions:
            raise NameTaken("a run of this name is under way; begin another one")
        session.watch = while_present(self._background, self.system, presence, lambda: self._gone(session))
        self._sessions[terms.session] = session

    def _gone(self, session: _DealtTraining) -> None:
        if self._sessions.get(session.terms.session) is session:
            del self._sessions[session.terms.session]

    def _owned(self, run: bytes, right: bytes) -> _DealtTraining:
        if run not in self._sessions:
            raise UnknownModel("no such training runs here; it may have ended")
        self._sessions[run].claim.check(right, "this training")
        return self._sessions[run]

    @message(reentrant=True, by=OWNER)
    async def epoch(self, run: bytes, right: bytes, number: int, start: int, stops: list[int]) -> None:
        """Deal for the steps of an epoch from `start` on, as servers have room.

        `stops` are the steps before which the servers report.
        """
        session = self._owned(run, right)
        terms = session.terms
        if start == 0:
            session.wires = []
        self._holdings.check_steps([dataset.handle for dataset in terms.datasets.values()], terms.rows(number))
        try:
            with contextlib.closing(Ahead(self._dealer)) as ahead:
                for index, rows in enumerate(session.terms.rows(number)[start:], start):
                    for micro, some in session.steps.micro_batches(rows, last=index + 1 in stops):
                        await self._micro_batch(session, ahead, micro, some)
                await ahead.sent()
        except ClusterError:
            raise
        except (ActorError, ProtocolError) as error:
            raise WorkerLost(f"a server did not take the randomness of a step: {error}") from None

    async def _micro_batch(self, session: _DealtTraining, ahead: Ahead, micro: MicroBatch, rows: npt.NDArray[np.int64]) -> None:
        """Deal for the next micro-batch, with keys of its own, in as many pieces as its randomness has."""
        run, number, keys = session.terms.session, session.done, session.preprocessing.keys("step", session.done)
        parts, circuit = session.steps.segments(micro), session.steps.like(micro).fingerprint
        numbers = range(session.pieces, session.pieces + len(parts))
        session.done, session.pieces = number + 1, numbers.stop
        given = Delivery(
            session.servers,
            keys.told,
            lambda server, key, dealt: server.supply(run, number, micro, circuit, key, dealt),
            run,
            b"",
            numbers,
        )
        dealing = self._dealing(session, micro, rows, keys.of)
        for piece in numbers:
            await ahead.deal(partial(next, dealing), partial(given.piece, piece))

    def _dealing(
        self, session: _DealtTraining, micro: MicroBatch, rows: npt.NDArray[np.int64], keys: tuple[bytes, bytes]
    ) -> Iterator[Ring]:
        """Give what is dealt for one piece after the other; slow."""
        terms = session.terms
        masks = {name: terms.given(name, self._masks[dataset.handle][rows]) for name, dataset in terms.datasets.items()}
        circuit, parts = session.steps.like(micro), session.steps.segments(micro)
        wires: dict[str, Ring] = {}
        if circuit.wires:
            session.wires.append(wires)  # they are in it with the last piece
        yield from deal_in_segments(circuit, parts, masks, keys, wires)

    @message(reentrant=True, by=OWNER)
    async def hold(self, run: bytes, right: bytes, dataset: Dataset, digest: bytes, presence: Presence) -> None:
        """Hold the mask of what a run has made of its examples, as that of a dataset; see `TrainingServer.hold`."""
        session = self._owned(run, right)
        made = session.terms.stored([wires[FEATURES] for wires in session.wires])
        check_made(session.terms, dataset, made)
        stretches = self._holdings.allowed([one.handle for one in session.terms.datasets.values()], len(made), Use())
        self._holdings.claim_while_present(self._background, self.system, presence, dataset.handle, digest, stretches)
        self._masks[dataset.handle], session.wires = made, []

    @message(reentrant=True, by=OWNER)
    async def end(self, run: bytes, right: bytes) -> None:
        """End a run."""
        if run in self._sessions:
            session = self._owned(run, right)
            del self._sessions[run]
            if session.watch is not None:
                session.watch.cancel()

    @message(reentrant=True, by=OWNER)
    async def forget(self, handle: bytes, right: bytes) -> None:
        """Forget the mask of a dataset, for who has placed it."""
        if handle in self._holdings.claims:
            self._holdings.check(handle, right, "array")
            self._holdings.forget(handle)

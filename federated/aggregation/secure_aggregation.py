"""The aggregator's side of secure aggregation: it learns the mean of the updates, and not one of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeVar

import numpy as np

from federated.aggregation.aggregation import Aggregate, Limits
from federated.metrics.limbs import LIMBS
from federated.owners.hiding import LARGEST_METRIC, Hiding, fault_of_told
from federated.owners.masker import Masker, Prepared, agreement
from federated.owners.owner import Owner, masker
from federated.rounds.gathering import Gathering
from federated.strategies.strategy import check
from federated.tasks.update import Array, Weights
from protocols.errors import AggregationError
from protocols.quantisation import Vector
from protocols.secure_aggregation import AggregationServer, AggregationTerms, terms
from protocols.secure_aggregation.session import SMALLEST_COHORT, Advertisement, Confirmation, MaskedVector, Opened, Shares

A = TypeVar("A", Advertisement, Shares, MaskedVector, Confirmation, Opened)


@dataclass(frozen=True)
class SecureAggregation:
    """The aggregator sees the sum of the updates only, whoever drops out (Bonawitz et al., 2017; Bell et al., 2020).

    A round: (0) owners train and keep their updates; (1) those who have are the roster of a session: they advertise signed keys;
    (2) they share the secrets behind their masks with their neighbours in a graph that follows from nonces of all of them; (3) they send
    masked vectors; (4) they sign the set of those whose vectors arrived; (5) they give the shares that open the sum of just that set.
    Owners that drop out after (2) cost the others a little work, before it nothing.

    The vector is n_i (x_i - x_t), the states of the metrics, and n_i, so that numbers of examples and metrics are hidden as well. It is
    rounded to integers modulo 2^32 or 2^64, whichever holds all sums: the mean is wrong by at most 1e-6, and nothing can overflow (see
    `Quantisation`). States of metrics are two elements each, and as exact (see `Limbs`); an owner whose states do not fit holds its update
    back, and says so. Metrics whose states do not add are averaged: up to +-1000, and wrong by at most 1000 / clip times 1e-6.

    **Leaks** to the aggregator: the mean, the total number of examples, the sum of the states of metrics, and who took part. To owners:
    who takes part.
    **Adversary**: the aggregator follows the protocol, or, if owners have each other's keys as `roster`, does what it likes; together
    with fewer owners than the threshold of a graph neighbourhood (two thirds) in either case. What owners were asked is in what they sign.
    An aggregator that begins run after run with nearly the same weights and other owners can take one mean from another: noise of the
    owners' own bounds that, or a cohort of all of them. Owners can send wrong updates: what hides them hides that as well, but shares of
    masks that they alter are found, and a sum whose weight or values no updates have is refused.

    Args:
        threshold: share of the sampled owners whose sum may be opened, above 0 and at most 1; at least 3 owners in any case. A round with
            fewer opens nothing and fails.
        clip: the largest absolute value in an update. An owner with a larger one holds its update back, and says so. Numbers are
            rounded to the nearest step, 2^-19 (1.9e-6) at the coarsest: an update that moves weights by less than 1e-6 is lost.
        most_examples: the largest number of examples of an owner, from 1 on. With 1, and less than some 200 owners, elements have 32
            bits instead of 64.
        degree: owners that each masks with; None: all up to 32 owners, else 4 log2(n). Owners with a `roster` refuse fewer than that.
        stage_deadline: seconds that owners have for each of the steps after training.
    """

    hides_updates: ClassVar[bool] = True
    asynchronous: ClassVar[bool] = False

    threshold: float = 0.7
    clip: float = 8.0
    most_examples: int = 1 << 20
    degree: int | None = None
    stage_deadline: float = 60.0
    _run: str = field(default_factory=lambda: secrets.token_hex(16), repr=False, compare=False)

    def __post_init__(self) -> None:
        check("threshold", self.threshold, 0.0 < self.threshold <= 1.0, "in (0, 1]")
        check("clip", self.clip, 0.0 < self.clip < math.inf, "above 0 and finite")
        check("most_examples", self.most_examples, self.most_examples >= 1, "at least 1")
        check("degree", self.degree, self.degree is None or self.degree >= 2, "at least 2, or None")
        check("stage_deadline", self.stage_deadline, 0.0 < self.stage_deadline < math.inf, "above 0 seconds")

    def least(self, sampled: int) -> int:
        """How many of the sampled owners have to take part."""
        return max(SMALLEST_COHORT, math.ceil(self.threshold * sampled))

    def limits(self, sampled: int) -> Limits:
        """See `Aggregation.limits`."""
        scheme = Hiding(self.clip, self.most_examples).quantisation(sampled)
        return Limits(self.least(sampled), 2.0**-scheme.bits, self.clip)

    async def gather(self, gathering: Gathering, *, single_updates: bool) -> Aggregate | None:
        """Play the steps."""
        book, hiding = gathering.book, Hiding(self.clip, self.most_examples)
        book.quorum = max(book.quorum, self.least(len(book.standing)))

        async def prepare(_: str, owner: Owner) -> Prepared:
            return await (await masker(owner)).prepare(gathering.task, hiding)

        prepared = await gathering.stage(book.standing, prepare, deadline=book.deadline, enough=book.enough)
        names = _alike(gathering, prepared)
        try:
            return await self._session(gathering, {name: prepared[name] for name in names}, hiding)
        except AggregationError as error:
            gathering.give_up(str(error))
            return None

    async def _session(self, gathering: Gathering, prepared: dict[str, Prepared], hiding: Hiding) -> Aggregate:
        if len(prepared) < gathering.book.quorum:
            raise AggregationError(f"{len(prepared)} owners have an update, {gathering.book.quorum} are needed: nothing is opened")
        agreed = self._terms(gathering, prepared, hiding)
        session = _MaskedSession(gathering, AggregationServer(agreed), prepared, self.stage_deadline)
        try:
            await session.share()
        except AggregationError:
            left = {name: one for name, one in session.prepared.items() if gathering.book.awaits(name)}
            if len(left) == len(prepared):
                raise
            return await self._session(gathering, left, hiding)  # nothing was masked yet: another session with those who are left
        total = await session.open()
        scheme, some = hiding.quantisation(len(agreed.roster)), next(iter(prepared.values()))
        scheme.check(total, len(session.survivors))
        joined = hiding.joined(_behind(total, LIMBS * some.states), len(agreed.roster))
        states = gathering.book.layout.opened(joined, scheme.weight(total))
        if states is None:
            raise AggregationError("the sum of the states of metrics is one that they cannot have: an owner has sent what is no update")
        delta, metrics = _taken_apart(scheme.mean(total), gathering.task.summed, some.metrics, hiding)
        evaluators = tuple(gathering.owner(name) for name in session.survivors if prepared[name].evaluates)
        return Aggregate(delta, metrics, scheme.weight(total), evaluators, states)

    def _terms(self, gathering: Gathering, prepared: dict[str, Prepared], hiding: Hiding) -> AggregationTerms:
        roster = [one.identity for one in prepared.values()]
        some = next(iter(prepared.values()))
        length = sum(array.size for array in gathering.task.summed) + len(some.metrics) + LIMBS * some.states + 1
        label = f"{self._run} {secrets.token_hex(8)} round {gathering.task.round} {hiding}"
        degree = None if self.degree is None or self.degree >= len(roster) else self.degree
        return terms(
            label,
            roster,
            length,
            degree=degree,
            cohort=gathering.book.quorum,
            word=hiding.quantisation(len(roster)).word,
            task=agreement(gathering.task, hiding),
            commitments=[one.commitment for one in prepared.values()],
        )


class _MaskedSession:
    """The steps between the owners that have an update and the protocol's server."""

    def __init__(self, gathering: Gathering, server: AggregationServer, prepared: dict[str, Prepared], patience: float) -> None:
        self._gathering, self._server, self._patience = gathering, server, patience
        self.prepared = dict(prepared)
        self._numbers = {name: number for number, name in enumerate(prepared)}
        self._names = list(prepared)
        self._id = server.terms.identifier
        self._sealed: dict[int, dict[int, bytes]] = {}
        self.survivors: list[str] = []

    async def share(self) -> None:
        """Exchange keys and secrets: steps 1 and 2.

        Raises:
            AggregationError: too few owners are left.
        """
        server, session = self._server, self._id
        first = await self._step(self._names, lambda masker, name: masker.advertise(self.prepared[name].ticket, server.terms))
        for name, one in first.items():
            if one.nonce:  # commits to the next, for a session that may follow
                self.prepared[name] = replace(self.prepared[name], commitment=one.nonce)
        with self._rejecting():
            advertised = server.advertisements(list(first.values()))
        there = [name for name in first if self._numbers[name] in advertised]
        second = await self._step(there, lambda masker, name: masker.share(session, advertised[self._numbers[name]], server.nonces))
        with self._rejecting():
            self._sealed = server.shares(list(second.values()))

    @contextlib.contextmanager
    def _rejecting(self) -> Iterator[None]:
        """Name those whose messages the server has left out."""
        try:
            yield
        finally:
            for number, why in self._server.left_out.items():
                self._gathering.book.reject(self._names[number], why)

    async def open(self) -> Vector:
        """Return the sum of the survivors' vectors: steps 3 to 5.

        Raises:
            AggregationError: too few owners are left, or shares do not fit together.
        """
        server, session = self._server, self._id
        shared = [self._names[number] for number in self._sealed]
        third = await self._step(shared, lambda masker, name: masker.mask(session, self._sealed[self._numbers[name]]), take=self._add)
        survivors = server.survivors()
        self.survivors = [self._names[number] for number in survivors]
        fourth = await self._step(third, lambda masker, _: masker.confirm(session, survivors))
        confirmed = server.confirmations(list(fourth.values()))
        fifth = await self._step(fourth, lambda masker, name: masker.unmask(session, confirmed[self._numbers[name]]))
        try:
            return await asyncio.to_thread(server.total, list(fifth.values()))
        finally:
            for number, what in server.faults.items():
                self._gathering.book.fault(self._names[number], what)

    async def _step(
        self, names: Collection[str], ask: Callable[[Masker, str], Awaitable[A]], take: Callable[[str, A], A] | None = None
    ) -> dict[str, A]:
        """One step of all owners that are left; an answer in another owner's name does not count."""

        async def work(name: str, owner: Owner) -> A:
            answer = await ask(await masker(owner), name)
            if answer.owner != self._numbers[name]:
                raise AggregationError(f"{name} answered as owner {answer.owner}, it is {self._numbers[name]}")
            return answer if take is None else take(name, answer)

        now = asyncio.get_running_loop().time()
        return await self._gathering.stage(names, work, deadline=now + self._patience)

    def _add(self, name: str, masked: MaskedVector) -> MaskedVector:
        """Add a vector to the sum, and keep no more of it than that."""
        self._server.add(masked)
        self._gathering.count(name, masked.vector.nbytes)
        return MaskedVector(masked.owner, masked.vector[:0])


def _alike(gathering: Gathering, prepared: dict[str, Prepared]) -> list[str]:
    """List the owners whose metrics are as asked and as most have them, with keys of their own; reject the others."""
    faults = {name: fault_of_told(one.metrics, one.states, gathering.task, gathering.book.layout) for name, one in prepared.items()}
    metrics = [(one.metrics, one.states) for name, one in prepared.items() if faults[name] is None]
    usual, states = max(metrics, key=metrics.count, default=((), 0))
    keys: set[bytes] = set()
    for name, one in prepared.items():
        fault = faults[name]
        if fault is not None:
            gathering.book.reject(name, fault)
        elif one.metrics != usual or one.states != states:
            told, others = _told(one.metrics, one.states), _told(usual, states)
            gathering.book.reject(name, f"its metrics are {told}; those of most owners are {others}")
        elif one.identity in keys:
            gathering.book.reject(name, "it has the key of another owner")
        keys.add(one.identity)
    return [name for name in prepared if gathering.book.awaits(name)]


def _told(metrics: tuple[str, ...], states: int) -> str:
    """Metrics in words."""
    return ", ".join([*metrics, *([f"states of {states} values"] if states else [])]) or "none"


def _taken_apart(mean: Array, weights: Weights, names: tuple[str, ...], hiding: Hiding) -> tuple[Weights, dict[str, float]]:
    """Split the mean into arrays shaped as the weights, and the metrics behind them."""
    ends = np.cumsum([array.size for array in weights])
    parts = np.split(mean, ends)
    delta = [part.reshape(array.shape) for part, array in zip(parts, weights, strict=False)]
    metrics = parts[-1][: len(names)] * (LARGEST_METRIC / hiding.clip)
    return delta, {name: float(value) for name, value in zip(names, metrics, strict=True)}


def _behind(total: Vector, count: int) -> Vector:
    """Return the last elements of a sum, before its weight."""
    return total[len(total) - 1 - count : len(total) - 1]

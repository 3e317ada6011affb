"""The two-server form of secure aggregation: one message from an owner to each server, and nothing to do when owners drop out."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from actors import ActorError
from federated.aggregation.aggregation import Aggregate, Limits
from federated.metrics.limbs import LIMBS
from federated.metrics.tally import NOTHING
from federated.owners.giver import METRIC_SLOTS, Drop, HandedIn
from federated.owners.hiding import LARGEST_METRIC, Hiding, fault_of_told
from federated.owners.owner import Owner, giver
from federated.rounds.gathering import Gathering, told
from federated.strategies.strategy import check
from federated.tasks.update import Array, Task
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.concurrency import at_once
from protocols.errors import AggregationError, ProtocolError
from protocols.owner.cluster import Cluster
from protocols.quantisation import Vector
from protocols.secure_aggregation.shared_sums import LARGEST_FACTOR, SumTerms, new_ticket
from protocols.workers.sum_server import Session, SumServer

FACTORS = LARGEST_FACTOR
"""Discounts of asynchronous rounds are multiples of 1 / 256, at least one of them."""


class SharedAggregation:
    """Two servers of a cluster sum the updates; neither sees one, nor the sum, which the aggregator alone puts together.

    An owner splits n_i (x_i - x_t), with its metrics and n_i, into a vector that is uniform and a key that makes the difference, and gives
    each server one of them. Servers add up what the aggregator admits, compare what that was, and open the sum once. Owners that drop out
    are just not in it. Works with asynchronous rounds, too: an update is multiplied by its discount, rounded to 1/256, on both servers.

    Vectors are integers modulo 2^32 or 2^64, whichever holds all sums: the mean is wrong by at most 1e-6, and nothing can overflow (see
    `Quantisation`).

    **Leaks** to the aggregator: the mean, the total number of examples, the sum of the states of metrics, who takes part. To the servers:
    how many take part, their addresses, and discounts. **Adversary**: semi-honest; the servers do not collude with each other, and the
    aggregator, who gets the sums, with neither. Use wss:// between machines: whoever reads both of an owner's messages learns its update.

    Args:
        cluster: inside its `async with` block. Its crypto provider has nothing to do here.
        cohort: the fewest owners whose sum is opened, at least 3. A round with fewer fails.
        clip: the largest absolute value in an update. An owner with a larger one holds its update back, and says so.
        most_examples: the largest number of examples of an owner, from 1 on.

    Example:
        >>> async with Cluster(julia, greg, crypto_provider=me) as cluster:
        ...     async with Federation(model=build_model, owners=owners, aggregation=SharedAggregation(cluster)) as federation:
        ...         ...
    """

    hides_updates: ClassVar[bool] = True
    asynchronous: ClassVar[bool] = True

    def __init__(self, cluster: Cluster, *, cohort: int = 3, clip: float = 8.0, most_examples: int = 1 << 20) -> None:
        check("cohort", cohort, cohort >= 3, "at least 3")
        check("clip", clip, 0.0 < clip < math.inf, "above 0 and finite")
        check("most_examples", most_examples, most_examples >= 1, "at least 1")
        self._cluster, self._cohort, self._clip, self._most = cluster, cohort, clip, most_examples
        self._session: _SharedSession | None = None

    def __repr__(self) -> str:
        return f"SharedAggregation({self._cluster!r}, cohort={self._cohort}, clip={self._clip:g}, most_examples={self._most})"

    def limits(self, sampled: int) -> Limits:
        """See `Aggregation.limits`."""
        scheme = Hiding(self._clip, self._most).quantisation(sampled)
        return Limits(self._cohort, 2.0**-scheme.bits, self._clip)

    async def gather(self, gathering: Gathering, *, single_updates: bool) -> Aggregate | None:
        """Admit what owners have handed in, and open the sum."""
        gathering.book.quorum = max(gathering.book.quorum, self._cohort)
        try:
            session = await self._begun(gathering)
            return await self._summed(gathering, session)
        except (ActorError, ProtocolError) as error:
            self._session = None  # a server may have forgotten it: the next round begins another
            gathering.give_up(told(error))
            gathering.book.fail(f"the servers could not sum: {error}")
            return None

    async def _begun(self, gathering: Gathering) -> _SharedSession:
        """Return the session of the last round, or a new one."""
        parameters = sum(array.size for array in gathering.task.summed)
        hiding = Hiding(self._clip, self._most, 1 if gathering.at_once else FACTORS)
        owners = len(gathering.book.standing)
        session, states = self._session, gathering.book.layout.length
        if session is None or not session.serves(parameters, states, hiding, owners):
            session = self._session = await _SharedSession.begin(self._cluster, (parameters, states), hiding, owners, self._cohort)
        return session

    async def _summed(self, gathering: Gathering, session: _SharedSession) -> Aggregate | None:
        evaluators: list[Owner] = []
        names: dict[str, tuple[str, ...]] = {}
        told_states: list[bool] = []

        async def hand_in(owner: Owner, task: Task) -> tuple[bytes, HandedIn]:
            drop = session.drop()
            return drop.ticket, await (await giver(owner)).give(task, session.hiding, drop, session.vectors, session.seeds)

        async def take(owner: Owner, given: tuple[bytes, HandedIn], factor: float) -> None:
            ticket, one = given
            fault = fault_of_told(one.metrics, one.states, gathering.task, gathering.book.layout)
            if fault is not None or len(one.metrics) > METRIC_SLOTS:
                gathering.book.reject(owner.name, fault or f"it has {len(one.metrics)} metrics; {METRIC_SLOTS} at most can be summed")
                return
            if not await asyncio.shield(session.admit(ticket, max(1, round(factor * session.hiding.headroom)))):
                gathering.book.reject(owner.name, "it has not handed in both halves of its update")
                return
            gathering.count(owner.name, session.size)
            names[owner.name] = one.metrics
            told_states.append(one.states > 0)
            if one.evaluates:
                evaluators.append(owner)

        await gathering.ask(hand_in, take)
        if gathering.book.failure is not None:
            await session.discard()
            return None
        total = await session.open()
        try:
            session.check(total, len(names))
        except AggregationError as error:
            gathering.book.fail(str(error))
            return None
        hidden = session.states(total) if any(told_states) else NOTHING
        states = gathering.book.layout.opened(hidden, session.examples(total))
        if states is None:
            gathering.book.fail("the sum of the states of metrics is one that they cannot have: an owner has sent what is no update")
            return None
        delta, metrics, examples = session.mean(total, _in_common(gathering, names))
        ends = np.cumsum([array.size for array in gathering.task.summed])[:-1]
        shaped = [part.reshape(array.shape) for part, array in zip(np.split(delta, ends), gathering.task.summed, strict=True)]
        return Aggregate(shaped, metrics, examples, tuple(evaluators), states)


class _SharedSession:
    """A session with the two servers, for any number of rounds."""

    def __init__(
        self,
        servers: tuple[SumServer, SumServer],
        session: Session,
        rights: tuple[bytes, bytes],
        values: tuple[int, int],
        hiding: Hiding,
        owners: int,
    ) -> None:
        self.vectors, self.seeds = servers
        self._at_vectors, self._at_seeds = rights
        self.hiding = hiding
        self._session, self._owners = session, owners
        self._parameters, self._states = values
        self._scheme = hiding.quantisation(owners)
        self._admissions: set[asyncio.Task[bool]] = set()

    @staticmethod
    async def begin(cluster: Cluster, values: tuple[int, int], hiding: Hiding, owners: int, cohort: int) -> _SharedSession:
        """Ask both servers to sum updates of so many parameters, and states of metrics of so many values.

        Raises:
            ActorError, ProtocolError: one of them is not there.
        """
        await cluster.enrol()
        urls = [f"{url}/sums" for url in cluster.addresses.servers]
        first, second = await at_once(*(cluster.links.system.connect(url, SumServer) for url in urls))
        scheme = hiding.quantisation(owners)
        length = values[0] + METRIC_SLOTS + LIMBS * values[1] + 1
        terms = SumTerms(length, values[0], scheme.word, cohort, hiding.headroom)
        handle, key, secret, places = secrets.token_bytes(16), secrets.token_bytes(32), new_secret(), cluster.seats_for("").servers
        sessions = [Session(handle, digest_at(secret, place), key, terms, cluster.equals) for place in places]
        await at_once(*(one.begin(session, cluster.presence) for one, session in zip((first, second), sessions, strict=True)))
        rights = right_at(secret, places[0]), right_at(secret, places[1])
        return _SharedSession((first, second), sessions[0], rights, values, hiding, owners)

    def serves(self, parameters: int, states: int, hiding: Hiding, owners: int) -> bool:
        """Whether it can be used for such a round."""
        return (self._parameters, self._states, self.hiding, self._owners) == (parameters, states, hiding, owners)

    @property
    def size(self) -> int:
        """Bytes of what an owner hands in."""
        return self._session.terms.length * self._session.terms.word // 8 + 32

    def drop(self) -> Drop:
        """Where an owner hands one update in."""
        return Drop(self._session.handle, new_ticket(self._session.key), self._owners, self._states)

    async def admit(self, ticket: bytes, factor: int) -> bool:
        """Make an update count on both servers, or on none; return False if a half is missing."""
        admission = asyncio.create_task(self._admit(ticket, factor))
        self._admissions.add(admission)
        admission.add_done_callback(self._admissions.discard)
        return await asyncio.shield(admission)

    async def _admit(self, ticket: bytes, factor: int) -> bool:
        handle = self._session.handle
        if not await self.seeds.admit(handle, self._at_seeds, ticket, factor):
            return False
        if await self.vectors.admit(handle, self._at_vectors, ticket, factor):
            return True
        await self.seeds.expel(handle, self._at_seeds, ticket)
        return False

    async def open(self) -> Vector:
        """Return the sum of what was admitted.

        Raises:
            AggregationError: the servers do not agree, or too few were admitted.
        """
        await asyncio.gather(*self._admissions)
        handle = self._session.handle
        first, second = await at_once(self.vectors.open(handle, self._at_vectors), self.seeds.open(handle, self._at_seeds))
        if first.shape != second.shape or first.dtype != second.dtype:
            raise AggregationError("the halves of the sum do not fit together")
        total: Vector = first + second
        return total

    async def discard(self) -> None:
        """Forget what was admitted."""
        await asyncio.gather(*self._admissions, return_exceptions=True)
        both = ((self.vectors, self._at_vectors), (self.seeds, self._at_seeds))
        await at_once(*(server.discard(self._session.handle, right) for server, right in both))

    def check(self, total: Vector, owners: int) -> None:
        """Refuse a sum that updates of so many owners cannot have.

        Raises:
            AggregationError: its weight or a value is out of range.
        """
        self._scheme.check(total, owners, headroom=self.hiding.headroom)

    def states(self, total: Vector) -> Array:
        """Return the sum of the states of the metrics."""
        return self.hiding.joined(total[self._parameters + METRIC_SLOTS : -1], self._owners)

    def examples(self, total: Vector) -> int:
        """Return the total number of examples."""
        return self._scheme.weight(total)

    def mean(self, total: Vector, names: tuple[str, ...]) -> tuple[Array, dict[str, float], int]:
        """Return the mean of the updates, of the metrics, and the total number of examples."""
        values = self._scheme.mean(total)
        delta = values[: self._parameters] / self.hiding.headroom
        metrics = values[self._parameters : self._parameters + METRIC_SLOTS] * (LARGEST_METRIC / self.hiding.clip)
        return delta, dict(zip(names, map(float, metrics), strict=False)), self.examples(total)


def _in_common(gathering: Gathering, names: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """List the names of the values in the sum, in order; none if owners have summed several kinds, which is told of the fewer."""
    kinds = Counter(names.values())
    if len(kinds) < 2:
        return next(iter(kinds), ())
    usual = max(kinds, key=lambda one: kinds[one])
    for name, those in names.items():
        if those != usual:
            gathering.book.fault(
                name,
                f"its metrics are {', '.join(those) or 'none'}, in this order; those of most owners are {', '.join(usual) or 'none'}: "
                "their sum means nothing, and no value of it is told",
            )
    return ()

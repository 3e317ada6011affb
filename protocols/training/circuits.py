"""The circuits of the steps of a run: whole, in micro-batches where memory asks for them, and in segments."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from protocols.errors import ModelError, TooLarge
from protocols.mpc.circuit import Circuit
from protocols.mpc.engine.segments import PARTS, Segment
from protocols.mpc.parties.exchange import Ring
from protocols.training.networks.micro_batches import PARTIAL, MicroBatch, none_yet
from protocols.training.networks.random import tables
from protocols.training.step import Plan
from protocols.training.terms import TrainingTerms, check

__all__ = ["MEMORY_LIMIT", "MOST_AHEAD", "PARTIAL", "MicroBatch", "StepCircuits", "none_yet"]

MEMORY_LIMIT = 1 << 32
"""The most bytes of randomness that a server holds ahead for a run, whatever its owner allows."""
MOST_AHEAD = 8
"""The most whole micro-batches whose randomness lies ahead."""


class StepCircuits:
    """The circuits of the steps of a run, for whole batches and for what is left; the last before a report may have one of its own.

    A step of which one operation needs more randomness than the memory is computed in micro-batches that fit. Where the randomness
    of a whole one does not fit, it comes in segments while it is computed. Both follow from the terms: all three parties find the same.

    Attributes:
        size: examples of a micro-batch, at most: those of a batch, where that is computed at once.
        bytes: of randomness of the largest micro-batch, at a server.
        room: bytes that a server may hold at once: the memory, and where they are whole the one that is computed beside those ahead.

    Raises:
        TooLarge: the randomness of one operation does not fit the memory, even in micro-batches of one example, or there are none.
        ModelError: the plan has no circuit, or no micro-batches.
    """

    def __init__(self, terms: TrainingTerms) -> None:
        check(terms)
        self._plan, self._batches = terms.plan, sorted({len(rows) for rows in terms.rows(0)}, reverse=True)
        memory, largest = min(terms.memory, MEMORY_LIMIT), self._batches[0]
        self.size = min(terms.micro_batch or largest, largest)
        self._circuits = self._made()
        if terms.micro_batch is None and not terms.plan.mixes and (most := self._most) > memory:
            self._part(largest * memory // most)
            while self._most > memory and self.size > 1:
                self._part(self.size // 2)
        self.bytes = max(circuit.layout.bytes_per_example for circuit in self._circuits.values())
        self._check(terms, memory)
        whole = self.bytes <= memory
        self.room = self.bytes * (min(MOST_AHEAD, memory // max(1, self.bytes)) + 1) if whole else memory
        segment = None if whole else max(1, memory // PARTS)
        self._segments = {micro: circuit.segments(segment) for micro, circuit in self._circuits.items()}

    @property
    def _most(self) -> int:
        """Return the bytes of randomness that the largest operation needs."""
        return max(max(circuit.layout.sizes(1).values(), default=0) for circuit in self._circuits.values())

    def _part(self, most: int) -> None:
        """Part batches into micro-batches of `most` examples, or fewer if as many of these are enough."""
        largest = self._batches[0]
        count = -(-largest // max(1, most))
        self.size = -(-largest // count)
        self._circuits = self._made()

    def _made(self) -> dict[MicroBatch, Circuit]:
        """Return the circuits of all kinds of micro-batches."""
        ends = (False, True) if isinstance(self._plan, Plan) and self._plan.closing else (False,)
        kinds = (micro for batch in self._batches for last in ends for micro, _ in self.micro_batches(np.arange(batch), last=last))
        return {micro: self._plan.part(micro) for micro in dict.fromkeys(kinds)}

    def _check(self, terms: TrainingTerms, memory: int) -> None:
        several = {micro: one for micro, one in self._circuits.items() if micro.rows < micro.batch}
        sums = {frozenset(none_yet(one)) for one in several.values()}
        sums |= {frozenset(name for name in one.outputs if name.startswith(PARTIAL)) for micro, one in several.items() if not micro.ends}
        if len(sums) > 1:
            raise ModelError("gradients of this network have other units in larger micro-batches: please report this")
        most = self._most
        if most > memory:
            left = f"use a smaller micro_batch_size, or none, so that it is chosen, or memory={most} or more"
            if terms.plan.mixes:
                left = f"{terms.plan.mixes} needs all examples of a batch at once: use a smaller batch_size, or memory={most} or more"
            elif self.size == 1:
                left = f"no part of a step is smaller: give memory={most} or more"
            what = f"one step on {self.size} examples" if self.size == self._batches[0] else f"a micro-batch of {self.size}"
            raise TooLarge(
                f"{what} needs {self.bytes:,} bytes of randomness at a server, {most:,} of them at once for one"
                f" operation, and {memory:,} are allowed; {left}"
            )

    def micro_batches(self, rows: npt.NDArray[np.int64], *, last: bool) -> Iterator[tuple[MicroBatch, npt.NDArray[np.int64]]]:
        """Give the micro-batches of a step in their order, and the examples of each; of what moves no weights each is for itself.

        Args:
            rows: the examples of the step.
            last: whether it is the last before a report.
        """
        training = isinstance(self._plan, Plan)
        for start in range(0, len(rows), self.size):
            part = rows[start : start + self.size]
            ends = start + self.size >= len(rows)
            closes = ends and last and isinstance(self._plan, Plan) and self._plan.closing
            yield MicroBatch(len(part), len(rows), ends or not training, closes), part

    def at(self, micro: MicroBatch, number: int) -> Circuit:
        """Return the circuit of a micro-batch of step `number` of a model: like the others, but for public factors."""
        alike = self.like(micro)
        if not (self._plan.changing and micro.ends):
            return alike
        return self._plan.part(micro, number).arranged_as(alike)

    @staticmethod
    def drawn(circuit: Circuit, key: bytes) -> dict[str, Ring]:
        """Return what is drawn at random in a micro-batch, by name: both servers draw the same from its public key."""
        return tables(circuit, key)

    def like(self, micro: MicroBatch) -> Circuit:
        """Return a circuit with the randomness of all micro-batches of a kind."""
        return self._circuits[micro]

    def knows(self, micro: MicroBatch) -> bool:
        """Say whether there are micro-batches of a kind in this run."""
        return micro in self._circuits

    def segments(self, micro: MicroBatch) -> tuple[Segment, ...]:
        """Return the segments of such a circuit: one, if its randomness fits the memory."""
        return self._segments[micro]

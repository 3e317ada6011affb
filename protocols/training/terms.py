"""What the owner of a training tells the workers, and what they tell back: all of it public but shares of what is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, TooLarge
from protocols.mpc.circuit import Circuit
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.training.regression import Logistic, Moments
from protocols.training.step import Plan

Content = Literal["numbers", "labels"]
AnyPlan = Plan | Moments | Logistic
"""What can be done with examples in steps."""

COLUMN_LIMIT = 1 << 31
"""The most bytes of an array in the ring, 8 for each value."""
MEMORY_LIMIT = 1 << 32
"""The most bytes of randomness that a server holds ahead for a run, whatever its owner allows."""


class Column(msgspec.Struct, frozen=True):
    """An array that is shared, as workers know it: all of it is public.

    Attributes:
        name: what errors call it.
        shape: examples, columns.
        content: what it holds.
        handle: what the workers call it.
        records: a digest of the ids of its rows in their order, empty if its owner gave none.
        binary: whether all of its numbers are 0 or 1.
        summing: whether the numbers of each of its rows sum to 1, as those of one-hot rows do.
        example: the shape in which its owner had an example, flattened here; empty if nobody has said so.
    """

    name: str
    shape: tuple[int, int]
    content: Content
    handle: bytes
    records: bytes = b""
    binary: bool = False
    summing: bool = False
    example: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"Column({self.name!r}, {self.shape}, {self.content})"

    def check(self) -> None:
        """Refuse a shape that is none or too large, before anything of it is allocated.

        Raises:
            TooLarge: it is more than `COLUMN_LIMIT`.
            InputError: it is negative.
        """
        if min(self.shape) < 0:
            raise InputError(f"an array of shape {self.shape} was announced for {self.name!r}; there is none of that shape")
        size = 8 * self.shape[0] * self.shape[1]
        if size > COLUMN_LIMIT:
            raise TooLarge(f"{self.name!r} has {size >> 20} MiB in the ring, {COLUMN_LIMIT >> 20} MiB are allowed: store it in parts")


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether examples of two shapes are the same when they are flat: shapes are equal but for axes of length 1, or one is flat."""
    first, second = (tuple(length for length in shape if length != 1) for shape in (one, other))
    return first == second or min(len(first), len(second)) < 2


@dataclass(frozen=True)
class SharedArray:
    """An array that is shared, as whoever may train on it has it. Made by `Cluster.store` and `Cluster.load`.

    Attributes:
        column: what the workers know.
        secret: from which the rights to train on it follow, another one for each worker.
    """

    column: Column
    secret: bytes = field(repr=False)

    def __repr__(self) -> str:
        return repr(self.column)

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.column.name

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, columns."""
        return self.column.shape

    @property
    def content(self) -> Content:
        """What it holds."""
        return self.column.content


class Terms(msgspec.Struct, frozen=True):
    """One run of training. None of it is a right: who may do what is checked by who asks, and what it shows.

    Attributes:
        session: names the run to workers.
        plan: what is trained, and how.
        x: the features.
        y: the one-hot labels or targets.
        batch: examples of a step; the last step of an epoch has what is left.
        order: a key from which all derive the public order of the examples; None for the order in which they are stored.
        memory: bytes of randomness that a server may hold ahead.
        equals: whether the owner takes the cluster for one of three equals.
        name: of the model; among equals it says who does what.
        made: steps that the model has made before this run.
        w: the weights of the examples, one number each, if the plan has them.
    """

    session: bytes
    plan: AnyPlan
    x: Column
    y: Column
    batch: int
    order: bytes | None
    memory: int
    equals: bool
    name: str
    made: int = 0
    w: Column | None = None

    def __repr__(self) -> str:
        return f"Terms({self.x.name!r}, {self.y.name!r}, batch={self.batch})"

    @property
    def columns(self) -> dict[str, Column]:
        """The arrays of the run by the names that a circuit gives them."""
        return {"x": self.x, "y": self.y} | ({} if self.w is None else {"w": self.w})

    @property
    def weighted(self) -> bool:
        """Whether examples count differently: by weights of their own, or of their classes."""
        return self.w is not None or bool(getattr(self.plan, "classes", ()))

    @property
    def examples(self) -> int:
        """How many examples an epoch has."""
        return self.x.shape[0]

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return -(-self.examples // self.batch) * self.plan.repeats(epoch)

    def targets(self, array: Ring) -> Ring:
        """The targets of some examples as the loss compares with them: of labels 0 and 1 the column of label 1."""
        if self.plan.loss == "binary_crossentropy" and self.y.content == "labels":
            array = array[:, 1:]
        return widened(array, self.plan.outputs)

    def rows(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """The examples of each step of an epoch. Public."""
        order = np.arange(self.examples)
        if self.order is not None:
            order = KeyStream(derive(self.order, "epoch", epoch)).words(self.examples).argsort(kind="stable")
        batches = [order[start : start + self.batch] for start in range(0, self.examples, self.batch)]
        return batches * self.plan.repeats(epoch)


class Report(msgspec.Struct, frozen=True):
    """One server's part of some steps of an epoch.

    Attributes:
        steps: how many.
        told: by name its shares of what was asked for, "metric" and "loss", summed over the epoch; only at the end of an epoch.
        outside: its share of a bit: whether a number has left its window, see `training/networks/window.py`.
        rounds: messages to the other server.
        sent: bytes to the other server.
        dealt: bytes from the crypto provider.
        seconds: from the first step to the last.
        waited: of these, waiting for randomness.
        seal: of what the servers sent each other, see `Seal`.
    """

    steps: int
    told: dict[str, npt.NDArray[np.uint64]]
    outside: npt.NDArray[np.uint64]
    rounds: int
    sent: int
    dealt: int
    seconds: float
    waited: float
    seal: bytes


def check_held(terms: Terms, *held: tuple[int, ...]) -> None:
    """Refuse a run on arrays of other shapes than those that are held: what an epoch allocates depends on them.

    Raises:
        InputError: they are.
    """
    named = tuple(column.shape for column in terms.columns.values())
    if named != held:
        raise InputError(f"arrays of shapes {' and '.join(map(str, named))} were named, and are {' and '.join(map(str, held))} here")


def check(terms: Terms) -> None:
    """Refuses data that do not fit each other or the plan, before anything is done with them.

    Raises:
        InputError: lengths or widths differ, or a batch is no batch.
    """
    plan, x, y = terms.plan, terms.x, terms.y
    if x.shape[0] != y.shape[0]:
        raise InputError(f"{x.name!r} has {x.shape[0]} examples and {y.name!r} has {y.shape[0]}: they must be as many")
    check_records(x, y)
    if x.content != "numbers":
        raise InputError(f"{x.name!r} was stored as labels because it is one integer an example: features are stored as floats")
    if x.shape[1] != plan.inputs:
        raise InputError(f"{x.name!r} has {x.shape[1]} {x.content} an example, the model takes {plan.inputs} numbers")
    classes = plan.outputs
    if plan.loss == "binary_crossentropy" and y.content == "labels":
        if plan.outputs != 1:
            raise InputError(
                f"{y.name!r} has one label an example, and the model has {plan.outputs} outputs of a binary cross-entropy: store rows of"
                f" {plan.outputs} numbers, each 0.0 or 1.0"
            )
        classes = 2
    if y.content == "labels" and y.shape[1] > classes:
        raise InputError(
            f"labels out of range: {y.name!r} has labels for {y.shape[1]} classes, the model has {plan.outputs} outputs,"
            f" so labels from 0 to {classes - 1} are needed"
        )
    if y.content == "numbers" and y.shape[1] != plan.outputs:
        raise InputError(f"{y.name!r} has {y.shape[1]} targets an example, the model has {plan.outputs} outputs")
    _check_weights(terms)
    if terms.batch < 1:
        raise InputError(f"batch_size={terms.batch}; at least 1 is needed")


def _check_weights(terms: Terms) -> None:
    w, wanted = terms.w, not isinstance(terms.plan, Plan) and terms.plan.weighted
    if (w is not None) != wanted:
        raise InputError("weights of examples were named for a plan without, or the other way round")
    if w is None:
        return
    if w.content != "numbers" or w.shape != (terms.x.shape[0], 1):
        raise InputError(
            f"{w.name!r} has shape {w.shape} and holds {w.content}: one weight for each of {terms.x.shape[0]} examples is needed"
        )
    check_records(terms.x, w)


def check_records(first: Column, other: Column) -> None:
    """Refuses arrays whose rows are of other records, or in another order.

    Raises:
        InputError: their digests of record ids differ, or only one of them has any.
    """
    if first.records == other.records:
        return
    if first.records and other.records:
        raise InputError(
            f"the rows of {first.name!r} and {other.name!r} have other record ids, or another order: sort both by the same ids, and"
            " share them again"
        )
    without = other if first.records else first
    raise InputError(
        f"of {first.name!r} and {other.name!r} only one was shared with record ids: share {without.name!r} with its ids, too, so that"
        " it can be checked that the rows belong together, or both without"
    )


def widened(array: Ring, columns: int) -> Ring:
    """Zeros for the classes that no label has: public zeros with masks of zero."""
    missing = columns - array.shape[1]
    return np.pad(array, ((0, 0), (0, missing))) if missing else array


class Steps:
    """The circuits of the steps of a run, for whole batches and for what is left; the last before a report may have one of its own.

    Raises:
        TooLarge: the randomness of one step does not fit the memory.
        ModelError: the plan has no circuit.
    """

    def __init__(self, terms: Terms) -> None:
        check(terms)
        sizes = {len(rows) for rows in terms.rows(0)}
        self._plan = plan = terms.plan
        self._circuits = {(size, False): plan.circuit(size) for size in sizes}
        if isinstance(plan, Plan) and plan.closing:
            self._circuits |= {(size, True): plan.circuit(size, last=True) for size in sizes}
        self.bytes = max(circuit.layout.bytes_per_example for circuit in self._circuits.values())
        memory = min(terms.memory, MEMORY_LIMIT)
        if self.bytes > memory:
            raise TooLarge(
                f"one step on {terms.batch} examples needs {self.bytes:,} bytes of randomness at a server, and {memory:,} are"
                " allowed; use a smaller batch_size or more memory"
            )
        self.ahead = min(8, memory // self.bytes)

    def at(self, size: int, number: int, *, last: bool) -> Circuit:
        """The circuit of step `number` of a model: like the others, but for public factors."""
        alike = self.like(size, last=last)
        if not self._plan.changing:
            return alike
        plan = self._plan
        circuit = plan.circuit(size, number, last=last) if isinstance(plan, Plan) else plan.circuit(size, number)
        return circuit.arranged_as(alike)

    def like(self, size: int, *, last: bool) -> Circuit:
        """A circuit with the randomness of all steps on so many examples, or of the last ones before a report."""
        return self._circuits.get((size, last)) or self._circuits[size, False]

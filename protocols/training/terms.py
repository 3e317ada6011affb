"""What the owner of a training tells the workers, and what they tell back: all of it public but shares of what is asked for."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import Dataset, check_records
from protocols.datasets.joined import widened
from protocols.errors import InputError, TooLarge
from protocols.mpc.circuit import Circuit
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.training.regression import Clusters, Logistic, LogLinear, Moments
from protocols.training.step import Plan
from protocols.training.trees import Binning, Boosting, Counts, Forest

AnyPlan = Plan | Moments | Logistic | LogLinear | Clusters | Boosting | Forest | Counts | Binning
"""What can be done with examples in steps."""

PARTING = (Clusters, LogLinear, Boosting, Forest, Counts, Binning)
"""Plans that part or weigh examples by what their owner has placed, so that what is opened may be that of few of them, or of one."""

MEMORY_LIMIT = 1 << 32
"""The most bytes of randomness that a server holds ahead for a run, whatever its owner allows."""


class TrainingTerms(msgspec.Struct, frozen=True):
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
    x: Dataset
    y: Dataset
    batch: int
    order: bytes | None
    memory: int
    equals: bool
    name: str
    made: int = 0
    w: Dataset | None = None

    def __repr__(self) -> str:
        return f"TrainingTerms({self.x.name!r}, {self.y.name!r}, batch={self.batch})"

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The arrays of the run by the names that a circuit gives them."""
        return {"x": self.x, "y": self.y} | ({} if self.w is None else {"w": self.w})

    @property
    def weighted(self) -> bool:
        """Whether what is opened may be that of few examples: by weights of their own, of their classes, or parted by the plan."""
        return self.w is not None or bool(getattr(self.plan, "classes", ())) or isinstance(self.plan, PARTING)

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


class StepsReport(msgspec.Struct, frozen=True):
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


def check_held(terms: TrainingTerms, *held: tuple[int, ...]) -> None:
    """Refuse a run on arrays of other shapes than those that are held: what an epoch allocates depends on them.

    Raises:
        InputError: they are.
    """
    named = tuple(dataset.shape for dataset in terms.datasets.values())
    if named != held:
        raise InputError(f"arrays of shapes {' and '.join(map(str, named))} were named, and are {' and '.join(map(str, held))} here")


def check(terms: TrainingTerms) -> None:
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


def _check_weights(terms: TrainingTerms) -> None:
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


class StepCircuits:
    """The circuits of the steps of a run, for whole batches and for what is left; the last before a report may have one of its own.

    Raises:
        TooLarge: the randomness of one step does not fit the memory.
        ModelError: the plan has no circuit.
    """

    def __init__(self, terms: TrainingTerms) -> None:
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
        self.ahead = min(8, memory // max(1, self.bytes))  # sums of what is stored need none

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

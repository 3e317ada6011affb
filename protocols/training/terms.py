"""What the owner of a training tells the workers, and what they tell back: all of it public but shares of what is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest

import msgspec
import numpy as np
import numpy.typing as npt
from blake3 import blake3

from protocols.datasets.dataset import DATASET_LIMIT, Dataset, check_records
from protocols.datasets.joined import widened
from protocols.errors import ClusterError, InputError, ModelError, TooLarge
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.training.asked import BaseOutputs, Derivation, SharedEvaluation, SharedPrediction
from protocols.training.networks.ended import array_name
from protocols.training.networks.losses import AnyLoss, JointLoss, truths
from protocols.training.regression import Clusters, Logistic, LogLinear, Moments
from protocols.training.step import Plan
from protocols.training.trees import Binning, Boosting, Counts, Forest

Estimation = Moments | Logistic | LogLinear | Clusters | Boosting | Forest | Counts | Binning
"""What is estimated of examples."""
AnyPlan = Plan | Estimation | SharedEvaluation | SharedPrediction | BaseOutputs | Derivation
"""What can be done in steps: with examples, or with the weights of a network alone."""

ARRAYS = {"x": "features", "y": "targets", "w": "weights"}
"""What the arrays of a run are, by the first letter of their names."""

PARTING = (Clusters, LogLinear, Boosting, Forest, Counts, Binning)
"""Plans that part or weigh examples by what their owner has placed, so that what is opened may be that of few of them, or of one."""


class TrainingTerms(msgspec.Struct, frozen=True):
    """One run of training. None of it is a right: who may do what is checked by who asks, and what it shows.

    Attributes:
        session: names the run to workers.
        plan: what is trained, and how.
        x: the features; None of what is done with weights alone.
        y: the one-hot labels or targets; None where nothing is compared with them.
        batch: examples of a step; the last step of an epoch has what is left.
        order: a key from which all derive the public order of the examples; None for the order in which they are stored.
        memory: bytes of randomness that a server may hold ahead.
        equals: whether the owner takes the cluster for one of three equals.
        name: of the model; among equals it says who does what.
        made: steps that the model has made before this run.
        w: the weights of the examples, one number each, if the plan has them.
        xs: the features of further inputs, if the plan has several.
        ys: the targets of further outputs.
        ws: the weights of the examples for further outputs.
        micro_batch: how many examples of a step are computed together, at most; None: as many as the memory allows.
    """

    session: bytes
    plan: AnyPlan
    x: Dataset | None
    y: Dataset | None
    batch: int
    order: bytes | None
    memory: int
    equals: bool
    name: str
    made: int = 0
    w: Dataset | None = None
    xs: tuple[Dataset, ...] = ()
    ys: tuple[Dataset, ...] = ()
    ws: tuple[Dataset, ...] = ()
    micro_batch: int | None = None

    def __repr__(self) -> str:
        return f"TrainingTerms({', '.join(repr(one.name) for one in self.datasets.values())}, batch={self.batch})"

    @property
    def datasets(self) -> dict[str, Dataset]:
        """The arrays of the run by the names that a circuit gives them."""
        kinds = {"x": (self.x, *self.xs), "y": (self.y, *self.ys), "w": (self.w, *self.ws)}
        named = {array_name(kind, place): each for kind, arrays in kinds.items() for place, each in enumerate(arrays)}
        return {name: dataset for name, dataset in named.items() if dataset is not None}

    @property
    def weighted(self) -> bool:
        """Whether what is opened may be that of few examples: by weights of their own, of their classes, or parted by the plan."""
        return self.w is not None or bool(getattr(self.plan, "classes", ())) or isinstance(self.plan, PARTING)

    @property
    def examples(self) -> int:
        """How many examples an epoch has; 1 stands for none."""
        return 1 if self.x is None else self.x.shape[0]

    def steps(self, epoch: int) -> int:
        """How many steps an epoch has."""
        return -(-self.examples // self.batch) * self.plan.repeats(epoch)

    def targets(self, array: Ring, place: int = 0) -> Ring:
        """Return the targets of some examples as the loss of an output compares with them: of labels 0 and 1 the column of label 1."""
        loss, outputs = _heads(self.plan)[place]
        y = self.datasets.get(array_name("y", place))
        if truths(loss) and y is not None and y.content == "labels":
            array = array[:, 1:]
        return widened(array, outputs)

    def given(self, name: str, array: Ring) -> Ring:
        """Return some examples of an array of the run as the circuit takes what it calls so."""
        kind, _, place = name.partition(" ")
        match kind:
            case "x":
                return widened(array, _parts(self.plan)[int(place or 0)])
            case "y":
                return self.targets(array, int(place or 0))
        return array

    def rows(self, epoch: int) -> list[npt.NDArray[np.int64]]:
        """Return the examples of each step of an epoch. Public."""
        order = np.arange(self.examples)
        if self.order is not None:
            order = KeyStream(derive(self.order, "epoch", epoch)).words(self.examples).argsort(kind="stable")
        batches = [order[start : start + self.batch] for start in range(0, self.examples, self.batch)]
        return batches * self.plan.repeats(epoch)

    def stored(self, parts: Sequence[Ring]) -> Ring:
        """Return what the steps of an epoch have made of all examples, in the order in which these are stored.

        Raises:
            InputError: that is not what was made.
        """
        order = np.concatenate(self.rows(0))
        if sum(len(part) for part in parts) != len(order):
            raise InputError("this run has made nothing of each of its examples that could be held")
        made = np.concatenate(parts)
        laid = np.empty_like(made)
        laid[order] = made
        return laid


class ToldTerms(msgspec.Struct, frozen=True):
    """Terms as an owner tells workers of them: what a worker of another version reads otherwise, it finds out, and does nothing.

    Attributes:
        terms: of the run.
        fingerprint: of them as the owner reads them.
    """

    terms: TrainingTerms
    fingerprint: bytes

    @staticmethod
    def of(terms: TrainingTerms) -> ToldTerms:
        """Return what is told of terms, which are as they will arrive."""
        sent = msgspec.msgpack.encode(terms, enc_hook=lambda number: number.item())  # of numpy
        arrived = msgspec.msgpack.decode(sent, type=TrainingTerms)
        return ToldTerms(terms, _fingerprint(arrived))


def _fingerprint(terms: TrainingTerms) -> bytes:
    """Return 32 bytes of all that terms say, what is left out included, and of the order of the examples, which everybody finds alone."""
    hashed = blake3(msgspec.msgpack.encode(terms))
    for rows in terms.rows(0):
        hashed.update(rows.astype("<i8").tobytes())
    return hashed.digest()


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
        micro_batches: in how many the steps were computed.
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
    micro_batches: int = 0


def check_held(told: ToldTerms, *held: tuple[int, ...]) -> None:
    """Refuse a run on arrays of other shapes than those that are held: what an epoch allocates depends on them; or one read otherwise.

    Raises:
        InputError: they are.
        ClusterError: the owner reads the terms otherwise.
    """
    named = tuple(dataset.shape for dataset in told.terms.datasets.values())
    if named != held:
        raise InputError(f"arrays of shapes {' and '.join(map(str, named))} were named, and are {' and '.join(map(str, held))} here")
    if not compare_digest(_fingerprint(told.terms), told.fingerprint):
        raise ClusterError(
            "a worker does not read all of what this training is as its owner does: they run other versions of confide; install the same"
            " everywhere. Nothing was computed"
        )


def check_made(terms: TrainingTerms, dataset: Dataset, made: Ring) -> None:
    """Refuse to hold what a run has made under another description.

    Raises:
        InputError: its shape is another one, or it is said to be more than numbers.
    """
    plain = Dataset(dataset.name, dataset.shape, "numbers", dataset.handle, b"" if terms.x is None else terms.x.records)
    if dataset != plain or made.shape != dataset.shape:
        raise InputError(f"{dataset.name!r} of shape {dataset.shape} is to be held, and numbers of shape {made.shape} were made")


def check(terms: TrainingTerms) -> None:
    """Refuse data that do not fit each other or the plan, before anything is done with them.

    Raises:
        InputError: lengths or widths differ, or a batch, or a micro-batch, is none.
        ModelError: a plan has no micro-batches.
        TooLarge: features that would be held are more than a stored array may have.
    """
    plan, x, y, named = terms.plan, terms.x, terms.y, terms.datasets
    if isinstance(plan, Derivation) != (x is None) or isinstance(plan, Derivation | SharedPrediction | BaseOutputs) != (y is None):
        raise InputError("examples, or targets, were named for a plan without, or the other way round")
    if terms.batch < 1:
        raise InputError(f"batch_size={terms.batch}; at least 1 is needed")
    if terms.micro_batch is not None and terms.micro_batch < 1:
        raise InputError(f"micro_batch_size={terms.micro_batch}; at least 1 is needed")
    if terms.micro_batch is not None and plan.mixes and terms.micro_batch < min(terms.batch, terms.examples):
        raise ModelError(f"{plan.mixes} needs all examples of a batch at once: leave micro_batch_size out, or give it the batch_size")
    parts, heads = _parts(plan), _heads(plan)
    if x is None:
        expected = set[str]()
    else:
        most = {"x": len(parts), "y": len(heads) if y is not None else 0, "w": len(heads) if plan.weighted else 0}
        expected = {array_name(kind, place) for kind, count in most.items() for place in range(count)}
    if set(named) != expected:
        raise InputError(f"arrays {sorted(named)} were named, and {sorted(expected)} are needed: one for each input and output")
    for place, size in enumerate(parts if x is not None else ()):
        _check_features(size, named[array_name("x", place)])
    if isinstance(plan, BaseOutputs) and x is not None and 8 * x.shape[0] * plan.outputs > DATASET_LIMIT:
        raise TooLarge(f"{plan.outputs} features of each of {x.shape[0]} examples are more than a stored array may have")
    for name, dataset in named.items():
        assert x is not None  # what was named belongs to it
        _check_alike(x, dataset)
        kind, _, at = name.partition(" ")
        if kind == "y":
            _check_targets(*heads[int(at or 0)], dataset)
        elif kind == "w" and (dataset.content != "numbers" or dataset.shape != (x.shape[0], 1)):
            raise InputError(
                f"{dataset.name!r} has shape {dataset.shape} and holds {dataset.content}: one weight for each of {x.shape[0]} examples is"
                " needed"
            )


def _heads(plan: AnyPlan) -> list[tuple[AnyLoss, int]]:
    """Return the loss of each output, and how many numbers it has."""
    if isinstance(plan.loss, JointLoss):
        return [(head.loss, head.outputs) for head in plan.loss.heads]
    return [(plan.loss, plan.outputs)]


def _parts(plan: AnyPlan) -> tuple[int, ...]:
    """Return how many features each input has: only networks have several."""
    several = plan.parts if isinstance(plan, Plan | SharedEvaluation | SharedPrediction | BaseOutputs) else ()
    return several or (plan.inputs,)


def _check_features(size: int, x: Dataset) -> None:
    if x.content != "numbers":
        raise InputError(f"{x.name!r} was stored as labels because it is one integer an example: features are stored as floats")
    if x.shape[1] != size:
        raise InputError(f"{x.name!r} has {x.shape[1]} {x.content} an example, the model takes {size} numbers")


def _check_alike(x: Dataset, other: Dataset) -> None:
    if x.shape[0] != other.shape[0]:
        raise InputError(f"{x.name!r} has {x.shape[0]} examples and {other.name!r} has {other.shape[0]}: they must be as many")
    check_records(x, other)


def _check_targets(loss: AnyLoss, outputs: int, y: Dataset) -> None:
    classes = outputs
    if truths(loss) and y.content == "labels":
        if outputs != 1:
            raise InputError(
                f"{y.name!r} has one label an example, and the model has {outputs} outputs that are compared with truths: store rows"
                f" of {outputs} numbers, each 0.0 or 1.0"
            )
        classes = 2
    if y.content == "labels" and y.shape[1] > classes:
        raise InputError(
            f"labels out of range: {y.name!r} has labels for {y.shape[1]} classes, the model has {outputs} outputs,"
            f" so labels from 0 to {classes - 1} are needed"
        )
    if y.content == "numbers" and y.shape[1] != outputs:
        raise InputError(f"{y.name!r} has {y.shape[1]} targets an example, the model has {outputs} outputs")

"""The metrics of a compiled Keras model: what Keras would tell of a training, by what they are and not by what they are called.

One number can be told of a step beside the loss: an accuracy, or the mean squared error. A metric is that number if its class or function
is the one of Keras that computes it; a name that somebody gave to it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

from protocols.errors import InputError, ModelError
from protocols.owner.compiled_loss import expects
from protocols.owner.fit.heads import CompiledHead
from protocols.owner.fit.settings import LogNames
from protocols.owner.targets import asked, metric_of
from protocols.training.networks.losses import AnyLoss, JointLoss, Loss

_CLASSES = {
    "SparseCategoricalAccuracy": "sparse_categorical_accuracy",
    "CategoricalAccuracy": "categorical_accuracy",
    "BinaryAccuracy": "binary_accuracy",
    "MeanSquaredError": "mean_squared_error",
    "MeanAbsoluteError": "mean_absolute_error",
    "LogCoshError": "log_cosh",
    "Hinge": "hinge",
    "SquaredHinge": "squared_hinge",
    "CategoricalHinge": "categorical_hinge",
    "Poisson": "poisson",
}
_OF_TARGETS = {
    "labels": "sparse_categorical_accuracy",
    "one-hot rows": "categorical_accuracy",
    "labels 0 and 1": "binary_accuracy",
    "numbers": "mean_squared_error",
}
"""By what the loss compares with: which function of `keras.metrics` is told."""

HALF = 0.5
"""The threshold of Keras' binary accuracy, unless it is given another."""


def threshold(head: CompiledHead, loss: Loss, outputs: int, *, ending: str | None) -> float:
    """Return above which logit a number counts as 1 in the accuracy that an output is compiled with; 0 without one, and with other losses.

    Keras compares an output with the threshold, whether it is a probability or a logit: of a model that ends without a sigmoid, logits
    are compared with 0.5.

    Args:
        head: the output.
        loss: on shares.
        outputs: how many numbers it has.
        ending: "sigmoid" or "softmax", if it ends in one.

    Raises:
        ModelError: a metric is none that is told of a training with this loss, or two of them differ. It names the metric.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    wanted = loss.name if not isinstance(loss, str) else _OF_TARGETS[expects(head)]
    found = {_edge(given, wanted, outputs, keras) for given in head.metrics}
    if len(found) > 1:
        raise ModelError(
            f"compile(metrics=) asks for binary accuracies with the thresholds {sorted(found)}: one can be told of a training on shares"
        )
    if not found or wanted != "binary_accuracy":
        return 0.0
    (edge,) = found
    return math.log(edge / (1 - edge)) if ending == "sigmoid" else edge


def rises(loss: Loss) -> bool:
    """Say whether more is better of the metric that is told with a loss, whatever it is called: Keras says so of its accuracies."""
    return isinstance(loss, str) and loss != "mse"


def names(head: CompiledHead) -> tuple[str, ...]:
    """Return the names that Keras gives to the metrics that an output is compiled with."""
    return tuple(one if isinstance(one, str) else str(getattr(one, "name", "") or one.__name__) for one in head.metrics)


def told_of(heads: Sequence[CompiledHead], loss: AnyLoss, metrics: bool | Collection[str], *, evaluates: bool) -> LogNames:
    """Return what is told of an epoch, or of an evaluation, by the names that it has in Keras.

    An evaluation tells compiled metrics only, as Keras does, and the loss; a training another that its loss has in their place.

    Args:
        heads: the outputs as they are compiled.
        loss: on shares.
        metrics: as in `SharedModel.fit`.
        evaluates: whether it is an evaluation.

    Raises:
        InputError: something else was asked for, or of an evaluation nothing.
    """
    if not isinstance(loss, JointLoss):
        told, (compiled, own) = set(asked(metrics, loss)), (names(heads[0]), (metric_of(loss).replace(" ", "_"),))
        found = LogNames("loss" in told, (compiled if evaluates else compiled or own) if len(told) > ("loss" in told) else ())
    else:
        found = _jointly(heads, loss, metrics, evaluates=evaluates)
    if evaluates and metrics is True:
        found = found._replace(loss=True)
    if evaluates and not found.loss and not found.metrics and not metrics:
        raise InputError("metrics=False and validation_data=: nothing of it would be told; leave one of the two out")
    return found


def _jointly(heads: Sequence[CompiledHead], loss: JointLoss, metrics: bool | Collection[str], *, evaluates: bool) -> LogNames:
    possible = [(f"{head.name}_{name}", place) for place, head in enumerate(heads) for name in names(head)]
    if not possible and not evaluates:
        possible = [(f"{one.name}_{metric_of(one.loss).replace(' ', '_')}", place) for place, one in enumerate(loss.heads)]
    wanted = {metrics} if isinstance(metrics, str) else set() if isinstance(metrics, bool) else set(metrics)
    known, losses = ["loss", *(name for name, _ in possible)], tuple(f"{head.name}_loss" for head in heads)
    if len({*known, *losses}) < len(known) + len(losses):
        raise InputError(f"{' and '.join(map(repr, [*known, *losses]))} are not all different: give metrics and outputs other names")
    if wanted - set(known):
        raise InputError(f"metrics={metrics!r} was asked for; with these losses {' and '.join(map(repr, known))} can be told")
    told = [(name, place) for name, place in possible if metrics is True or name in wanted]
    return LogNames("loss" in wanted, tuple(name for name, _ in told), tuple(place for _, place in told), losses)


def rising(told: LogNames, loss: AnyLoss) -> tuple[str, ...]:
    """Return the names of those metrics that are told of which more is better."""
    if not isinstance(loss, JointLoss):
        return told.metrics if rises(loss) else ()
    both = zip(told.metrics, told.places, strict=True)
    return tuple(name for name, place in both if rises(loss.heads[place].loss))


def _edge(given: Any, wanted: str, outputs: int, keras: Any) -> float:
    """Return the threshold of one metric, 0.5 for those that have none.

    Raises:
        ModelError: it is another one than is told.
    """
    shown = given if isinstance(given, str) else getattr(given, "name", getattr(given, "__name__", type(given).__name__))
    told = f"compile(metrics=) asks for {shown!r}"
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        means = _accuracy(wanted, outputs)
        if means != wanted:
            raise ModelError(
                f"{told}, which in Keras is {means} for {outputs} outputs and this loss: on shares {wanted} can be told; name it,"
                " or leave the metric out"
            )
        return HALF
    function, edge = _function(keras.metrics.get(given) if isinstance(given, str) else given, keras)
    if function != wanted:
        which = f", which is {function}" if function not in (None, shown) else f" ({type(given).__name__})" * (not isinstance(given, str))
        raise ModelError(f"{told}{which}: with this loss {wanted} of keras.metrics and 'loss' can be told of a training on shares")
    return edge


def _accuracy(wanted: str, outputs: int) -> str:
    """Return what Keras makes of "accuracy": it looks at the shapes of outputs and targets, not at the loss."""
    if wanted == "mean_squared_error" or outputs == 1:
        return "binary_accuracy" if outputs == 1 else "categorical_accuracy"
    return "sparse_categorical_accuracy" if wanted == "sparse_categorical_accuracy" else "categorical_accuracy"


def _function(metric: Any, keras: Any) -> tuple[str | None, float]:
    """Return which function of Keras a metric computes, None if it is none that can be told; and its threshold."""
    for kind, function in _CLASSES.items():
        if type(metric) is getattr(keras.metrics, kind):
            return function, float(metric.get_config().get("threshold", HALF))
        if metric is getattr(keras.metrics, function, kind):
            return function, HALF
    return None, HALF

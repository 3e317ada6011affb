"""The metrics of a compiled Keras model: what Keras would tell of a training, by what they are and not by what they are called.

One number can be told of a step beside the loss: an accuracy, or the mean squared error. A metric is that number if its class or function
is the one of Keras that computes it; a name that somebody gave to it says nothing.
"""

from __future__ import annotations

import math
from typing import Any

from protocols.errors import ModelError
from protocols.owner.compiled_loss import expects
from protocols.training.networks.losses import Loss
from protocols.training.step import Plan

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


def threshold(model: Any, plan: Plan, *, ending: str | None) -> float:
    """Return above which logit an output counts as 1 in the accuracy that `model` is compiled with; 0 without one, and with other losses.

    Keras compares an output with the threshold, whether it is a probability or a logit: of a model that ends without a sigmoid, logits
    are compared with 0.5.

    Args:
        model: compiled.
        plan: its layers and loss.
        ending: "sigmoid" or "softmax", if the network ends in one.

    Raises:
        ModelError: a metric is none that is told of a training with this loss, or two of them differ. It names the metric.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    wanted = plan.loss.name if not isinstance(plan.loss, str) else _OF_TARGETS[expects(model)]
    found = set()
    for given in keras.tree.flatten(internals.compile_arguments(model).get("metrics")):
        if given is not None:
            found.add(_edge(given, wanted, plan, keras))
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


def names(model: Any) -> tuple[str, ...]:
    """Return the names that Keras gives to the metrics that `model` is compiled with."""
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    given = keras.tree.flatten(internals.compile_arguments(model).get("metrics"))
    return tuple(one if isinstance(one, str) else str(getattr(one, "name", "") or one.__name__) for one in given if one is not None)


def _edge(given: Any, wanted: str, plan: Plan, keras: Any) -> float:
    """Return the threshold of one metric, 0.5 for those that have none.

    Raises:
        ModelError: it is another one than is told.
    """
    shown = given if isinstance(given, str) else getattr(given, "name", getattr(given, "__name__", type(given).__name__))
    told = f"compile(metrics=) asks for {shown!r}"
    if isinstance(given, str) and given.lower() in ("accuracy", "acc"):
        means = _accuracy(wanted, plan)
        if means != wanted:
            raise ModelError(
                f"{told}, which in Keras is {means} for {plan.outputs} outputs and this loss: on shares {wanted} can be told; name it,"
                " or leave the metric out"
            )
        return HALF
    function, edge = _function(keras.metrics.get(given) if isinstance(given, str) else given, keras)
    if function != wanted:
        which = f", which is {function}" if function not in (None, shown) else f" ({type(given).__name__})" * (not isinstance(given, str))
        raise ModelError(f"{told}{which}: with this loss {wanted} of keras.metrics and 'loss' can be told of a training on shares")
    return edge


def _accuracy(wanted: str, plan: Plan) -> str:
    """Return what Keras makes of "accuracy": it looks at the shapes of outputs and targets, not at the loss."""
    if wanted == "mean_squared_error" or plan.outputs == 1:
        return "binary_accuracy" if plan.outputs == 1 else "categorical_accuracy"
    return "sparse_categorical_accuracy" if wanted == "sparse_categorical_accuracy" else "categorical_accuracy"


def _function(metric: Any, keras: Any) -> tuple[str | None, float]:
    """Return which function of Keras a metric computes, None if it is none that can be told; and its threshold."""
    for kind, function in _CLASSES.items():
        if type(metric) is getattr(keras.metrics, kind):
            return function, float(metric.get_config().get("threshold", HALF))
        if metric is getattr(keras.metrics, function, kind):
            return function, HALF
    return None, HALF

"""What is known of the values of a metric's states, whatever the examples are: which are counts, and how large they can be."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.metrics.stand_in import outputs

if TYPE_CHECKING:
    import keras

COUNTS = frozenset(
    {
        "count",
        "accumulator",
        "true_positives",
        "true_negatives",
        "false_positives",
        "false_negatives",
        "intermediate_weights",
        "total_confusion_matrix",
        "num_samples",
    }
)
"""Names of variables of Keras' own metrics that are at least 0."""
BOUNDED = COUNTS - {"accumulator", "intermediate_weights"}
"""Of these, those that count labels: at most as many as there are."""
ACCURACIES = frozenset(
    {"Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy"}
    | {"TopKCategoricalAccuracy", "SparseTopKCategoricalAccuracy"}
)
"""Keras' own metrics that are shares of right answers."""


@dataclass(frozen=True)
class Limit:
    """What is known of a value of the states of a metric.

    Args:
        count: it is a count, which is at least 0.
        most: that it can be for each example.
        share: it is a part of the one behind it.
    """

    count: bool = False
    most: float = inf
    share: bool = False


LOSS = [Limit(), Limit(True, 1.0)]
"""Of the loss: Keras adds it up times the examples of a batch, and these."""


def labels_of_an_example(model: keras.Model) -> float:
    """Count the values of the largest output for one example, of which there are no more labels; infinite if that is not known."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    found = outputs(model)
    if found is None:
        return inf
    shapes = [one.shape[1:] for one in keras.tree.flatten(found)]
    return float(max((prod(inf if side is None else side for side in shape) for shape in shapes), default=inf))


def hits(most: float) -> list[Limit]:
    """Of a share of right answers: how many are right, and how many there are."""
    return [Limit(True, most, share=True), Limit(True, most)]


def limits(metric: Any, most: float) -> list[Limit]:
    """List what is known of each value of the states of a metric, without weights of examples."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    ours = type(metric).__module__.startswith("keras.")
    if ours and type(metric).__name__ in ACCURACIES:
        return hits(most)
    whole = ours and type(metric) not in (keras.metrics.Mean, keras.metrics.MeanMetricWrapper, keras.metrics.Sum)
    whole = whole and getattr(metric, "label_weights", None) is None
    return [
        Limit(ours and variable.name in COUNTS, most if whole and variable.name in BOUNDED else inf)
        for variable in metric.variables
        for _ in range(int(np.prod(variable.shape, dtype=np.int64)))
    ]

"""Whether the states of a metric add: those of two halves of some examples are together those of the whole, and give its value."""

from __future__ import annotations

from typing import Any

import numpy as np

from federated.metrics import compiled
from federated.metrics.stand_in import StandIn

TRIALS = ((6, 4), (3, 9))
"""Numbers of made-up examples in two halves."""
NEAR = 1e-4
"""How far sums and values may differ by rounding to float32."""


def are_sums(metric: Any) -> bool:
    """Whether a metric keeps a total and a count as `keras.metrics.Mean` and `Sum` do, whatever it is that they are of."""
    import keras  # noqa: PLC0415  is loaded already: there is a metric

    kinds = (keras.metrics.MeanMetricWrapper, keras.metrics.Mean, keras.metrics.Sum)
    kept = ("update_state", "reset_state", "result")
    return any(isinstance(metric, kind) and all(getattr(type(metric), one) is getattr(kind, one) for one in kept) for kind in kinds)


def is_mean(metric: Any) -> bool:
    """Whether it is such a mean: then means of owners' values, weighted by numbers of examples, are its value."""
    import keras  # noqa: PLC0415  is loaded already: there is a metric

    return isinstance(metric, keras.metrics.Mean) and are_sums(metric)


def adding(first: StandIn) -> list[bool]:
    """Of each metric, whether its states add.

    They begin at 0; after two batches, they are the sums of those after each; and set to these sums, another metric of the same settings
    has the value of the one that has seen both. So minima, decaying means, and what a metric keeps outside of its states are found.

    Args:
        first: shown the examples.
    """
    found = [_begins_at_zero(metric) for metric in first.metrics]
    if all(are_sums(metric) for metric in first.metrics):
        return found
    second = first.another()
    rng = np.random.default_rng(1)
    for sizes in TRIALS:
        halves = [first.made_up(rng, examples) for examples in sizes]
        sums = [sum(parts) for parts in zip(*(_states(first, [half]) for half in halves), strict=True)]
        whole = _states(first, halves)
        values = first.values()
        second.reset()
        for metric, states in zip(second.metrics, sums, strict=True):
            compiled.write(metric, states)
        for i, (one, other, value, again) in enumerate(zip(whole, sums, values, second.values(), strict=True)):
            found[i] = found[i] and _near(one, other) and _near(value, again)
    first.reset()
    return found


def _states(stand_in: StandIn, batches: list[Any]) -> list[Any]:
    stand_in.reset()
    for batch in batches:
        stand_in.update(batch)
    return [compiled.read(metric).astype(np.float64) for metric in stand_in.metrics]


def _begins_at_zero(metric: Any) -> bool:
    return not compiled.read(metric).any()


def _near(one: Any, other: Any) -> bool:
    import keras  # noqa: PLC0415  is loaded already: there is a metric

    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    return all(np.allclose(np.asarray(a), np.asarray(b), rtol=NEAR, atol=NEAR, equal_nan=True) for a, b in pairs)

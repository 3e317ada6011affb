"""IFCA: owners of several kinds, each of which trains the model that fits its data best."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from federated.errors import UpdateHeldBack
from federated.methods.course import Contribution, Course, added, given, of_trained
from federated.tasks.update import Weights


class Clustered:
    """Trains that of k models whose loss on the owner's data is the lowest: j = argmin_j F_i(w_j), w_i from w_j; the first of equal ones.

    The first model is the global weights; the others are given as `cluster1`, `cluster2` and so on. Gives w_i - w_j for model j, zeros for
    the others, and `chosen`, which is 1 at j; remembers j, and evaluates w_j.

    References:
        Ghosh et al., 2020, arXiv:2006.04088, Algorithm 1, with model averaging.
    """

    name: ClassVar[str] = "ifca"
    personal: ClassVar[bool] = True

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        models = _models(course)
        losses = [course.loss(model) for model in models]
        if not np.isfinite(losses).any():
            raise UpdateHeldBack("the loss of none of the models of this run is finite on this owner's data: it cannot choose one")
        best = int(np.nanargmin(losses))
        fitted = course.fit(models[best])
        course.state["cluster"] = best
        moved = added(fitted.weights, models[best])
        still = [np.zeros_like(one) for one in moved]
        extra = {f"cluster{j}": of_trained(course, moved if j == best else still) for j in range(1, len(models))}
        chosen = np.zeros(len(models))
        chosen[best] = 1.0
        return Contribution(moved if best == 0 else still, extra | {"chosen": [chosen]})

    def own(self, course: Course) -> Weights:
        """Return the model that this owner has chosen last; before its first round the global weights."""
        known, models = course.state.get("cluster", 0), _models(course)
        if not 0 <= int(known) < len(models):
            raise UpdateHeldBack("the model that this owner has chosen is not among those of the run: begin another run")
        return models[int(known)]


def _models(course: Course) -> list[Weights]:
    """Return all models, whole.

    Raises:
        UpdateHeldBack: weights that are not trained change in training: they would be one for all models.
    """
    if any(sent and not trained for sent, trained in zip(course.sent, course.trained, strict=True)):
        raise UpdateHeldBack(
            "this owner was asked to choose among models, and the model has weights that change without being trained, the statistics of "
            "BatchNormalization: they would be one for all; use layers without such, LayerNormalization or GroupNormalization"
        )
    models = [course.weights]
    while f"cluster{len(models)}" in course.arrays:
        name, left = f"cluster{len(models)}", of_trained(course, course.weights)
        values = iter(given(course, name, left))
        models.append([next(values).astype(w.dtype) if moves else w for w, moves in zip(course.weights, course.trained, strict=True)])
    return models

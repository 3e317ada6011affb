"""Owners that keep something of their own: a model beside the global one, or some of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from federated.errors import UpdateHeldBack
from federated.methods.course import Contribution, Course, added, number
from federated.tasks.update import Weights


class Beside:
    """Ditto: trains the global model as FedAvg does, and beside it one of its own, held near the global weights.

    v_i <- argmin F_i(v) + lambda/2 ||v - w_t||^2, from the v_i of the round before. Gives w_i - w_t; remembers, and evaluates, v_i.

    References:
        Li et al., 2021, arXiv:2012.04221, Algorithm 1.
    """

    name: ClassVar[str] = "ditto"
    personal: ClassVar[bool] = True

    def run(self, course: Course) -> Contribution:
        """Train both in one round."""
        near = number(course, "near", least=0.0)
        fitted = course.fit(course.weights)
        course.state["model"] = _changing(course, course.fit(self.own(course), proximal=near).weights)
        return Contribution(added(fitted.weights, course.weights))

    def own(self, course: Course) -> Weights:
        """Return this owner's model; before its first round the global weights."""
        known = course.state.get("model")
        return course.weights if known is None else _with(course, known, course.sent)


class Layers:
    """Layers of the owners' own: they begin with the global weights, and stay at the owner from then on.

    Which they are, is said by `layers`, names or classes of layers, separated by commas. For their weights it gives zeros.

    References:
        Arivazhagan et al., 2019, arXiv:1912.00818, Algorithm 1; Li et al., 2021, arXiv:2102.07623, for layers of BatchNormalization.
    """

    name: ClassVar[str] = "layers"
    personal: ClassVar[bool] = True

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        kept = self._kept(course)
        start = self.own(course)
        fitted = course.fit(start)
        course.state["layers"] = [weights for weights, own in zip(fitted.weights, kept, strict=True) if own]
        delta = added(fitted.weights, start)
        return Contribution([np.zeros_like(one) if own else one for one, own in zip(delta, kept, strict=True)])

    def own(self, course: Course) -> Weights:
        """Return the global weights, but for its own layers."""
        kept = self._kept(course)
        known = course.state.get("layers")
        if known is None:
            return course.weights
        return _with(course, known, kept)

    def _kept(self, course: Course) -> list[bool]:
        """Of each of the weights, whether it is this owner's own."""
        said = course.config.get("layers")
        names = set(said.split(",")) if isinstance(said, str) else set()
        kept = [bool(names.intersection(layer)) for layer in course.layers]
        missing = names - {name for layer in course.layers for name in layer}
        if missing or not names or all(kept):
            raise UpdateHeldBack("this owner was asked to keep layers of its own that the model does not have, none, or all of them")
        return kept


def _with(course: Course, known: Weights, own: Sequence[bool]) -> Weights:
    """Return the global weights, but for those of the owner's own, which it remembers.

    Raises:
        UpdateHeldBack: it remembers those of another model.
    """
    if [np.shape(array) for array in known] != [array.shape for array, mine in zip(course.weights, own, strict=True) if mine]:
        raise UpdateHeldBack("what this owner remembers of the run is of another model: begin another run")
    left = iter(known)
    return [np.asarray(next(left), array.dtype) if mine else array for array, mine in zip(course.weights, own, strict=True)]


def _changing(course: Course, weights: Weights) -> Weights:
    """Return those that rounds may change: the others are the aggregator's, and as large as a backbone is."""
    return [array for array, travels in zip(weights, course.sent, strict=True) if travels]

"""FedDyn: local objectives that change so that their minima agree with that of all owners."""

from __future__ import annotations

from typing import ClassVar

from federated.methods.course import Contribution, Course, added, number, of_trained, remembered
from federated.tasks.update import Weights


class Dynamic:
    """Minimise L_i(w) - <g_i, w> + alpha/2 ||w - w_t||^2; then g_i <- g_i - alpha (w_i - w_t).

    Gives w_i - w_t; remembers g_i.

    References:
        Acar et al., 2021, arXiv:2111.04263, Algorithm 1.
    """

    name: ClassVar[str] = "feddyn"
    personal: ClassVar[bool] = False

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        alpha = number(course, "alpha", above=0.0)
        before = of_trained(course, course.weights)
        gradient = remembered(course, "gradient", before)
        fitted = course.fit(course.weights, linear=[-g for g in gradient], proximal=alpha)
        moved = of_trained(course, fitted.weights)
        course.state["gradient"] = [g - alpha * (y - x) for g, x, y in zip(gradient, before, moved, strict=True)]
        return Contribution(added(fitted.weights, course.weights))

    def own(self, course: Course) -> Weights:
        """Return the global weights."""
        return course.weights

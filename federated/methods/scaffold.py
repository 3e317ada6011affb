"""SCAFFOLD: local steps whose gradients are corrected by control variates."""

from __future__ import annotations

from typing import ClassVar

from federated.methods.course import Contribution, Course, added, given, of_trained, plain_descent, remembered
from federated.tasks.update import Weights


class Scaffold:
    """y <- y - eta_l (g_i(y) - c_i + c), K times; c_i+ = c_i - c + (x - y) / (K eta_l).

    Gives y - x, and c_i+ - c_i as `control`; remembers c_i.

    References:
        Karimireddy et al., 2020, arXiv:1910.06378, Algorithm 1, option II.
    """

    name: ClassVar[str] = "scaffold"
    personal: ClassVar[bool] = False

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        rate = plain_descent(course, "SCAFFOLD").rate
        before = of_trained(course, course.weights)
        control, own = given(course, "control", before), remembered(course, "control", before)
        fitted = course.fit(course.weights, linear=[c - o for c, o in zip(control, own, strict=True)])
        far = max(1, fitted.steps) * rate
        moved = of_trained(course, fitted.weights)
        new = [o - c + (x - y) / far for o, c, x, y in zip(own, control, before, moved, strict=True)]
        course.state["control"] = new
        return Contribution(added(fitted.weights, course.weights), {"control": [n - o for n, o in zip(new, own, strict=True)]})

    def own(self, course: Course) -> Weights:
        """Return the global weights."""
        return course.weights

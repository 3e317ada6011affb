"""FedNova: updates that are divided by how many steps they took."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from federated.methods.course import Contribution, Course, added, flat, plain_descent
from federated.tasks.update import Weights


class StepsNormalised:
    """tau_i steps of gradient descent; gives (w_i - w_t) / ||a_i||_1, and ||a_i||_1 as `steps`.

    ||a_i||_1 is how much gradient the steps add up to: tau_i without momentum, and with momentum rho
    (tau_i - rho (1 - rho^tau_i) / (1 - rho)) / (1 - rho).

    References:
        Wang et al., 2020, arXiv:2007.07481, section 4 and appendix.
    """

    name: ClassVar[str] = "fednova"
    personal: ClassVar[bool] = False

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        momentum = plain_descent(course, "FedNova", momentum=True).momentum
        fitted = course.fit(course.weights)
        steps = max(1, fitted.steps)
        length = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
        delta = added(fitted.weights, course.weights)
        shared = [d / length if moves else d for d, moves in zip(delta, course.trained, strict=True)]
        return Contribution([np.asarray(one, before.dtype) for one, before in zip(shared, delta, strict=True)], {"steps": [flat(length)]})

    def own(self, course: Course) -> Weights:
        """Return the global weights."""
        return course.weights

"""q-FedAvg: owners whose loss is high count more."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from federated.errors import UpdateHeldBack
from federated.methods.course import Contribution, Course, added, flat, number, of_trained, plain_descent
from federated.tasks.update import Weights


class Fair:
    """With F the loss of the global weights at this owner, and D = (w_t - w_i) / eta:

    gives -F^q D, and h = q F^(q-1) ||D||^2 + F^q / eta as `curvature`.

    References:
        Li et al., 2019, arXiv:1905.10497, Algorithm 2, with L = 1 / eta.
    """

    name: ClassVar[str] = "qfedavg"
    personal: ClassVar[bool] = False

    def run(self, course: Course) -> Contribution:
        """Train in one round."""
        q, rate = number(course, "q", least=0.0), plain_descent(course, "q-FedAvg", momentum=True).rate
        loss = course.loss(course.weights)
        if not loss > 0.0:
            raise UpdateHeldBack("q-FedAvg takes powers of the loss, and that of this owner is not above 0: use another strategy")
        fitted = course.fit(course.weights)
        delta = added(fitted.weights, course.weights)
        squared = sum(float(np.sum(one**2)) for one in of_trained(course, delta)) / rate**2
        curvature = q * loss ** (q - 1) * squared + loss**q / rate
        weighted = [d * (loss**q / rate) if moves else d for d, moves in zip(delta, course.trained, strict=True)]
        return Contribution(
            [np.asarray(one, before.dtype) for one, before in zip(weighted, delta, strict=True)], {"curvature": [flat(curvature)]}
        )

    def own(self, course: Course) -> Weights:
        """Return the global weights."""
        return course.weights

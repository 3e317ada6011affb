"""Keras' losses beside cross-entropies and squares, as pieces of straight lines that servers follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from protocols.curves.activations import CURVES, Curve
from protocols.curves.splines import Real
from protocols.errors import ModelError
from protocols.training.networks.distances import ENDS, CategoricalHinge, Compared, CosineSimilarity, ErrorLoss, TargetLoss
from protocols.training.networks.functions import START
from protocols.training.networks.layers import LARGEST
from protocols.training.networks.nonlinear import Pieces

UNIT = 2.0**-START
"""What a comparison tells apart."""
EPSILON = 1e-7
"""What Keras adds before it takes a logarithm."""
WIDEST = 2.0 ** (ENDS + 1)
"""Errors lie within +-WIDEST."""
HIGHEST = math.log(LARGEST)
"""Beyond, the exponential is no activation."""

Settings = dict[str, Any]


def _mean_absolute_error(settings: Settings, ending: str | None) -> Compared:
    sign = Pieces((0.0, UNIT), (0.0, 0.0, 0.0), (-1.0, 0.0, 1.0))
    return ErrorLoss("mean_absolute_error", sign, Pieces((0.0,), (-1.0, 1.0), (0.0, 0.0)))


def _huber(settings: Settings, ending: str | None) -> Compared:
    delta = float(settings.get("delta", 1.0))
    if not 2.0**-8 <= delta <= WIDEST / 4:
        raise ModelError(f"the loss 'huber' with delta={delta:g} cannot be trained on shares: 2^-8 to {WIDEST / 4:g} are possible")
    edge = round(delta / UNIT) * UNIT
    return ErrorLoss("huber", Pieces((-edge, edge), (0.0, 1.0, 0.0), (-edge, 0.0, edge)))


def _log_cosh(settings: Settings, ending: str | None) -> Compared:
    value = Curve(lambda x: np.logaddexp(x, -x) - math.log(2), (-1, -math.log(2)), (1, -math.log(2)))
    return ErrorLoss("log_cosh", Pieces.of(CURVES["tanh"].spline(-WIDEST, WIDEST)), Pieces.of(value.spline(-WIDEST, WIDEST)))


def _hinge(settings: Settings, ending: str | None) -> Compared:
    below, above = Pieces((-1.0,), (0.0, 1.0), (0.0, 1.0)), Pieces((-1.0, 1.0), (-1.0, -2.0, -1.0), (1.0, 0.0, -1.0))
    step, steps = Pieces((-1.0,), (0.0, 0.0), (0.0, 1.0)), Pieces((-1.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
    return TargetLoss("hinge", (step, steps), (below, above))


def _squared_hinge(settings: Settings, ending: str | None) -> Compared:
    below = Pieces((-1.0,), (0.0, 1.0), (0.0, 1.0))
    above = Pieces((-1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, -2.0, -1.0))
    return TargetLoss("squared_hinge", (below, above))


def _categorical_hinge(settings: Settings, ending: str | None) -> Compared:
    return CategoricalHinge()


def _cosine_similarity(settings: Settings, ending: str | None) -> Compared:
    return CosineSimilarity()


def _poisson(settings: Settings, ending: str | None) -> Compared:
    if ending == "exponential":
        curve = CURVES["exponential"].spline(-LARGEST, HIGHEST)
        log = Curve(lambda z: -np.logaddexp(z, math.log(EPSILON)), (0, -math.log(EPSILON)), (-1, 0))
        share = Curve(lambda z: -0.5 - 0.5 * np.tanh((z - math.log(EPSILON)) / 2), (0, 0), (0, -1))
        values = Pieces.of(curve), Pieces.of(log.spline(-LARGEST, LARGEST))
        return TargetLoss("poisson", (values[0], Pieces.of(share.spline(-LARGEST, LARGEST))), values, truths=False, bounded=True)

    def softplus(z: Real) -> Real:
        y: Real = np.logaddexp(0.0, z)
        return y

    def ratio(z: Real) -> Real:
        y: Real = -CURVES["sigmoid"].function(z) / (softplus(z) + EPSILON)
        return y

    log_of = Curve(lambda z: -np.log(softplus(z) + EPSILON), (0, -math.log(EPSILON)), None)
    values = Pieces.of(CURVES["softplus"].spline(-LARGEST, LARGEST)), Pieces.of(log_of.spline(-LARGEST, LARGEST))
    slopes = Pieces.of(CURVES["sigmoid"].spline(-LARGEST, LARGEST)), Pieces.of(Curve(ratio, (0, 0), None).spline(-LARGEST, LARGEST))
    return TargetLoss("poisson", slopes, values, truths=False)


def _focal(settings: Settings, ending: str | None) -> Compared:
    gamma, smoothing = float(settings.get("gamma", 2.0)), float(settings.get("label_smoothing") or 0.0)
    alpha = float(settings.get("alpha", 0.25)) if settings.get("apply_class_balancing") else None
    if not (0 <= gamma <= 8 and 0 <= smoothing <= 1 and (alpha is None or 0 <= alpha <= 1)):
        raise ModelError(
            f"the loss 'binary_focal_crossentropy' with gamma={gamma:g}, label_smoothing={smoothing:g}: gamma lies between 0 and 8"
        )

    def of(truth: float) -> Curve:
        """Return the loss by the logit, of which Keras takes the cross-entropy in `fit`: it ends in straight lines."""
        y = truth * (1 - smoothing) + smoothing / 2
        weight = 1.0 if alpha is None else y * alpha + (1 - y) * (1 - alpha)

        def value(z: Real) -> Real:
            p = CURVES["sigmoid"].function(z)
            away = np.maximum(y * (1 - p) + (1 - y) * p, 1e-30)
            loss: Real = weight * away**gamma * (np.logaddexp(0.0, z) - y * z)
            return loss

        return Curve(value, (-weight * y ** (gamma + 1), 0.0), (weight * (1 - y) ** (gamma + 1), 0.0))

    ones, zeros = of(1.0), of(0.0)
    more = Curve(lambda z: ones.function(z) - zeros.function(z), _less(ones.left, zeros.left), _less(ones.right, zeros.right))
    values = Pieces.of(zeros.spline(-LARGEST, LARGEST)), Pieces.of(more.spline(-LARGEST, LARGEST))
    slopes = Pieces.of(zeros.slope(-LARGEST, LARGEST)), Pieces.of(more.slope(-LARGEST, LARGEST))
    return TargetLoss("binary_focal_crossentropy", slopes, values)


def _less(one: tuple[float, float] | None, other: tuple[float, float] | None) -> tuple[float, float]:
    """Return the difference of two lines."""
    assert one is not None  # both were given
    assert other is not None
    return one[0] - other[0], one[1] - other[1]


FORMS: dict[str, Callable[[Settings, str | None], Compared]] = {
    "mean_absolute_error": _mean_absolute_error,
    "huber": _huber,
    "log_cosh": _log_cosh,
    "hinge": _hinge,
    "squared_hinge": _squared_hinge,
    "categorical_hinge": _categorical_hinge,
    "cosine_similarity": _cosine_similarity,
    "poisson": _poisson,
    "binary_focal_crossentropy": _focal,
}
"""By the name of Keras' function."""

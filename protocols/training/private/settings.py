"""What is public about a private step, and which networks have one: those whose nodes treat each example by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from protocols.errors import ModelError
from protocols.mpc.engine.values import Shape
from protocols.mpc.parties.discrete_gaussian import LARGEST_SIGMA
from protocols.mpc.parties.discrete_gaussian import REACH as BOUND
from protocols.training.networks import layers, nonlinear
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.network import AnyLayer
from protocols.training.networks.optimizers import Adam, GradientDescent, Optimizer, changes, reach

MOST_DIGITS = 32
"""Fractional bits of a clip factor, at most: times a value within 2^28 it stays below 2^61."""
LEAST_DIGITS = 12

APART: tuple[type[layers.Layer], ...] = (
    layers.ProductLayer,
    layers.ConvolutionLayer,
    layers.AffineLayer,
    layers.ShiftedLayer,
    layers.RescaleLayer,
    layers.AveragePoolLayer,
    layers.ShapedLayer,
    layers.PermutedLayer,
    layers.TakenLayer,
    layers.PaddedLayer,
    layers.JoinedLayer,
    layers.SumLayer,
    layers.MultipliedLayer,
    nonlinear.RectifierLayer,
    nonlinear.CurveLayer,
    nonlinear.MaxPoolLayer,
    nonlinear.ExtremeLayer,
)
"""Nodes of which each example's value depends on that example alone."""


class Private(msgspec.Struct, frozen=True):
    """How the sum of gradients over a batch is made private: each example's is at most `clip` long, each server adds noise to the sum.

    Attributes:
        clip: C > 0, the largest L2 norm over all trained weights, in units of the sums that `loss_gradient` leads to.
        noise: z, the standard deviation of the noise of **each** server is z C; 0 for none, in tests.
        batch: by how many examples the sum is divided, whatever a step has.
        digits: D, fractional bits of a clip factor.
        rounded: whether noisy sums are rounded before they move weights.
        features: whether examples are what a frozen base gave, folded, and not numbers as they are stored: they lie in a larger range.
    """

    clip: float
    noise: float
    batch: int
    digits: int = LEAST_DIGITS
    rounded: bool = False
    features: bool = False

    def __post_init__(self) -> None:
        """Refuse what bounds nothing.

        Raises:
            ModelError: a number is out of its range.
        """
        if not (0 < self.clip < math.inf and 0 <= self.noise < math.inf and self.batch > 0 and LEAST_DIGITS <= self.digits <= MOST_DIGITS):
            raise ModelError(
                f"clip={self.clip}, noise={self.noise}, batch={self.batch}, digits={self.digits}: a positive clip and batch, noise from 0,"
                f" and {LEAST_DIGITS} to {MOST_DIGITS} digits are needed"
            )


def check_apart(nodes: tuple[AnyLayer, ...], loss: object) -> None:
    """Refuse what mixes examples: then nothing bounds what one of them changes.

    Raises:
        ModelError: it names the node, or the loss.
    """
    for place, node in enumerate(nodes):
        if type(node) not in APART:
            raise ModelError(
                f"node {place} of the network ({type(node).__name__}) is not known to treat each example by itself, as batch statistics do"
                " not: it cannot be trained with privacy="
            )
    if loss not in ("crossentropy", "binary_crossentropy", "mse"):
        name = loss if isinstance(loss, str) else type(loss).__name__
        raise ModelError(f"the loss {name} is not known to be a sum over examples: it cannot be trained with privacy=")


def check_values(place: int, node: AnyLayer, batch: int, taken: Sequence[Shape], given: Shape) -> None:
    """Refuse a node whose values are not laid out as one for each example: numbers broadcast, or multiplied, along another axis mix them.

    Args:
        place: of the node.
        node: one of `APART`.
        batch: examples of a step.
        taken: the shapes of what it reads.
        given: the shape of its value.

    Raises:
        ModelError: it names the node.
    """
    ranks = {len(shape) for shape in taken}
    apart = all(len(shape) > 1 and shape[0] == batch and min(shape) > 0 for shape in (*taken, given)) and len(ranks) == 1
    flat = isinstance(node, layers.ProductLayer | layers.ConvolutionLayer)  # these add to the last axis of rows
    for name in ("bias", "scale", "shift"):
        weight = getattr(node, name, None)
        if isinstance(weight, layers.Weight):
            apart &= len(weight.shape) < (2 if flat else len(given))
    if not apart:
        raise ModelError(
            f"node {place} of the network ({type(node).__name__}) makes values of {given} from {', '.join(map(str, taken))} for {batch}"
            " examples, which does not treat each example by itself: it cannot be trained with privacy="
        )


def check_plain(optimizer: Optimizer, beside: Mapping[str, object]) -> None:
    """Refuse what has not been looked at beside a bound for each example and noise.

    Args:
        optimizer: how weights are moved.
        beside: what else a plan has, by its name; empty things are not there.

    Raises:
        ModelError: it names it.
    """
    one = optimizer
    asked = {
        **beside,
        "clipnorm, clipvalue or global_clipnorm": one.clip,
        "gradient_accumulation_steps": one.gathered > 1,
        "use_ema": one.average is not None,
        f"the optimizer {type(one).__name__}": not isinstance(one, GradientDescent | Adam),
    }
    for name, there in asked.items():
        if there:
            raise ModelError(f"{name} cannot be combined with privacy=: leave one of both out")


def fitted(private: Private, optimizer: Optimizer, scale: float) -> Private:
    """Return the settings with as many fractional bits D of a clip factor as leave noisy sums where the optimizer is right.

    Velocities, squares and schedules would have too little room beside so many bits: for these sums are rounded after the noise.

    Args:
        private: C, z, and the examples of a step, at most.
        optimizer: how weights are moved.
        scale: as for `optimizers.update`.

    Raises:
        ModelError: the sums of so large a batch, so clipped, leave too few.
    """
    largest = private.clip * (private.batch + 2 * BOUND * private.noise)
    steps = optimizer if isinstance(optimizer, GradientDescent) else None
    rounded = steps is None or bool(steps.momentum) or changes(steps)
    fits = steps is None or not rounded or largest <= reach(steps, scale, 2 * FRACTION)
    for found in range(MOST_DIGITS, LEAST_DIGITS - 1, -1):
        bits = found + FRACTION
        most = 2.0 ** (61 - bits) if steps is None or rounded else reach(steps, scale, bits)
        if fits and largest <= most and private.noise * private.clip * 2.0**bits < LARGEST_SIGMA:
            return msgspec.structs.replace(private, digits=found, rounded=rounded)
    raise ModelError(
        f"max_grad_norm and noise_multiplier with batches of {private.batch} make sums up to {largest:.3g}, for which fixed point has too"
        " few digits: scale the loss, or take a smaller batch_size"
    )

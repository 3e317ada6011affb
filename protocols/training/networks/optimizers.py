"""How gradients move weights: the public settings of an optimizer and its operations on shares.

An update is rounded at random without bias (Gupta et al., 2015, arXiv:1502.02551), so that updates smaller than the last digit count on
average. A learning rate that changes from step to step changes public factors only: what is dealt for a step is the same.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate

import msgspec

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.flat import Piece, Row
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import MEAN, QUOTIENT, divided, fraction, larger, moved, scaled, squared
from protocols.training.networks.window import Watched

RATE_BITS = 8
"""Significant bits of a constant learning rate: it is rounded by at most 0.2 %."""

SCHEDULE_BITS = 11
"""Significant bits of the largest rate of a schedule: each step is right to 0.1 % of the largest, and sums of steps to as much of one.

A sum of gradients over a batch is multiplied by so many bits: it is right below 2^(30 - bits), which is 2^19 here, and 2^22 for a constant
rate, and half of that beside a velocity, see `reach`. That is the sum over examples of a feature (or activation) times the error of an
output.
"""

ADAM_BITS = 14
"""Significant bits of the largest rate of Adam, whose corrections change from step to step."""

MOMENTUM_BITS = 24
"""Fractional bits of the momentum, at least: velocities add up 1 / (1 - momentum) steps, so what counts is how far it is from 1."""

LARGEST_RATE = 64

Shapes = dict[str, tuple[int, ...]]
Gradients = dict[str, tuple[int, int]]
Change = tuple[int, dict[str, int]]
"""What is added to a weight, and the new states by kind."""


class GradientDescent(msgspec.Struct, frozen=True, tag=True):
    """W <- W - rate * dW, or with momentum, as in Keras, V <- momentum V - rate dW, W <- W + V.

    Attributes:
        rate: the learning rate, from 0.
        momentum: of each velocity in the next, from 0 up to 1; without it there are no velocities.
        nesterov: W <- W + momentum V - rate dW, with the new V.
        decay: W <- W - rate decay W beside each update; 0 for none.
        biases_exempt: biases do not decay.
        schedule: the rate of each step from the first, the last one for all that follow; empty if the rate is constant.
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    biases_exempt: bool = False
    schedule: tuple[float, ...] = ()

    def states(self, shapes: Shapes) -> Shapes:
        """The shape of what is kept beside each weight, by name; it begins at zero."""
        return {f"velocity of {name}": shape for name, shape in shapes.items()} if self.momentum else {}


class Adam(msgspec.Struct, frozen=True, tag=True):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1) as in Keras; AMSGrad (Reddi et al., 2018, arXiv:1904.09237).

    M <- M + (1 - beta_1)(dW - M), V <- V + (1 - beta_2)(dW^2 - V), W <- W - rate sqrt(1 - beta_2^t) / (1 - beta_1^t) M / sqrt(V), for
    AMSGrad with the largest V so far. `moments.py` has the ranges: gradients below 128, which is checked in each step; where sqrt(V)
    is below 10^-6, about that takes its place, as epsilon does in Keras.

    Attributes:
        rate: the learning rate, from 0.
        beta_1: of each M in the next, from 0 up to 1; its square is below `beta_2`.
        beta_2: of each V in the next, from 0 up to 1.
        amsgrad: whether the largest V divides.
        decay: as for gradient descent (AdamW; Loshchilov and Hutter, 2019, arXiv:1711.05101).
        biases_exempt: as for gradient descent.
        schedule: as for gradient descent.
    """

    rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    amsgrad: bool = False
    decay: float = 0.0
    biases_exempt: bool = False
    schedule: tuple[float, ...] = ()

    def states(self, shapes: Shapes) -> Shapes:
        """The shape of what is kept beside each weight, by name; it begins at zero."""
        kinds = ("mean", "square", "largest square") if self.amsgrad else ("mean", "square")
        return {f"{kind} of {name}": shape for kind in kinds for name, shape in shapes.items()}


Optimizer = GradientDescent | Adam


def rates(optimizer: Optimizer) -> tuple[float, ...]:
    """The learning rate of each step, the last one for all that follow; of 0 a step moves nothing but what moves by itself.

    Raises:
        ModelError: a rate is no finite number from 0 to `LARGEST_RATE`, or with the largest a gradient of 1 would move a weight by less
            than half of its last digit.
    """
    found = optimizer.schedule or (optimizer.rate,)
    for step, rate in enumerate(found):
        when = f" of step {step + 1}" if optimizer.schedule else ""
        if not math.isfinite(rate) or rate < 0:
            what = "not a number" if math.isnan(rate) else "infinite" if math.isinf(rate) else "below 0"
            raise ModelError(f"the learning rate {rate:g}{when} is {what}: a number from 0 to {LARGEST_RATE} is needed")
        if rate > LARGEST_RATE:
            raise ModelError(f"the learning rate {rate:g}{when} is too large for fixed point: at most {LARGEST_RATE} is possible")
    largest = max(found)
    if 0 < largest < 2.0 ** -(FRACTION + 1):
        raise ModelError(
            f"the learning rate {largest:g}{', the largest of all steps,' if optimizer.schedule else ''} vanishes in fixed point: a"
            f" gradient of 1 would move a weight by less than half of its last digit, 2^-{FRACTION}; use at least {2.0**-FRACTION:.1e}"
        )
    return found


def changes(optimizer: Optimizer) -> bool:
    """Whether the public factors are others from step to step."""
    return isinstance(optimizer, Adam) or len(set(optimizer.schedule)) > 1


def factor(optimizer: Optimizer, scale: float, number: int = 0) -> tuple[int, int]:
    """What multiplies the gradient (for Adam M / sqrt(V)) in a step: rate * scale as q 2^-s, s the same for all steps.

    Raises:
        ModelError: a learning rate is out of range, see `rates`.
    """
    if isinstance(optimizer, Adam) and not optimizer.schedule:
        shift = _shift(optimizer.rate * scale, ADAM_BITS)
        return round(optimizer.rate * _corrected(optimizer, number) * scale * 2.0**shift), shift
    bits = ADAM_BITS if isinstance(optimizer, Adam) else SCHEDULE_BITS if changes(optimizer) else RATE_BITS
    return _due(optimizer, scale, bits, number, corrected=isinstance(optimizer, Adam))


def _due(optimizer: Optimizer, scale: float, bits: int, number: int, *, corrected: bool = False) -> tuple[int, int]:
    """The rate of a step, times `scale`, as q 2^-s: of one that changes the part that is due, so that small rates do not vanish in sum."""
    found = rates(optimizer)
    shift = _shift(max(found) * scale, bits)
    if len(set(found)) == 1 and not corrected:
        return round(found[0] * scale * 2.0**shift), shift
    sums = _sums(optimizer, 1024 * (1 + max(len(found), number + 1) // 1024), corrected=corrected)
    before, after = (math.floor(sums[count] * scale * 2.0**shift) for count in (number, number + 1))
    return after - before, shift


def _shift(largest: float, bits: int) -> int:
    """By how many bits a number is moved up to have so many before the point; 0 has any."""
    return bits - 1 - (math.floor(math.log2(largest)) if largest else 0)


@lru_cache(maxsize=8)
def _sums(optimizer: Optimizer, steps: int, *, corrected: bool) -> tuple[float, ...]:
    """The sums of the rates of the first 0, 1, ... steps, for Adam with its corrections."""
    found = rates(optimizer)
    each = (found[min(step, len(found) - 1)] for step in range(steps))
    if corrected and isinstance(optimizer, Adam):
        each = (rate * _corrected(optimizer, step) for step, rate in enumerate(each))
    return tuple(accumulate(each, initial=0.0))


def _corrected(optimizer: Adam, number: int) -> float:
    """What makes up for moments that begin at 0."""
    return math.sqrt(1 - optimizer.beta_2 ** (number + 1)) / (1 - optimizer.beta_1 ** (number + 1))


def reach(optimizer: GradientDescent, scale: float, bits: int) -> float:
    """The largest element of a gradient, summed over a batch, for which a step of gradient descent is right: beyond, it may wrap around.

    Args:
        optimizer: how weights are moved.
        scale: as for `update`.
        bits: fractional bits of the gradient.
    """
    return _edges(optimizer, scale, bits)[0] * 2.0**-bits


def _edges(optimizer: GradientDescent, scale: float, bits: int) -> tuple[float, float]:
    """Integers that gradients and velocities must be below: what is rounded is at most 2^62, and half of it is for each of the two."""
    q, shift = factor(optimizer, scale)
    drop = shift + bits - FRACTION
    lift = _lift(optimizer, drop)
    largest = 2.0**SCHEDULE_BITS if changes(optimizer) else float(max(q, 1 << (RATE_BITS - 1)))
    window = 61 if optimizer.momentum else 62
    return 2.0 ** (window - lift) / largest, 2.0 ** (window - drop - lift)


def _lift(optimizer: GradientDescent, drop: int) -> int:
    """How many fractional bits more what multiplies a gradient has, so that enough are dropped: of momentum these are the digits."""
    return max(0, (MOMENTUM_BITS if optimizer.momentum else RATE_BITS) - drop)


def watched(optimizer: GradientDescent, gradients: Gradients, values: dict[str, int], scale: float) -> tuple[list[Watched], list[Watched]]:
    """What a step of gradient descent is right for: gradients, and the velocities among `values`, with what they must be below.

    Args:
        optimizer: how weights are moved.
        gradients: as for `update`.
        values: the velocities by name, as they were before a step, or as they are after it.
        scale: as for `update`.
    """
    edges = {name: _edges(optimizer, scale, bits) for name, (_, bits) in gradients.items()}
    velocities = [Watched(values[f"velocity of {name}"], edge[1]) for name, edge in edges.items() if optimizer.momentum]
    return [Watched(gradient, edges[name][0]) for name, (gradient, _) in gradients.items()], velocities


def update(
    build: Builder, optimizer: Optimizer, gradients: Gradients, values: dict[str, int], scale: float, number: int = 0
) -> dict[str, int]:
    """The new weights and states by name. Rounds: 1, 2 with Nesterov's momentum; 24 for Adam, 27 for AMSGrad.

    Args:
        build: where the operations go.
        optimizer: how.
        gradients: by the name of a weight its gradient, summed over the batch, a share, and how many fractional bits that has.
        values: the weights and states by name; weights and velocities are shares with `FRACTION` fractional bits.
        scale: what turns such a sum into the gradient of the loss: 1 / batch, and what the loss itself is scaled by.
        number: of the step, from 0.
    """
    new: dict[str, int] = {}
    adam = _adam(build, optimizer, gradients, values, scale, number) if isinstance(optimizer, Adam) and gradients else {}
    for name, gradient in gradients.items():
        if isinstance(optimizer, Adam):
            change, states = adam[name]
        else:
            held = {state.removesuffix(f" of {name}"): values[state] for state in optimizer.states({name: ()})}
            change, states = _descent(build, optimizer, gradient, held, scale, number)
        terms: tuple[int, ...] = (values[name], change)
        if optimizer.decay and not (optimizer.biases_exempt and name.startswith("bias")):
            q, shift = _due(optimizer, optimizer.decay, SCHEDULE_BITS, number)
            terms = (*terms, scaled(build, values[name], -q, shift))
        new[name] = build(Combine(terms, (1,) * len(terms)))
        new |= {f"{state} of {name}": value for state, value in states.items()}
    return new


def _descent(
    build: Builder, optimizer: GradientDescent, gradient: tuple[int, int], states: dict[str, int], scale: float, number: int
) -> Change:
    q, shift = factor(optimizer, scale, number)
    drop = shift + gradient[1] - FRACTION
    lift = _lift(optimizer, drop)
    q, drop = q << lift, drop + lift
    if not optimizer.momentum:
        return build(Truncate(build(Combine((gradient[0],), (-q,))), drop, 63 - drop)), {}
    factors = (-q, round(optimizer.momentum * 2**drop))
    velocity = build(Truncate(build(Combine((gradient[0], states["velocity"]), factors)), drop, 63 - drop))
    change = velocity
    if optimizer.nesterov:
        change = build(Truncate(build(Combine((gradient[0], velocity), factors)), drop, 63 - drop))
    return change, {"velocity": velocity}


def _adam(build: Builder, optimizer: Adam, gradients: Gradients, values: dict[str, int], scale: float, number: int) -> dict[str, Change]:
    """The changes of all weights: of one long row, since Adam does the same to each element, whichever weight it belongs to."""
    bits = max(bits for _, bits in gradients.values())
    alike = [at if had == bits else build(Combine((at,), (1 << (bits - had),))) for at, had in gradients.values()]
    kinds = [state.removesuffix(" of ") for state in optimizer.states({"": ()})]
    held = {kind: build(Row(tuple(values[f"{kind} of {name}"] for name in gradients))) for kind in kinds}
    change, states = _adam_of_row(build, optimizer, (build(Row(tuple(alike))), bits), held, scale, number)
    found, start = {}, 0
    for name, (at, _) in gradients.items():
        known = build.value(at)
        pieces = {kind: build(Piece(row, start, known.shape)) for kind, row in states.items()}
        found[name] = build(Piece(change, start, known.shape)), pieces
        start += known.size
    return found


def _adam_of_row(build: Builder, optimizer: Adam, gradient: tuple[int, int], states: dict[str, int], scale: float, number: int) -> Change:
    q, shift = fraction(scale)
    exact = scaled(build, gradient[0], q, shift + gradient[1] - MEAN)
    mean = moved(build, states["mean"], exact, 1 - optimizer.beta_1)
    square = moved(build, states["square"], squared(build, exact), 1 - optimizer.beta_2)
    new = {"mean": mean, "square": square}
    if optimizer.amsgrad:
        new["largest square"] = square = larger(build, square, states["largest square"])
    q, shift = factor(optimizer, 1.0, number)
    drop = shift + QUOTIENT - FRACTION
    return build(Truncate(build(Combine((divided(build, mean, square),), (-q,))), drop, 63 - drop)), new

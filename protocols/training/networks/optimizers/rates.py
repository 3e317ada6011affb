"""Learning rates as public factors: what all optimizers have, and how a rate becomes an integer and a shift.

A learning rate that changes from step to step changes public factors only: what is dealt for a step is the same.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate

import msgspec

from protocols.errors import ModelError
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.optimizers.clipping import Clip

RATE_BITS = 8
"""Significant bits of a constant learning rate: it is rounded by at most 0.2 %."""

SCHEDULE_BITS = 11
"""Significant bits of the largest rate of a schedule: each step is right to 0.1 % of the largest, and sums of steps to as much of one.

A sum of gradients over a batch is multiplied by so many bits: it is right below 2^(30 - bits), which is 2^19 here, and 2^22 for a constant
rate, and half of that beside a velocity, see `descent.reach`. That is the sum over examples of a feature (or activation) times the error
of an output.
"""

LARGEST_RATE = 64

Shapes = dict[str, tuple[int, ...]]
Gradients = dict[str, tuple[int, int]]
Change = tuple[int, dict[str, int]]
"""What is added to a weight, and the new states by kind."""


class _Paced(msgspec.Struct, frozen=True, tag=True):
    rate: float = 0.001


class Rated(_Paced, frozen=True, kw_only=True):
    """What all optimizers have.

    Attributes:
        rate: the learning rate, from 0.
        decay: W <- W - rate decay W beside each update; 0 for none.
        exempt: the names of weights that do not decay.
        schedule: the rate of each step from the first, the last one for all that follow; empty if the rate is constant.
        clip: how gradients are clipped before they move anything.
        gathered: of how many steps the mean of gradients makes one update, see `gathering.py`.
        average: of the average of each weight in the next; None if no averages are kept, see `averages.py`.
        overwriting: after how many steps each the averages take the place of the weights; 0 for never.
    """

    decay: float = 0.0
    exempt: tuple[str, ...] = ()
    schedule: tuple[float, ...] = ()
    clip: Clip | None = None
    gathered: int = 1
    average: float | None = None
    overwriting: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is kept beside each weight."""
        return ()

    def states(self, shapes: Shapes) -> Shapes:
        """Return the shape of what is kept beside each weight, by name; it begins at zero."""
        more = ("gathered",) * (self.gathered > 1) + ("average",) * (self.average is not None)
        return {f"{kind} of {name}": shape for kind in (*self.kinds, *more) for name, shape in shapes.items()}

    @property
    def exact(self) -> bool:
        """Whether gradients are needed as they are, with `moments.MEAN` fractional bits, and not only times the rate."""
        return self.clip is not None or self.gathered > 1

    @property
    def significant(self) -> int:
        """Significant bits of the rate."""
        return SCHEDULE_BITS if changes(self) else RATE_BITS

    @property
    def corrects(self) -> bool:
        """Whether a public factor beside the rate depends on the step."""
        return False

    def correction(self, number: int) -> float:
        """Return what the rate is multiplied by in a step that is counted from 0."""
        return 1.0

    def counted(self, number: int) -> int:
        """How many updates have been made before a step."""
        return number // self.gathered

    def updates(self, number: int) -> bool:
        """Whether a step moves weights."""
        return (number + 1) % self.gathered == 0


def rates(optimizer: Rated) -> tuple[float, ...]:
    """Return the learning rate of each step, the last one for all that follow; of 0 a step moves nothing but what moves by itself.

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


def changes(optimizer: Rated) -> bool:
    """Whether the public factors are others from step to step."""
    several = optimizer.gathered > 1 or optimizer.average is not None
    return optimizer.corrects or several or len(set(optimizer.schedule)) > 1


def factor(optimizer: Rated, scale: float, number: int = 0) -> tuple[int, int]:
    """Return what multiplies the gradient, or its quotient, in a step: rate * scale as q 2^-s, s the same for all steps.

    Raises:
        ModelError: a learning rate is out of range, see `rates`.
    """
    if optimizer.corrects and not optimizer.schedule:
        shift = shift_of(optimizer.rate * scale, optimizer.significant)
        return round(optimizer.rate * optimizer.correction(optimizer.counted(number)) * scale * 2.0**shift), shift
    return due(optimizer, scale, optimizer.significant, number, corrected=optimizer.corrects)


def due(optimizer: Rated, scale: float, bits: int, number: int, *, corrected: bool = False) -> tuple[int, int]:
    """Return the rate of a step, times `scale`, as q 2^-s: if it changes the part that is due, so that small rates do not vanish in sum."""
    found = rates(optimizer)
    shift = shift_of(max(found) * scale, bits)
    if len(set(found)) == 1 and not corrected:
        return round(found[0] * scale * 2.0**shift), shift
    sums = _sums(optimizer, 1024 * (1 + max(len(found), number + 1) // 1024), corrected=corrected)
    before, after = (math.floor(sums[count] * scale * 2.0**shift) for count in (number, number + 1))
    return after - before, shift


def shift_of(largest: float, bits: int) -> int:
    """By how many bits a number is moved up to have so many before the point; 0 has any."""
    return bits - 1 - (math.floor(math.log2(largest)) if largest else 0)


@lru_cache(maxsize=8)
def _sums(optimizer: Rated, steps: int, *, corrected: bool) -> tuple[float, ...]:
    """Return the sums of the rates of the first 0, 1, ... steps, with corrections if they are asked for."""
    found = rates(optimizer)
    each = (found[min(step, len(found) - 1)] for step in range(steps))
    if corrected:
        each = (rate * optimizer.correction(optimizer.counted(step)) for step, rate in enumerate(each))
    return tuple(accumulate(each, initial=0.0))

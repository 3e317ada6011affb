"""Writes the program of a network whose weights nobody knows: windows are assumed, and looked at while the program runs.

Windows are those in which the network was trained (`training/networks/draft.py`); no weight tells whether a number stays in them. So each
number that is not proved to is compared on shares, all of its elements (`lowering/scales/checking.py`). A client learns one bit of each
input: whether something has left its window, and the answer means nothing. **If the bit is 0 every number is right**, by induction over
the operations as it is told there. Proofs begin with how large weights are at most, which is found out on shares when they are placed; of
some functions they are of the function as a whole, for what it reads within its windows (`StepDraft.proved`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from protocols.errors import WindowError
from protocols.lowering.nodes import network as net
from protocols.lowering.scales.checking import RING_BITS, CheckedWriter
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.values import RangedValue
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.values import Shape
from protocols.mpc.engine.values import Value as Known
from protocols.mpc.inputs.ranges import Ranges
from protocols.mpc.operations import AnyOp
from protocols.mpc.operations.bilinear import Convolve, MatMul
from protocols.mpc.operations.moves import Reshape, Take
from protocols.mpc.operations.multiplication import Multiply
from protocols.mpc.operations.sign import Sign
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.weights import Shift
from protocols.trained.bounds import reach, window
from protocols.training.networks.functions import FRACTION

FACTOR = 2.0**30
"""The most that a factor of a product is allowed where the product could leave the ring."""


class AssumedWriter(CheckedWriter):
    """Writes operations of a circuit on a batch of one example as operations of a program on each example, axis for axis.

    Values keep the scale 1: a circuit says itself how many fractional bits they have.

    Args:
        node: what errors call the network.
        example: the shape of an input.
        input_range: see `Program`.
        ranges: of each feature, with the units of `input_range`.
        clamp: servers enforce the input range, for all answers.
        watching: whether what is assumed is looked at. Noisy answers cannot tell a bit without noise.
        memory: see `Draft`.
    """

    def __init__(
        self,
        node: net.Node,
        example: Shape,
        input_range: tuple[float, float],
        *,
        ranges: Ranges | None,
        clamp: bool,
        watching: bool,
        memory: int,
    ) -> None:
        super().__init__(example, input_range, None, 1.0, clamp=clamp, ranges=ranges, scale=2.0**-FRACTION, memory=memory)
        self.node, self._watching = node, watching
        self._assumed: dict[int, RangedValue] = {}

    def check(self, x: RangedValue, bounds: Interval) -> None:
        """Compare with the ends of `bounds`, unless nobody may be told."""
        if self._watching:
            super().check(x, bounds)

    def assumed(self, x: RangedValue, limit: float) -> RangedValue:
        """Return the value within +-`limit`: by proof, or as is looked at from here on, once."""
        x = self._assumed.get(x.position, x)
        if x.range.largest <= limit:
            return x
        held = dataclasses.replace(x, range=x.range.clipped(limit))
        self.check(x, held.range)
        self._assumed[x.position] = held
        return held

    def above(self, x: RangedValue, least: float) -> None:
        """Have it looked at that a value is at least `least`."""
        self.check(x, dataclasses.replace(x.range, low=np.full(x.shape, least)))

    def given(self, shape: Shape) -> RangedValue:
        """Return the input of the client with the axes that the circuit has for it."""
        return self.shaped(shape, dataclasses.replace(self.input, scale=1.0))

    def written(
        self, op: Operation, xs: Sequence[RangedValue], known: Sequence[Known], large: Sequence[float], most: float = math.inf
    ) -> RangedValue:
        """Append an operation, with what it reads within its windows.

        Args:
            op: the operation, with operands of the circuit.
            xs: what it reads.
            known: of these, in the circuit.
            large: how large these are assumed to be where the value is not proved to stay in the ring otherwise.
            most: how large what it gives is proved to be.

        Raises:
            WindowError: the value is not proved to stay in the ring.
            UnsupportedLayer: nothing is known of how large it can be.
        """
        held = [self.assumed(x, window(op, of)) for x, of in zip(xs, known, strict=True)]
        largest = min(most, reach(op, known, [x.range.largest for x in held]))
        if largest > 2.0**RING_BITS:
            held = [self.assumed(x, limit) for x, limit in zip(held, large, strict=True)]
            largest = min(most, reach(op, known, [x.range.largest for x in held]))
        if largest > 2.0**RING_BITS and len(held) == 2 and isinstance(op, MatMul | Convolve | Multiply):
            held = [self.assumed(x, FACTOR) for x in held]
            largest = min(most, reach(op, known, [x.range.largest for x in held]))
        return self.appended(op.on([self._fit(op, x).position for x in held]), largest)

    def _fit(self, op: Operation, x: RangedValue) -> RangedValue:
        """Return an operand in the form that an operation needs: a share, to which a weight has been added, is opened."""
        return self.wire(x) if x.kind == "share" and isinstance(op, MatMul | Convolve | Multiply | Sign) else x

    def limited(self, x: RangedValue) -> RangedValue:
        """Return a value of a function of predictions as other values are: on the scale 1, within its largest."""
        return dataclasses.replace(x, scale=1.0, range=_within(x.shape, x.range.largest))

    def appended(self, op: AnyOp, largest: float) -> RangedValue:
        """Append an operation of the program whose value stays within +-`largest`."""
        made = self.put(op, 1.0, _within((), largest))
        return dataclasses.replace(made, range=_within(self._scope.values[made.position].shape, largest))

    def reaching(self, x: RangedValue, largest: float) -> RangedValue:
        """Return the value, which stays within +-`largest`.

        Raises:
            WindowError: that is not proved to stay in the ring.
        """
        self.inside(largest, 1.0)
        return dataclasses.replace(x, range=_within(x.shape, largest))

    def lifted(self, weight: int, shape: Shape, largest: float) -> RangedValue:
        """Write a weight as a value that is there for each example: zeros, and the weight added."""
        size = int(np.prod(shape))
        zeros = self.appended(Reshape(self.input.position, (int(np.prod(self.input.shape)),)), self.input.range.largest)
        zeros = self.appended(Take(zeros.position, 0, (0,) * size), self.input.range.largest)
        zeros = self.appended(Combine((zeros.position,), (0,)), 0.0)
        zeros = self.appended(Reshape(zeros.position, shape), 0.0)
        return self.appended(Shift(zeros.position, weight), largest)


def _within(shape: Shape, largest: float) -> Interval:
    ends = np.full(shape, float(largest))
    return Interval(-ends, ends, np.zeros((0, *shape)))


def too_large(error: WindowError) -> WindowError:
    """Return an error that says what to do where no weights are small enough."""
    return WindowError(f"{error}; or reveal() the model, and share what is revealed, whose windows are proved from its weights")

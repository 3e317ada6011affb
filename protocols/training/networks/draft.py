"""A step while it is written: a circuit whose values have fractional bits, forward and back.

Scales are a policy. The owner of a model that is predicted proves windows from its weights (`lowering/scales`); of a model that is trained
nobody knows the weights. So windows are assumed: weights, activations and gradients have `FRACTION` fractional bits, activations lie within
+-2^(WINDOW - 1 - FRACTION), and `window.py` watches them. Gradients are rounded in the widest window that there is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from protocols.mpc.circuit import Builder, Circuit
from protocols.mpc.engine.gradients import Rule, gradients
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Scope
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.local import Local
from protocols.mpc.operations.moves import Put, Reshape
from protocols.mpc.operations.sums import Combine
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import Open
from protocols.training.networks.functions import FRACTION, WINDOW

MOST = 3 * FRACTION
"""Fractional bits of an activation or a gradient, at most: it lies within +-2^(62 - MOST)."""


class Signal(NamedTuple):
    """A value: where it is, and its fractional bits."""

    at: int
    bits: int = FRACTION


class StepDraft(Builder, Tape):
    """A circuit while it is written. What is put with its fractional bits is there once, however often it is put.

    Args:
        predicts: whether nodes are written as Keras computes them in `predict`, and not in a step of `fit`.

    Attributes:
        predicts: the same.
        own: rules for gradients that take the place of those of operations.
        reads: values that are functions of these, written as many operations: their own rule is that of the function.
        spread: values of which no two along the last axis may be further apart than a softmax allows, see `window.py`.
        hiding: scores among which there are some that are masked; those of which they are made are watched.
        moved: new values, by name, of numbers that are kept beside weights and follow what a step sees.
        strange: shares of counts that are 0 where all numbers are what they should be, such as indices of a table.
        within: how large values may be that functions read, where operations of these ask for less: absolute values, as integers.
        least: how large values are at least that functions read: the same.
        proved: how large values are that functions write, where that does not follow from operations one by one: the same. It holds where
            what they read is within its windows, and nothing is strange.
        softmaxes: values that are the softmax of these, row by row, written as many operations.
        penalised: values of which penalties are added to the loss, with l1 and l2, once for each call; see `activity.py`.
    """

    def __init__(self, *, predicts: bool = False) -> None:
        super().__init__()
        self.predicts = predicts
        self._at: dict[tuple[Operation, int], int] = {}
        self._bits: dict[int, int] = {}
        self.own: dict[int, Rule] = {}
        self.reads: dict[int, tuple[int, ...]] = {}
        self.spread: list[Signal] = []
        self.hiding: set[int] = set()
        self.moved: dict[str, int] = {}
        self.strange: list[int] = []
        self.within: dict[int, float] = {}
        self.least: dict[int, float] = {}
        self.proved: dict[int, float] = {}
        self.softmaxes: dict[int, int] = {}
        self.penalised: list[tuple[int, float, float]] = []

    def put(self, op: msgspec.Struct, bits: int = FRACTION) -> int:
        """As the tape says."""
        assert isinstance(op, Operation)  # the engine knows operations as such
        at = self._at.get((op, bits))
        if at is None:
            at = self._at[op, bits] = self(op)
            self._bits[at] = bits
        return at

    def _is_open(self, x: int) -> bool:
        return self.value(x).kind == "wire" or (Open(x), self._bits[x]) in self._at

    def bits(self, position: int) -> int:
        """As the tape says."""
        return self._bits[position]

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What has been written so far."""
        return tuple(self._ops)

    def operation(self, position: int) -> Operation:
        """Return what has been written at a position."""
        return self._ops[position]

    def say(self, position: int, bits: int) -> None:
        """Say how many fractional bits a value has that functions have written."""
        self._bits[position] = bits

    @property
    def inside(self) -> dict[str, Any]:
        """What has to be watched beside activations, as `outside` takes it."""
        return {"scores": self.spread, "strange": self.strange}

    # Rounding.

    def rounded(self, x: int, window: int | None = WINDOW) -> int:
        """Return a value with `FRACTION` fractional bits. Rounds: 0 or 1. None stands for the widest window."""
        drop = self._bits[x] - FRACTION
        if drop < 0:
            return self.put(Combine((x,), (1 << -drop,)))
        return self.put(Truncate(x, drop, 63 - drop if window is None else window)) if drop else x

    def affine(self, x: int, window: int | None = WINDOW) -> int:
        """Return a value that is affine, with `FRACTION` fractional bits. Rounds: 0 or 1."""
        x = self.rounded(x, window)
        return x if self.value(x).kind != "share" else self.opened(x)

    def opened(self, x: int, window: int | None = WINDOW) -> int:
        """Return a value as a wire, with `FRACTION` fractional bits. Rounds: 0 to 2.

        A linear function of values is opened by opening these, where they have fewer elements that are not open yet.
        """
        return self.masked(self.rounded(x, window))

    def masked(self, x: int) -> int:
        """Return a value as a wire, with the fractional bits that it has. Rounds: 0 or 1."""
        return self._open(x, self._leaves(x, {}))

    def wire(self, gradient: int) -> int:
        """As the tape says."""
        return self.opened(gradient, None)

    def factor(self, gradient: int) -> int:
        """As the tape says."""
        return self.affine(gradient, None)

    def _leaves(self, x: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
        """Return what has to be opened for `x` to be a wire."""
        if x not in known:
            op = self._ops[x]
            if self._is_open(x):
                known[x] = frozenset()
            elif isinstance(op, Local):
                below = frozenset[int]().union(*(self._leaves(operand, known) for operand in op.operands))
                fewer = sum(self.value(leaf).size for leaf in below) <= self.value(x).size
                known[x] = below if fewer else frozenset((x,))
            else:
                known[x] = frozenset((x,))
        return known[x]

    def _open(self, x: int, leaves: frozenset[int]) -> int:
        if self.value(x).kind == "wire":
            return x
        op = self._ops[x]
        if x in leaves or self._is_open(x) or not isinstance(op, Local):
            return self.put(Open(x), self._bits[x])
        return self.put(op.on([self._open(operand, leaves) for operand in op.operands]), self._bits[x])

    # What rules for gradients are made of.

    def room(self, gradient: int, bits: int) -> int:
        """As the tape says."""
        return gradient if self._bits[gradient] + bits <= MOST else self.factor(gradient)

    def times(self, gradient: int, factor: int, shift: int) -> int:
        """As the tape says."""
        even = (factor & -factor).bit_length() - 1
        factor, shift = factor >> even, shift - even
        if (factor, shift) == (1, 0):
            return gradient
        gradient = self.room(gradient, shift)
        return self.put(Combine((gradient,), (factor,)), self._bits[gradient] + shift)

    def total(self, gradients: Sequence[int]) -> int:
        """As the tape says: slices that are put beside each other are put once, and signs are those of the sum."""
        if len(gradients) == 1:
            return gradients[0]
        slices: dict[tuple[int, int, int, Shape], list[Put]] = defaultdict(list)
        terms: list[tuple[int, int]] = []
        for gradient in gradients:
            op = self._ops[gradient]
            if isinstance(op, Put):
                slices[op.axis, op.length, self._bits[gradient], self.value(op.xs[0]).shape].append(op)
            elif isinstance(op, Combine) and op.factors == (-1,) and not op.constant and self._bits[op.xs[0]] == self._bits[gradient]:
                terms.append((op.xs[0], -1))
            else:
                terms.append((gradient, 1))
        for (axis, length, bits, _), ops in slices.items():
            xs, places = tuple(x for op in ops for x in op.xs), tuple(at for op in ops for at in op.places)
            terms.append((self.put(Put(xs, axis, places, length), bits), 1))
        if len(terms) == 1 and terms[0][1] == 1:
            return terms[0][0]
        settled = [(self._settled(x), factor) for x, factor in terms]
        if all(self._bits[x] == FRACTION for x, _ in settled):
            terms = settled
        most = max(self._bits[x] for x, _ in terms)
        factors = tuple(factor << (most - self._bits[x]) for x, factor in terms)
        return self.put(Combine(tuple(x for x, _ in terms), factors), most)

    def _settled(self, gradient: int) -> int:
        """Return a gradient as it has been rounded and opened already, as far as it has."""
        drop = self._bits[gradient] - FRACTION
        if drop > 0:
            gradient = self._at.get((Truncate(gradient, drop, 63 - drop), FRACTION), gradient)
        return self._at.get((Open(gradient), self._bits[gradient]), gradient)

    def gradients(self, known: Mapping[int, int], wanted: Collection[int]) -> dict[int, int]:
        """Write the gradients by the `wanted` values from those by the `known` ones."""
        return gradients(self, self._ops, known, wanted, self.own, self.reads)

    def copy(self) -> StepDraft:
        """Return a draft with what has been written so far, to go on in one way or another."""
        draft = StepDraft(predicts=self.predicts)
        draft._ops, draft._scope = list(self._ops), Scope(list(self._scope.values))
        draft._at, draft._bits, draft.penalised = dict(self._at), dict(self._bits), list(self.penalised)
        return draft

    def circuit(self, outputs: dict[str, int], wires: Mapping[str, int] | None = None) -> Circuit:
        """Return the finished circuit, without what no output needs, and none of the `wires` that are kept."""
        found, _ = self.pruned(outputs | dict(wires or {}))
        return Circuit(
            found.ops, found.values, {name: found.outputs[name] for name in outputs}, {name: found.outputs[name] for name in wires or {}}
        )

    def pruned(self, outputs: dict[str, int], whole: Mapping[int, int] | None = None) -> tuple[Circuit, list[int]]:
        """Return the same, and where each of its values stands here. What is `whole` stands there as its operand, reshaped."""
        written = list(self._ops)
        for at, x in (whole or {}).items():
            written[at] = Reshape(x, self.value(at).shape)
        needed, waiting = set(outputs.values()), list(outputs.values())
        while waiting:
            missing = set(written[waiting.pop()].operands) - needed
            needed |= missing
            waiting += missing
        order = sorted(needed)
        moved = {position: place for place, position in enumerate(order)}
        ops = tuple(written[at].on([moved[x] for x in written[at].operands]) for at in order)
        return Circuit(ops, tuple(self.value(at) for at in order), {name: moved[at] for name, at in outputs.items()}), order

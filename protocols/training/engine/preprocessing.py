"""The randomness of one step: what each operation needs, and the crypto provider's half of it.

An affine value x = a - R + kappa h has the secret parts R and h (some have one of them only). A product of two affine values is linear in
shares of the products of their parts, which the provider deals: that is all a multiplication needs.

The provider knows every mask and no masked value: nothing here depends on a weight, an example or a label.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from protocols.errors import SharingError
from protocols.mpc import program
from protocols.mpc.operations import argmax, comparison, conjunction, piecewise
from protocols.mpc.operations.conjunction import unpack
from protocols.mpc.operations.instructions import Argmax, Shape
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KEY_BYTES, KeyStream, derive
from protocols.mpc.parties.material import Field, Layout, Material, packed
from protocols.training.engine.circuit import (
    AnyOp,
    Circuit,
    Combine,
    Convolve,
    Given,
    InputGradient,
    KernelGradient,
    Largest,
    MatMul,
    Multiply,
    Open,
    Piecewise,
    Put,
    Reshape,
    Sign,
    Sum,
    Take,
    Truncate,
    Value,
    compared,
    infer,
    operands,
)
from protocols.training.engine.linear import apply
from protocols.training.engine.products import product

Part = Literal["R", "h"]
Parts = dict[Part, Ring]


def parts(op: AnyOp) -> tuple[Part, ...]:
    """The secret parts of the affine value that an operation makes."""
    match op:
        case Truncate():
            return ("R", "h")
        case Sign() | Largest():
            return ("h",)
        case _:  # a wire
            return ("R",)


def products(circuit: Circuit, op: Multiply) -> list[tuple[Part, Part]]:
    """The pairs of parts whose products are dealt for a multiplication. Those of a square are symmetric, and h h = h is there already."""
    first, second = parts(circuit.ops[op.x]), parts(circuit.ops[op.y])
    if op.x != op.y:
        return list(itertools.product(first, second))
    return [pair for pair in itertools.combinations_with_replacement(first, 2) if pair != ("h", "h")]


def inner(op: Largest) -> Argmax:
    """The arg max of `protocols.mpc.operations.argmax` that this operation runs, exact."""
    return Argmax(0, 0, op.window)


def inner_pieces(op: Piecewise) -> program.Piecewise:
    """The function of `protocols.mpc.operations.piecewise` that this operation computes."""
    return program.Piecewise(0, op.drop, op.window, op.knots, op.slopes, op.offsets)


def as_rows(x: Ring) -> Ring:
    """An array as the matrix in which it is compared."""
    return x.reshape(_matrix(Value(x.shape, "share")))


@lru_cache(maxsize=64)
def signs(rows: int, columns: int) -> Ring:
    """Public signs, 1 or -1 modulo 2^64, the same at both servers."""
    bits = KeyStream(bytes(KEY_BYTES)).words((rows, columns)) >> np.uint64(63)
    return np.uint64(1) - np.uint64(2) * bits


WORD = 64
"""Bits of a row are packed into words."""


class StepLayout:
    """Where the randomness of a step lies. Each field is (rows, words a row)."""

    def __init__(self, circuit: Circuit) -> None:
        values = infer(circuit)
        entries = [(at, rows, entry) for at in range(len(values)) for rows, entry in _fields(circuit, at, values)]
        self._plan = Layout((at, Field(entry.name, rows * entry.words, entry.dealt)) for at, rows, entry in entries)
        self._rows = {(at, entry.name): rows for at, rows, entry in entries}
        self.own, self.dealt = self._plan.own, self._plan.dealt

    @property
    def bytes(self) -> int:
        """Memory that one party needs for the randomness of a step."""
        return self._plan.bytes_per_example

    def views(self, own: Ring, dealt: Ring) -> dict[tuple[int, str], Ring]:
        """The fields (rows, words) of two flat arrays."""
        views = self._plan.views(own, dealt, 1)
        return {key: view.reshape(self._rows[key], -1) for key, view in views.items()}


def _fields(circuit: Circuit, position: int, values: list[Value]) -> Iterator[tuple[int, Field]]:
    op, value = circuit.ops[position], values[position]
    match op:
        case Open():
            yield 1, Field("lambda", value.size)
        case Truncate():
            yield 1, Field("r", value.size)
            yield 1, Field("R", value.size, dealt=True)
            yield 1, Field("h", value.size, dealt=True)
        case Sign():
            _, window = compared(circuit.ops, op)
            rows, columns = _matrix(value)
            entries = [Field("rho", packed(columns)), Field("h", columns, dealt=True), *comparison.fields(columns, window)]
            yield from ((rows, entry) for entry in entries)
        case Largest():
            rows, columns = value.shape
            entries = [Field("rho", packed(columns)), Field("h", columns, dealt=True), *argmax.fields(inner(op), columns)]
            yield from ((rows, entry) for entry in entries)
        case Piecewise():
            rows, columns = _matrix(value)
            yield from ((rows, entry) for entry in piecewise.fields(inner_pieces(op), columns))
        case Multiply():
            yield from ((1, Field(f"{a}{b}", value.size, dealt=True)) for a, b in products(circuit, op))
        case MatMul() | Convolve() | KernelGradient() | InputGradient():
            yield 1, Field("gamma", value.size, dealt=True)
        case _:
            return


def _matrix(value: Value) -> Shape:
    """Rows and columns of a value as a matrix: a row for each example, or one for all where that is shorter than a word of bits."""
    columns = value.size // value.shape[0]
    return (value.shape[0], columns) if columns >= WORD else (1, value.size)


@dataclass(frozen=True)
class StepMaterial:
    """One server's half of the randomness of one step. Used once, then forgotten."""

    fields: dict[tuple[int, str], Ring] = field(repr=False)

    @classmethod
    def of(cls, layout: StepLayout, key: bytes, dealt: Ring | None) -> StepMaterial:
        """Expanded from this server's key of the step; `dealt` is what the provider sent to server 1, None at server 0.

        Raises:
            SharingError: another number of words was dealt than the step needs.
        """
        if dealt is None:
            dealt = _dealt(layout, key)
        elif dealt.shape != (layout.dealt,):
            raise SharingError(f"{dealt.size} words were dealt for a step, {layout.dealt} are needed")
        return cls(layout.views(_own(layout, key), dealt))

    def __call__(self, position: int, name: str) -> Ring:
        """The field `name` of the operation at `position`."""
        return self.fields[position, name]

    def rows(self, count: int) -> Material:
        """The same for the protocols of prediction, which work on rows."""
        return Material(self.fields, 0, count)


def _own(layout: StepLayout, key: bytes) -> Ring:
    return KeyStream(derive(key, "own")).words(layout.own)


def _dealt(layout: StepLayout, key: bytes) -> Ring:
    return KeyStream(derive(key, "dealt")).words(layout.dealt)


def deal(circuit: Circuit, layout: StepLayout, masks: Mapping[str, Ring], keys: tuple[bytes, bytes]) -> Ring:
    """The crypto provider's mathematics: server 1's half of everything that is dealt for a step, flat.

    Args:
        circuit: the step.
        layout: of that circuit.
        masks: lambda of every wire that is given, both halves added, by name.
        keys: the servers' keys of this step, never used for another.
    """
    dealing = _Dealing(circuit, layout, masks, keys)
    for position in range(len(circuit.ops)):
        dealing.deal(position)
    return dealing.dealt


class _Dealing:
    """Both servers' halves of a step, as only the provider sees them."""

    def __init__(self, circuit: Circuit, layout: StepLayout, masks: Mapping[str, Ring], keys: tuple[bytes, bytes]) -> None:
        self._circuit, self._masks, self._values = circuit, masks, infer(circuit)
        self.dealt = _dealt(layout, keys[0])
        self._first = layout.views(_own(layout, keys[0]), self.dealt)
        self._second = layout.views(_own(layout, keys[1]), self.dealt)
        self._parts: dict[int, Parts] = {}

    def _sum(self, position: int, name: str) -> Ring:
        return self._first[position, name] + self._second[position, name]

    def _xor(self, position: int, name: str) -> Ring:
        return self._first[position, name] ^ self._second[position, name]

    def _give(self, position: int, name: str, secret: Ring) -> None:
        """Turns server 0's key stream in place into server 1's share of `secret`."""
        share = self._first[position, name]
        np.subtract(secret.reshape(share.shape), share, out=share)

    def deal(self, position: int) -> None:
        """What one operation needs; remembers the secret parts of its value."""
        op, shape = self._circuit.ops[position], self._values[position].shape
        match op:
            case Given(name, _, "wire"):
                self._parts[position] = {"R": self._masks[name]}
            case Open():
                self._parts[position] = {"R": self._sum(position, "lambda").reshape(shape)}
            case Truncate(_, drop):
                r = self._sum(position, "r").reshape(shape)
                self._known(position, {"R": r >> np.uint64(drop), "h": r >> np.uint64(63)})
            case Sign(x):
                drop, window = compared(self._circuit.ops, op)
                r = self._sum(x, "r") if isinstance(self._circuit.ops[x], Truncate) else self._parts[x]["R"]
                rows, columns = _matrix(self._values[position])
                self._deal_comparison(position, r.reshape(rows, columns), drop, window)
                self._deal_bits(position, columns)
            case Largest(_, window):
                self._deal_comparison(position, self._sum(position, "r"), 0, window)
                for level, (groups, fan_in) in enumerate(argmax.levels(shape[1])):
                    dealt = self._first[position, f"and_products{level}"]
                    conjunction.deal(self._xor(position, f"and_mu{level}"), dealt, groups=groups, fan_in=fan_in)
                self._deal_bits(position, shape[1])
            case Piecewise(_, drop, window, knots):
                r, mask, choice = self._sum(position, "r"), self._first[position, "mask"], self._first[position, "choice"]
                piecewise.deal(inner_pieces(op), r, self._xor(position, "rho"), mask, choice)
                self._deal_comparison(position, piecewise.repeated(r, len(knots)), drop, window)
            case Multiply(x, y):
                for a, b in products(self._circuit, op):
                    self._give(position, f"{a}{b}", self._parts[x][a] * self._parts[y][b])
            case MatMul(x, y) | Convolve(x, y) | KernelGradient(x, y) | InputGradient(x, y):
                self._give(position, "gamma", product(op, self._parts[x]["R"], self._parts[y]["R"]))
            case Reshape() | Take() | Put() | Combine() | Sum():
                if self._values[position].kind == "wire":
                    masks = [self._parts[x]["R"] for x in operands(op)]
                    self._parts[position] = {"R": apply(op, masks, shape, constant=False)}
            case _:
                return

    def _known(self, position: int, secret: Parts) -> None:
        self._parts[position] = secret
        for name, value in secret.items():
            self._give(position, name, value)

    def _deal_comparison(self, position: int, r: Ring, drop: int, window: int) -> None:
        bits, node = self._first[position, "bits"], self._first[position, "node"]
        comparison.deal(r, self._xor(position, "mu"), bits, node, drop=drop, window=window)

    def _deal_bits(self, position: int, columns: int) -> None:
        bits = unpack(self._xor(position, "rho"), columns).astype(np.uint64)
        self._known(position, {"h": bits.reshape(self._values[position].shape)})

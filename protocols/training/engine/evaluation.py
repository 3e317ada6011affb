"""One server's part in one step of training (ABY2.0, ePrint 2020/1225, section 3; Turbospeedz, 2019/080, for two secret operands).

With x = a - R + kappa h and y = b - S + eta g, where a, kappa, b, eta are known to both servers:

    x y = a b - a [S] + a eta [g] - b [R] + b kappa [h] + [R S] - eta [R g] - kappa [h S] + kappa eta [h g],

linear in shares that each server has. Two wires multiply as matrices and convolutions by the same formula without its terms in h and g.
The mask of a wire serves all of its products of a step: only the products of masks are dealt anew.

Adversary: semi-honest, no two parties collude. **Leaks** nothing: all that is opened is masked by fresh uniform values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protocols.mpc.numbers import ring
from protocols.mpc.operations import argmax, comparison, piecewise
from protocols.mpc.operations.conjunction import unpack
from protocols.mpc.operations.instructions import Shape
from protocols.mpc.parties.exchange import Party, Protocol, Ring, as_ready, open_bits, open_sum
from protocols.training.engine.circuit import (
    Bilinear,
    Circuit,
    Combine,
    Convolve,
    Given,
    InputGradient,
    KernelGradient,
    Largest,
    Linear,
    MatMul,
    Multiply,
    Open,
    Piecewise,
    Project,
    Put,
    Reshape,
    Sign,
    Sum,
    Take,
    Truncate,
    compared,
    infer,
    operands,
)
from protocols.training.engine.linear import apply
from protocols.training.engine.preprocessing import Part, Parts, StepMaterial, as_rows, inner, inner_pieces, products, signs
from protocols.training.engine.products import product

_MINUS_ONE: Ring = np.full(1, 2**64 - 1, np.uint64)
INTERACTIVE = (Open, Truncate, Sign, Largest, Piecewise)


@dataclass(frozen=True)
class Affine:
    """x = a - R + kappa h at one server.

    Attributes:
        a: known to both servers.
        parts: this server's shares of R and h, where the value has them.
        kappa: known to both; None without h.
        c: for what truncation gives, the opened value that it came from.
    """

    a: Ring = field(repr=False)
    parts: Parts = field(repr=False)
    kappa: Ring | None = field(default=None, repr=False)
    c: Ring | None = field(default=None, repr=False)

    def factor(self, part: Part) -> Ring:
        """What multiplies a secret part in x."""
        if part == "R":
            return _MINUS_ONE
        assert self.kappa is not None
        return self.kappa

    def share(self, me: Party) -> Ring:
        """This server's share of x."""
        total = self.a.copy() if me.index == 0 else np.zeros_like(self.a)
        for part, value in self.parts.items():
            _add_scaled(total, self, part, value)
        return total


def _add_scaled(total: Ring, x: Affine, part: Part, value: Ring) -> None:
    """Adds what a secret part of `x` is multiplied by in x, times `value`."""
    if part == "R":
        total -= value
    else:
        total += x.factor(part) * value


async def evaluate(me: Party, circuit: Circuit, material: StepMaterial, given: Mapping[str, Affine | Ring]) -> dict[str, Ring]:
    """This server's shares of the outputs of a step; consumes the material.

    Each operation begins as soon as its operands are there, in a round with others.

    Args:
        me: which server.
        circuit: the step.
        material: this server's half of its randomness.
        given: for every `Given` of the circuit by name, a wire or this server's share.
    """
    run = _Run(me, circuit, material, given)
    users: list[list[int]] = [[] for _ in circuit.ops]
    missing = [len(set(operands(op))) for op in circuit.ops]
    for position, op in enumerate(circuit.ops):
        for x in set(operands(op)):
            users[x].append(position)
    possible = [position for position, count in enumerate(missing) if count == 0]

    def done(position: int, value: Affine | Ring) -> None:
        run.values[position] = value
        for user in users[position]:
            missing[user] -= 1
            if missing[user] == 0:
                possible.append(user)

    def ready() -> dict[int, Protocol[Affine | Ring]]:
        begun: dict[int, Protocol[Affine | Ring]] = {}
        while possible:
            position = possible.pop()
            if isinstance(circuit.ops[position], INTERACTIVE):
                begun[position] = run.interactive(position)
            else:
                done(position, run.alone(position))
        return begun

    await as_ready(ready, done)
    return {name: run.share(position) for name, position in circuit.outputs.items()}


class _Run:
    """The values of one step at one server: affine ones (wires included) or shares."""

    def __init__(self, me: Party, circuit: Circuit, material: StepMaterial, given: Mapping[str, Affine | Ring]) -> None:
        self._me, self._circuit, self._material, self._given = me, circuit, material, given
        values = infer(circuit)
        self._shapes, self._kinds = [value.shape for value in values], [value.kind for value in values]
        self.values: dict[int, Affine | Ring] = {}

    def share(self, position: int) -> Ring:
        value = self.values[position]
        return value.share(self._me) if isinstance(value, Affine) else value

    def _affine(self, position: int) -> Affine:
        value = self.values[position]
        assert isinstance(value, Affine)  # `infer` has checked it
        return value

    def alone(self, position: int) -> Affine | Ring:
        """An operation without communication."""
        op = self._circuit.ops[position]
        match op:
            case Given(name):
                return self._given[name]
            case Multiply():
                return self._product(op, position)
            case MatMul() | Convolve() | KernelGradient() | InputGradient():
                return self._bilinear(op, position)
            case Reshape() | Take() | Put() | Combine() | Sum():
                return self._linear(op, position)
            case Project(x, count, row):
                return ring.matmul(self.share(x).reshape(-1, row), signs(row, count))
            case _:
                raise AssertionError(op)

    def _product(self, op: Multiply, position: int) -> Ring:
        """a [y] + sum over the parts p of x, with factors f_p, of f_p (b [p] + sum over the parts q of y of f_q [p q])."""
        x, y = self._affine(op.x), self._affine(op.y)
        if op.x == op.y:
            return self._square(x, op, position)
        total: Ring = x.a * y.share(self._me)
        for p, value in x.parts.items():
            times_y = y.a * value
            for q in y.parts:
                _add_scaled(times_y, y, q, self._material(position, f"{p}{q}").reshape(total.shape))
            _add_scaled(total, x, p, times_y)
        return total

    def _square(self, x: Affine, op: Multiply, position: int) -> Ring:
        total: Ring = x.a * x.share(self._me)
        for p, value in x.parts.items():
            total += x.a * x.factor(p) * value
        for p, q in products(self._circuit, op):
            times = np.uint64(2 if p != q else 1)
            total += times * x.factor(p) * x.factor(q) * self._material(position, f"{p}{q}").reshape(total.shape)
        if "h" in x.parts:  # h h = h
            total += x.factor("h") * x.factor("h") * x.parts["h"]
        return total

    def _bilinear(self, op: Bilinear, position: int) -> Ring:
        x, y = self._affine(op.x), self._affine(op.y)
        left = (x.a if self._me.index == 0 else np.uint64(0)) - x.parts["R"]
        total = self._material(position, "gamma").reshape(self._shapes[position]) + product(op, left, y.a)
        total -= product(op, x.a, y.parts["R"])
        return total

    def _linear(self, op: Linear, position: int) -> Affine | Ring:
        shape, xs = self._shapes[position], operands(op)
        if self._kinds[position] == "wire":
            wires = [self._affine(x) for x in xs]
            mask = apply(op, [wire.parts["R"] for wire in wires], shape, constant=False)
            return Affine(apply(op, [wire.a for wire in wires], shape, constant=True), {"R": mask})
        return apply(op, [self.share(x) for x in xs], shape, constant=self._me.index == 0)

    async def interactive(self, position: int) -> Affine | Ring:
        """An operation that needs messages."""
        op = self._circuit.ops[position]
        assert isinstance(op, INTERACTIVE)
        return await self._protocol(op, position)

    def _protocol(self, op: Open | Truncate | Sign | Largest | Piecewise, position: int) -> Protocol[Affine | Ring]:
        match op:
            case Open(x):
                return self._open(position, self.share(x))
            case Truncate(x):
                return self._truncate(op, position, self.share(x))
            case Sign(x):
                return self._sign(op, position, self._affine(x))
            case Largest(x):
                return self._largest(op, position, self.share(x))
            case Piecewise(x):
                return self._piecewise(op, position, self.share(x))

    async def _open(self, position: int, x: Ring) -> Affine:
        mask = self._material(position, "lambda").reshape(x.shape)
        return Affine(await open_sum(self._me, x + mask), {"R": mask})

    async def _truncate(self, op: Truncate, position: int, x: Ring) -> Affine:
        share = x + self._material(position, "r").reshape(x.shape)
        if self._me.index == 0:
            share += np.uint64(1 << (op.drop + op.window - 1))
        c = await open_sum(self._me, share)
        kappa = np.uint64(1 << (64 - op.drop)) * (np.uint64(1) - (c >> np.uint64(63)))
        a = (c >> np.uint64(op.drop)) - np.uint64(1 << (op.window - 1))
        secret: Parts = {"R": self._material(position, "R").reshape(x.shape), "h": self._material(position, "h").reshape(x.shape)}
        return Affine(a, secret, kappa, c)

    async def _sign(self, op: Sign, position: int, x: Affine) -> Affine:
        drop, window = compared(self._circuit.ops, op)
        c = x.a + np.uint64(1 << (window - 1)) if x.c is None else x.c
        rows = as_rows(c - np.uint64(op.strict << drop))  # t > 0 is t - 1 >= 0
        d = await comparison.sign(self._me, rows, self._material.rows(len(rows)), position, drop=drop, window=window)
        return await self._bits(position, d, rows.shape[1], c.shape)

    async def _largest(self, op: Largest, position: int, x: Ring) -> Affine:
        d = await argmax.argmax(self._me, inner(op), x, self._material.rows(len(x)), position)
        return await self._bits(position, d, x.shape[1], x.shape)

    async def _piecewise(self, op: Piecewise, position: int, x: Ring) -> Ring:
        rows = as_rows(x)
        y = await piecewise.piecewise(self._me, inner_pieces(op), rows, self._material.rows(len(rows)), position)
        return y.reshape(x.shape)

    async def _bits(self, position: int, d: Ring, columns: int, shape: Shape) -> Affine:
        """XOR-shared bits as affine values: e = D ^ rho is opened, D = e + (1 - 2 e) rho (daBits, ePrint 2019/207). **Rounds**: 1."""
        e = unpack(await open_bits(self._me, d ^ self._material(position, "rho")), columns).astype(np.uint64).reshape(shape)
        return Affine(e, {"h": self._material(position, "h").reshape(shape)}, np.uint64(1) - np.uint64(2) * e)

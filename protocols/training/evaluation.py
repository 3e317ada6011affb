"""One server's part in one step of training (ABY2.0, ePrint 2020/1225, section 3; Turbospeedz, 2019/080, for two secret operands).

With x = a - R + kappa h and y = b - S + eta g, where a, kappa, b, eta are known to both servers:

    x y = a b - a [S] + a eta [g] - b [R] + b kappa [h] + [R S] - eta [R g] - kappa [h S] + kappa eta [h g],

linear in shares that each server has. Two wires multiply as matrices by the same formula without its terms in h and g. The mask of a
wire serves all of its products of a step: only the products of masks are dealt anew.

Adversary: semi-honest, no two parties collude. **Leaks** nothing: all that is opened is masked by fresh uniform values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from protocols import argmax, comparison, piecewise, ring
from protocols.conjunction import unpack
from protocols.exchange import Party, Protocol, Ring, open_bits, open_sum, together
from protocols.program import Shape
from protocols.training.circuit import (
    Circuit,
    Combine,
    Given,
    Largest,
    MatMul,
    Multiply,
    Open,
    Piecewise,
    Project,
    Sign,
    Sum,
    Truncate,
    infer,
    operands,
)
from protocols.training.preprocessing import Part, Parts, StepMaterial, as_rows, inner, inner_pieces, products, signs, turned

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
            total += self.factor(part) * value
        return total


async def evaluate(me: Party, circuit: Circuit, material: StepMaterial, given: Mapping[str, Affine | Ring]) -> dict[str, Ring]:
    """This server's shares of the outputs of a step; consumes the material.

    Operations that do not wait for each other share rounds.

    Args:
        me: which server.
        circuit: the step.
        material: this server's half of its randomness.
        given: for every `Given` of the circuit by name, a wire or this server's share.
    """
    run = _Run(me, circuit, material, given)
    pending = list(range(len(circuit.ops)))
    while pending:
        waiting: list[int] = []
        blocked: list[int] = []
        for position in pending:
            op = circuit.ops[position]
            if not all(x in run.values for x in operands(op)):
                blocked.append(position)
            elif isinstance(op, INTERACTIVE):
                waiting.append(position)
            else:
                run.values[position] = run.alone(position)
        if waiting:
            results = await together(*(run.interactive(position) for position in waiting))
            run.values.update(zip(waiting, results, strict=True))
        pending = blocked
    return {name: run.share(position) for name, position in circuit.outputs.items()}


class _Run:
    """The values of one step at one server: affine ones (wires included) or shares."""

    def __init__(self, me: Party, circuit: Circuit, material: StepMaterial, given: Mapping[str, Affine | Ring]) -> None:
        self._me, self._circuit, self._material, self._given = me, circuit, material, given
        self._shapes = [value.shape for value in infer(circuit)]
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
            case MatMul():
                return self._matrix_product(op, position)
            case Combine(xs, factors, constant):
                total = np.full(self._shapes[position], constant % 2**64 if self._me.index == 0 else 0, np.uint64)
                for x, factor in zip(xs, factors, strict=True):
                    total += self.share(x) * np.uint64(factor % 2**64)
                return total
            case Project(x, count, rows):
                summands = self.share(x)
                flat = summands.reshape(-1, summands.shape[-1]) if rows else summands.reshape(1, -1)
                return ring.matmul(flat, signs(flat.shape[1], count))
            case Sum(x, axis, keep):
                summed = self.share(x)
                result: Ring = summed.sum(keepdims=True).reshape(1) if axis is None else summed.sum(axis, keepdims=keep)
                return result
            case _:
                raise AssertionError(op)

    def _product(self, op: Multiply, position: int) -> Ring:
        x, y = self._affine(op.x), self._affine(op.y)
        total = x.a * y.a if self._me.index == 0 else np.zeros(self._shapes[position], np.uint64)
        for part, value in y.parts.items():
            total += x.a * y.factor(part) * value
        for part, value in x.parts.items():
            total += y.a * x.factor(part) * value
        for a, b in products(self._circuit, op):
            times = np.uint64(2 if op.x == op.y and a != b else 1)
            dealt = self._material(position, f"{a}{b}").reshape(total.shape)
            total += times * x.factor(a) * y.factor(b) * dealt
        if op.x == op.y and "h" in x.parts:  # h h = h
            total += x.factor("h") * x.factor("h") * x.parts["h"]
        return total

    def _matrix_product(self, op: MatMul, position: int) -> Ring:
        x, y = self._affine(op.x), self._affine(op.y)
        m_x, m_y = turned(op, x.a, y.a)
        lambda_x, lambda_y = turned(op, x.parts["R"], y.parts["R"])
        public = m_y if self._me.index == 0 else np.uint64(0)
        total = self._material(position, "gamma").reshape(self._shapes[position])
        ring.matmul(m_x, public - lambda_y, out=total, accumulate=True)
        return ring.matmul(np.uint64(0) - lambda_x, m_y, out=total, accumulate=True)

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
        cut = self._circuit.ops[op.x]
        assert isinstance(cut, Truncate)
        assert x.c is not None
        c = as_rows(x.c)
        d = await comparison.sign(self._me, c, self._material.rows(len(c)), position, drop=cut.drop, window=cut.window)
        return await self._bits(position, d, c.shape[1], x.c.shape)

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

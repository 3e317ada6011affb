"""One server's part in evaluating a program on a masked input: what is made ahead, and the protocol itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache

import numpy as np

from protocols.mpc import local
from protocols.mpc.operations import argmax, bilinear, clamp, linear, piecewise, selection
from protocols.mpc.operations.instructions import (
    AddNoise,
    Argmax,
    AsShare,
    ClampedInput,
    Conv2D,
    Dense,
    Hadamard,
    Input,
    MatMul,
    Open,
    Piecewise,
    Select,
    Shift,
    Truncate,
)
from protocols.mpc.operations.linear import WeightShares
from protocols.mpc.parties import discrete_gaussian
from protocols.mpc.parties.exchange import Party, Protocol, Ring, open_sum, together
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.mpc.parties.material import Field, Layout, Material
from protocols.mpc.program import Program, Value, infer
from protocols.mpc.schedule import INTERACTIVE, stages


@lru_cache(maxsize=64)
def layout(program: Program) -> Layout:
    """The correlated randomness that one evaluation of the program consumes for each example."""
    values = infer(program)
    return Layout((position, entry) for position in range(len(program.ops)) for entry in _fields(program, position, values))


def _fields(program: Program, position: int, values: tuple[Value, ...]) -> list[Field]:
    op, size = program.ops[position], values[position].size
    match op:
        case Input() | Open():
            return [Field("lambda", size)]
        case ClampedInput():
            return clamp.fields(size)
        case Dense() | Conv2D() | Hadamard() | MatMul():
            return [Field("gamma", size, dealt=True)]
        case Truncate():
            return selection.truncate_fields(size)
        case Select():
            return selection.select_fields(op, size)
        case Piecewise():
            return piecewise.fields(op, size)
        case Argmax():
            return argmax.fields(op, size)
        case _:
            return []


def wire_masks(program: Program, mask: Callable[[int], Ring]) -> Iterator[tuple[int, Ring]]:
    """The mask lambda of every wire of a program as (position, (examples, *shape)), from those of its inputs and openings."""
    masks: dict[int, Ring] = {}
    values = infer(program)
    for position, op in enumerate(program.ops):
        if values[position].kind != "wire":
            continue
        if isinstance(op, Input | ClampedInput | Open):
            field = mask(position)
            masks[position] = field.reshape(len(field), *values[position].shape)
        else:
            masks[position] = local.apply(op, [masks[x] for x in local.operands(op)], constant=False)
        yield position, masks[position]


def prepare(program: Program, weights: WeightShares, material: Material) -> None:
    """Turns every gamma_i of the material into C_i: the server's work that does not depend on an input. Run once on a chunk."""
    masks = dict(wire_masks(program, lambda position: material(position, "lambda")))
    for position, op in enumerate(program.ops):
        if isinstance(op, Dense | Conv2D):
            linear.prepare(op, masks[op.x], weights, material(position, "gamma"))


async def evaluate(
    me: Party, program: Program, weights: WeightShares, material: Material, m: Ring, *, noise_key: bytes | None = None
) -> Ring:
    """This server's share of the output for the masked examples `m` (examples, *input_shape); consumes the material.

    **Rounds**: 3 a `ClampedInput`, `Select` or `Piecewise`, 1 a `Truncate` or `Open`; those that wait for none of each other share rounds.
    Not opened: an additive share (examples, elements), or for a program that ends in `Argmax` XOR shares of one-hot bits (examples, words).

    Noise comes from a key of the operating system; `noise_key`, for tests only, takes its place.

    Adversary: semi-honest servers, no two parties collude; where the first operation is `ClampedInput`, a client that sends what it likes,
    as long as both servers have the same `m`, which whoever runs this sees to (`link/agreement.py`).
    **Leaks** to the servers: nothing but the program and the number of examples.
    """
    run = _Run(me, program, weights, material, m, KeyStream(noise_key or fresh_key()))
    for group in stages(program):
        if isinstance(program.ops[group[0]], INTERACTIVE):
            results = await together(*(run.interactive(position) for position in group))
        else:
            results = [run.alone(position) for position in group]
        run.values.update(zip(group, results, strict=True))
    output = run.values[len(program.ops) - 1]
    return output.reshape(len(output), -1)


class _Run:
    """The values of one evaluation at one server: a share, or for a wire the masked value; masks of wires are kept beside it."""

    def __init__(self, me: Party, program: Program, weights: WeightShares, material: Material, m: Ring, noise: KeyStream) -> None:
        self.me, self.program, self.weights, self.material = me, program, weights, material
        self.shapes = infer(program)
        self.values: dict[int, Ring] = {}
        self._m, self._noise = m, noise

    def alone(self, position: int) -> Ring:
        """An operation without communication. A group of these may use each other's results, so they are stored at once."""
        op = self.program.ops[position]
        match op:
            case Input():
                value = self._m
            case Dense() | Conv2D():
                constant = self.material(position, "gamma")
                z = linear.evaluate(op, self.values[op.x], self.weights, constant)
                value = z.reshape(len(constant), *self.shapes[position].shape)
            case AddNoise(x, sigma):
                value = self.values[x] + discrete_gaussian.sample(self._noise, sigma, self.values[x].shape)
            case Shift(x, weight):
                value = self.values[x] + self.weights.share[weight]
            case Hadamard(x, y) | MatMul(x, y):
                gamma = self.material(position, "gamma").reshape(-1, *self.shapes[position].shape)
                wires = (self.values[x], self.values[y])
                value = bilinear.evaluate(self.me, op, wires, (self._masks[x], self._masks[y]), gamma)
            case AsShare(x):
                value = (self.values[x] if self.me.index == 0 else np.uint64(0)) - self._masks[x]
            case _:
                shared = self.shapes[position].kind == "share"
                constant_here = self.me.index == 0 or not shared
                value = local.apply(op, [self.values[x] for x in local.operands(op)], constant=constant_here)
        self.values[position] = value
        return value

    @cached_property
    def _masks(self) -> dict[int, Ring]:
        """This server's half of the mask of each wire."""
        return dict(wire_masks(self.program, lambda at: self.material(at, "lambda")))

    async def interactive(self, position: int) -> Ring:
        """An operation that needs messages."""
        op = self.program.ops[position]
        if isinstance(op, ClampedInput):
            m = np.ascontiguousarray(self._m)
            flat = m.reshape(len(m), -1)
            return (await clamp.clamp(self.me, op, flat, self.material, position, input_shape=m.shape[1:])).reshape(m.shape)
        assert isinstance(op, Open | Truncate | Select | Piecewise | Argmax)
        x = self.values[op.x]
        result = await self._protocol(op, np.ascontiguousarray(x).reshape(len(x), -1), position)
        return result if isinstance(op, Argmax) else result.reshape(x.shape)

    def _protocol(self, op: Open | Truncate | Select | Piecewise | Argmax, flat: Ring, position: int) -> Protocol[Ring]:
        match op:
            case Open():
                return open_sum(self.me, flat + self.material(position, "lambda"))
            case Truncate():
                return selection.truncate(self.me, op, flat, self.material, position)
            case Select():
                return selection.select(self.me, op, flat, self.material, position)
            case Piecewise():
                return piecewise.piecewise(self.me, op, flat, self.material, position)
            case Argmax():
                return argmax.argmax(self.me, op, flat, self.material, position)

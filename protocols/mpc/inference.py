"""One server's part in evaluating a program on a masked input: what is made ahead, and the protocol itself."""

from __future__ import annotations

from functools import lru_cache

from protocols.mpc.engine import loops
from protocols.mpc.engine.sides import Server, WeightShares
from protocols.mpc.operations.wires import INPUT
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.mpc.parties.material import Layout, Material
from protocols.mpc.program import Program, infer


@lru_cache(maxsize=64)
def layout(program: Program) -> Layout:
    """The correlated randomness that one evaluation of the program consumes for each example."""
    return loops.layout(program.ops, infer(program))


@lru_cache(maxsize=64)
def order(program: Program) -> loops.Order:
    """Who waits for whom in a program."""
    return loops.Order.of(program.ops, {len(program.ops) - 1})


def prepare(program: Program, weights: WeightShares, material: Material) -> None:
    """Turns every gamma_i of the material into C_i: the server's work that does not depend on an input. Run once on a chunk."""
    server = Server(Party(0), infer(program), material, {}, weights)
    loops.ahead(program.ops, order(program), server)


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
    server = Server(me, infer(program), material, {INPUT: m}, weights, KeyStream(noise_key or fresh_key()))
    last = len(program.ops) - 1
    output = (await loops.evaluate(program.ops, order(program), server, {last}))[last]
    return output.reshape(len(output), -1)

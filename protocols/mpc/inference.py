"""One server's part in evaluating a program on a masked input: what is made ahead, and the protocol itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache

from protocols.mpc.engine import loops
from protocols.mpc.engine.segments import Segment, cut
from protocols.mpc.engine.sides import Server, WeightShares
from protocols.mpc.operations.wires import INPUT
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.mpc.parties.material import Expansion, Layout, Material
from protocols.mpc.program import Program, infer


@lru_cache(maxsize=64)
def layout(program: Program) -> Layout:
    """Return the layout of the correlated randomness that one evaluation of the program consumes for each example."""
    return loops.layout(program.ops, infer(program))


@lru_cache(maxsize=64)
def order(program: Program) -> loops.Order:
    """Who waits for whom in a program."""
    return loops.Order.of(program.ops, {len(program.ops) - 1})


@lru_cache(maxsize=64)
def segments(program: Program, most: int | None) -> tuple[Segment, ...]:
    """Cut the program into segments of `most` bytes of randomness for one example, or of one operation that needs more; None: whole."""
    return cut(len(program.ops), layout(program), most)


def prepare(program: Program, weights: WeightShares, material: Material) -> None:
    """Turn every gamma_i of the material into C_i: the server's work that does not depend on an input. Run once on a chunk."""
    server = Server(Party(0), infer(program), material, {}, weights)
    loops.ahead(program.ops, order(program), server, range(len(program.ops)))


class Preparation:
    """The work of `prepare` in segments: what it makes is one server's material of one after the other.

    Args:
        program: what will be evaluated.
        weights: this server's shares.
        key: of the chunk at this server.
        parts: the segments.
        examples: how many the chunk serves.
    """

    def __init__(self, program: Program, weights: WeightShares, key: bytes, parts: Sequence[Segment], examples: int) -> None:
        self._program, self._parts, self._examples = program, iter(parts), examples
        self._half = Expansion(key)
        self._server = Server(Party(0), infer(program), Material({}, 0, examples), {}, weights)

    def next(self, dealt: Ring | None) -> Material:
        """Return the material of the next segment; `dealt` is what the provider sent of it to party 1, None at party 0. Slow.

        Raises:
            SharingError: another number of words was dealt than the segment needs.
        """
        part = next(self._parts)
        if dealt is not None and not dealt.flags.writeable:
            dealt = dealt.copy()
        material = self._server.material = self._half.material(part.layout, self._examples, dealt)
        loops.ahead(self._program.ops, order(self._program), self._server, part.positions)
        self._server.leave()
        return material


async def evaluate(
    me: Party, program: Program, weights: WeightShares, material: Material, m: Ring, *, noise_key: bytes | None = None
) -> Ring:
    """Evaluate the masked examples `m` (examples, *input_shape): return this server's share of the output; consume the material.

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


async def evaluate_in_segments(
    me: Party,
    program: Program,
    weights: WeightShares,
    parts: Sequence[Segment],
    supply: Callable[[int], Awaitable[Material]],
    m: Ring,
    *,
    noise_key: bytes | None = None,
) -> Ring:
    """Evaluate as `evaluate` does, with the material of one segment after the other: see `loops.evaluate_in_segments`.

    Args:
        me: which server.
        program: what is evaluated.
        weights: this server's shares.
        parts: the segments.
        supply: waits for the prepared material of a segment, by its number.
        m: the masked examples, (examples, *input_shape).
        noise_key: for tests only, see `evaluate`.
    """
    server = Server(me, infer(program), Material({}, 0, len(m)), {INPUT: m}, weights, KeyStream(noise_key or fresh_key()))
    last = len(program.ops) - 1
    output = (await loops.evaluate_in_segments(program.ops, order(program), server, {last}, parts, supply))[last]
    return output.reshape(len(output), -1)

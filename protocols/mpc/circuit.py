"""One step of training as a program over whole batches: the public half of an encrypted training.

Like `program.py`, but all values are there once and not for each example: weights change in every step, so they are values like all
others, given by name, and what a step hands on has names, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cached_property

import msgspec
from blake3 import blake3

from protocols.errors import ProgramError
from protocols.mpc.engine import loops
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.segments import Segment, cut
from protocols.mpc.engine.sides import Clear, Dealer, Rounding, Scope, Server
from protocols.mpc.engine.values import Affine, Value
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.operations.sums import Combine
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key
from protocols.mpc.parties.material import Expansion, Layout, Material


class Circuit:
    """One step.

    Args:
        ops: in order; every operand is an earlier position.
        values: what is known of the value of each.
        outputs: the positions of the values that a step hands on as shares, by name.
        wires: the positions of wires that the servers and the dealer keep as they are, by name.

    Raises:
        ProgramError: an output is no position of it, or a wire is none.
    """

    def __init__(
        self, ops: tuple[Operation, ...], values: tuple[Value, ...], outputs: dict[str, int], wires: Mapping[str, int] | None = None
    ) -> None:
        self.ops, self.values, self.outputs, self.wires = ops, values, outputs, dict(wires or {})
        if not all(0 <= position < len(ops) for position in self.wanted):
            raise ProgramError("an output of the circuit is no position of it")
        if any(values[position].kind != "wire" for position in self.wires.values()):
            raise ProgramError("what is kept of a circuit as a wire is one")

    @property
    def wanted(self) -> set[int]:
        """The positions of what is needed when a step has ended."""
        return {*self.outputs.values(), *self.wires.values()}

    @cached_property
    def layout(self) -> Layout:
        """Where the randomness of a step lies."""
        return loops.layout(self.ops, self.values)

    @cached_property
    def fingerprint(self) -> bytes:
        """Return 32 bytes of all that is public about a step: two circuits that differ in one number have others."""
        return blake3(msgspec.msgpack.encode((self.ops, self.outputs, self.wires))).digest()

    def segments(self, most: int | None) -> tuple[Segment, ...]:
        """Return it cut into segments of `most` bytes of randomness, or of one operation that needs more; None: whole."""
        return cut(len(self.ops), self.layout, most)

    def arranged_as(self, other: Circuit) -> Circuit:
        """Return this circuit, with randomness and order of one that differs in public numbers only: they need not be found again."""
        assert len(self.ops) == len(other.ops)
        assert all(one == two or _factors_only(one, two) for one, two in zip(self.ops, other.ops, strict=True))
        self.layout, self.order = other.layout, other.order
        return self

    @cached_property
    def order(self) -> loops.Order:
        """Who waits for whom."""
        return loops.Order.of(self.ops, self.wanted)


def _factors_only(one: Operation, two: Operation) -> bool:
    """Whether two operations differ in public factors: nothing that is dealt depends on them."""
    return isinstance(one, Combine) and isinstance(two, Combine) and one.xs == two.xs


class Builder:
    """Writes a circuit operation by operation."""

    def __init__(self) -> None:
        self._ops: list[Operation] = []
        self._scope = Scope([])

    def __call__(self, op: Operation) -> int:
        """Append an operation, and return the position of its value.

        Raises:
            ProgramError: its operands do not fit.
        """
        loops.infer([op], self._scope)
        self._ops.append(op)
        return len(self._ops) - 1

    def value(self, position: int) -> Value:
        """Return what is known of a value."""
        return self._scope.values[position]

    def circuit(self, outputs: dict[str, int]) -> Circuit:
        """Return the finished circuit, checked.

        Raises:
            ProgramError: an output is no position of it.
        """
        return Circuit(tuple(self._ops), tuple(self._scope.values), outputs)


async def evaluate(
    me: Party,
    circuit: Circuit,
    material: Material,
    given: Mapping[str, Affine | Ring],
    *,
    noise_key: bytes | None = None,
    wires: dict[str, Affine] | None = None,
) -> dict[str, Ring]:
    """Return this server's shares of the outputs of a step; consumes the material.

    Each operation begins as soon as its operands are there, in a round with others.

    Adversary: semi-honest, no two parties collude. **Leaks** nothing: all that is opened is masked by fresh uniform values.

    Args:
        me: which server.
        circuit: the step.
        material: this server's half of its randomness.
        given: for every `Given` of the circuit by name, a wire or this server's share.
        noise_key: for tests only; noise comes from a key of the operating system that is used this once.
        wires: is given what this server keeps of `Circuit.wires`.
    """
    server = Server(me, circuit.values, material, given, noise=_noise(circuit, noise_key))
    shares = await loops.evaluate(circuit.ops, circuit.order, server, circuit.wanted)
    _keep(circuit, server, wires)
    return {name: shares[position] for name, position in circuit.outputs.items()}


def _noise(circuit: Circuit, noise_key: bytes | None) -> KeyStream | None:
    return KeyStream(noise_key or fresh_key()) if any(isinstance(op, AddNoise) for op in circuit.ops) else None


def _keep(circuit: Circuit, server: Server, wires: dict[str, Affine] | None) -> None:
    """Put what a server keeps of wires where it is wanted, in memory of its own."""
    if wires is not None:
        wires.update({name: server.affine(position).apart() for name, position in circuit.wires.items()})


async def evaluate_in_segments(
    me: Party,
    circuit: Circuit,
    parts: Sequence[Segment],
    supply: Callable[[int], Awaitable[Material]],
    given: Mapping[str, Affine | Ring],
    wires: dict[str, Affine] | None = None,
    *,
    noise_key: bytes | None = None,
) -> dict[str, Ring]:
    """Evaluate as `evaluate` does, with the material of one segment after the other: see `loops.evaluate_in_segments`.

    Args:
        me: which server.
        circuit: the step.
        parts: its segments.
        supply: waits for the material of a segment, by its number.
        given: see `evaluate`.
        wires: see `evaluate`.
        noise_key: see `evaluate`.
    """
    server = Server(me, circuit.values, Material({}, 0, 1), given, noise=_noise(circuit, noise_key))
    shares = await loops.evaluate_in_segments(circuit.ops, circuit.order, server, circuit.wanted, parts, supply)
    _keep(circuit, server, wires)
    return {name: shares[position] for name, position in circuit.outputs.items()}


def deal(circuit: Circuit, masks: Mapping[str, Ring], keys: tuple[bytes, bytes]) -> Ring:
    """Deal a step, as the crypto provider does: return server 1's half of all that is dealt, flat; see `deal_in_segments`."""
    return next(deal_in_segments(circuit, circuit.segments(None), masks, keys))


def deal_in_segments(
    circuit: Circuit,
    parts: Sequence[Segment],
    masks: Mapping[str, Ring],
    keys: tuple[bytes, bytes],
    wires: dict[str, Ring] | None = None,
) -> Iterator[Ring]:
    """Give server 1's half of everything that is dealt for one segment of a step after the other, each flat.

    Args:
        circuit: the step.
        parts: its segments.
        masks: lambda of every wire that is given, both halves added, by name.
        keys: the servers' keys of this step, never used for another.
        wires: is given lambda of `Circuit.wires`, both halves added, with the last segment.
    """
    dealer = Dealer(circuit.values, 1, (Expansion(keys[0]), Expansion(keys[1])), given=masks)
    for part in parts:
        dealt = loops.deal(circuit.ops, circuit.order, dealer, part)
        if part is parts[-1] and wires is not None:
            wires.update({name: dealer.mask(position) for name, position in circuit.wires.items()})
        yield dealt


def meaning(circuit: Circuit, given: Mapping[str, Ring], rounding: Rounding) -> dict[str, Ring]:
    """Return the outputs of a step in the clear, for integers by name.

    Raises:
        WindowError: a sum is outside of its window.
    """
    found = loops.meaning(circuit.ops, circuit.order, Clear(circuit.values, (), given, rounding), circuit.wanted)
    return {name: found[position] for name, position in (circuit.outputs | circuit.wires).items()}

"""The loops over the operations of a program: what is known, randomness, costs, dealing, evaluation, meaning.

Adversary, leaks: those of the operations. Everything that several operations could do in different orders is done in the same order by all
parties.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.segments import Segment
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.values import Affine, Value
from protocols.mpc.parties.exchange import Protocol, Ring, as_ready, until
from protocols.mpc.parties.material import Layout, Material

MAX_ELEMENTS = 1 << 31
"""The largest number of ring elements that one value, of one example if it is batched, may have."""


def infer(ops: Sequence[Operation], scope: Scope) -> None:
    """Append what is known of the values of `ops` to those of the scope.

    Raises:
        ProgramError: an operand is not an earlier value, has the wrong kind or shape, or a setting is out of range. It says where.
    """
    for op in ops:
        where = f"operation {scope.position} ({type(op).__name__})"
        try:
            value = op.value(scope)
        except (ProgramError, IndexError, ValueError) as error:
            raise ProgramError(f"{where}: {error}") from None
        if not all(n > 0 for n in value.shape) or value.size > MAX_ELEMENTS:
            raise ProgramError(f"{where}: a value of shape {value.shape} is not possible")
        scope.values.append(value)


def layout(ops: Sequence[Operation], values: Sequence[Value]) -> Layout:
    """Return where the correlated randomness lies that one evaluation consumes."""
    entries = []
    for at, op in enumerate(ops):
        rows, columns = op.rows(values[at], 1)
        for field in op.fields(values[at], [values[x] for x in op.operands], columns):
            entries.append((at, field, None if values[at].batched else rows))  # noqa: PERF401  two loops are read more easily
    return Layout(entries)


class Costs(NamedTuple):
    """What one evaluation costs.

    Attributes:
        rounds: messages of each server to the other, one after the other.
        sent: bytes of each server to the other.
        dealt: bytes from the third party to server 1.
    """

    rounds: int
    sent: int
    dealt: int


def costs(ops: Sequence[Operation], values: Sequence[Value], examples: int = 1) -> Costs:
    """Return what one evaluation for so many examples costs, where each operation begins as soon as its operands are there."""
    ready, words = [0] * len(ops), 0
    for at, op in enumerate(ops):
        rows, columns = op.rows(values[at], examples)
        sends = op.sends(values[at], [values[x] for x in op.operands], columns)
        ready[at] = max((ready[x] for x in op.operands), default=0) + len(sends)
        words += rows * sum(sends)
    return Costs(max(ready), 8 * words, 8 * layout(ops, values).words(examples, dealt=True))


@dataclass(frozen=True)
class Order:
    """Who waits for whom.

    Attributes:
        users: the operations that read each value.
        missing: how many different operands each operation has.
        last: the operations after which nothing reads a value, by the last that reads it, in the order of the program.
    """

    users: tuple[tuple[int, ...], ...]
    missing: tuple[int, ...]
    last: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, ops: Sequence[Operation], wanted: Collection[int]) -> Order:
        """Return that of a program whose values at `wanted` are kept."""
        users: list[list[int]] = [[] for _ in ops]
        last: list[list[int]] = [[] for _ in ops]
        for at, op in enumerate(ops):
            for x in set(op.operands):
                users[x].append(at)
        for at, readers in enumerate(users):
            if at not in wanted:
                last[readers[-1] if readers else at].append(at)
        return cls(tuple(map(tuple, users)), tuple(len(set(op.operands)) for op in ops), tuple(map(tuple, last)))

    def within(self, ops: Sequence[Operation], positions: range) -> tuple[dict[int, int], dict[int, int]]:
        """Return how many operands each of some operations waits for, if all before have ended, and how many readers each value has."""
        if len(positions) == len(ops):
            return dict(enumerate(self.missing)), {at: len(readers) for at, readers in enumerate(self.users)}
        missing = {at: sum(x in positions for x in set(ops[at].operands)) for at in positions}
        return missing, {x: sum(user >= positions.start for user in self.users[x]) for x in range(positions.stop)}


def deal(ops: Sequence[Operation], order: Order, dealer: Dealer, segment: Segment) -> Ring:
    """Return server 1's half of everything that is dealt for a segment, flat. Segments come in their order, each once."""
    dealt = dealer.enter(segment.layout)
    for at in segment.positions:
        ops[at].deal(dealer, at)
        for x in order.last[at]:
            dealer.forget(x)
    dealer.leave()
    return dealt


def ahead(ops: Sequence[Operation], order: Order, server: Server, positions: range) -> None:
    """Do a server's work that depends on no input, once on a segment: its wires have masks and nothing else."""
    for at in positions:
        op = ops[at]
        if server.values[at].kind == "wire":
            mask = op.mask(server, at)
            server.results[at] = Affine(mask, {"R": mask})  # nobody reads what is not known yet
        op.ahead(server, at)
        for x in order.last[at]:
            server.results.pop(x, None)


async def evaluate(ops: Sequence[Operation], order: Order, server: Server, wanted: Collection[int]) -> dict[int, Ring]:
    """Return this server's shares of the values at `wanted`; consumes the material.

    Each operation begins as soon as its operands are there, in a round with others; a value that nothing needs any more is freed.
    """
    await segment(ops, order, server, wanted, range(len(ops)))
    return {at: server.share(at) for at in wanted}


async def evaluate_in_segments(
    ops: Sequence[Operation],
    order: Order,
    server: Server,
    wanted: Collection[int],
    parts: Sequence[Segment],
    supply: Callable[[int], Awaitable[Material]],
) -> dict[int, Ring]:
    """Return the same as `evaluate`, with the material of one segment after the other, each freed before the next one is asked for.

    A segment begins when all before it have ended, and its material is here: both servers make the same rounds, whenever that is.
    Operations of two segments share no round, so that there may be more of them than of the whole; bytes are as many.

    Args:
        ops: the program.
        order: who waits for whom.
        server: this server's side, without material.
        wanted: the values to return.
        parts: the segments.
        supply: waits for the material of a segment, by its number.
    """
    for number, part in enumerate(parts):
        server.material = await until(partial(supply, number))
        await segment(ops, order, server, wanted, part.positions)
        if part is not parts[-1]:
            server.leave()
    return {at: server.share(at) for at in wanted}


async def segment(ops: Sequence[Operation], order: Order, server: Server, wanted: Collection[int], positions: range) -> None:
    """Compute the values at consecutive positions, with what is there of those before, as `evaluate` does.

    Nothing of a later position begins before everything here has ended: when that has its material, another party need not know.
    """
    missing, left = order.within(ops, positions)
    possible = [at for at, count in missing.items() if count == 0]

    def done(at: int, value: Affine | Ring) -> None:
        server.results[at] = value
        for user in order.users[at]:
            if user in positions:
                missing[user] -= 1
                if missing[user] == 0:
                    possible.append(user)
        for x in set(ops[at].operands):
            left[x] -= 1
            if left[x] == 0 and x not in wanted:
                del server.results[x]
        if left[at] == 0 and at not in wanted:
            del server.results[at]

    def ready() -> dict[int, Protocol[Affine | Ring]]:
        begun: dict[int, Protocol[Affine | Ring]] = {}
        while possible:
            at = possible.pop()
            if ops[at].interactive:
                begun[at] = ops[at].protocol(server, at)
            else:
                done(at, ops[at].run(server, at))
        return begun

    await as_ready(ready, done)


def meaning(ops: Sequence[Operation], order: Order, clear: Clear, wanted: Collection[int]) -> dict[int, Ring]:
    """Return the values at `wanted` in the clear.

    Raises:
        WindowError: a sum is outside of its window.
    """
    for at, op in enumerate(ops):
        clear.results[at] = op.meaning(clear, at)
        for x in order.last[at]:
            del clear.results[x]
    return {at: clear.results[at] for at in wanted}

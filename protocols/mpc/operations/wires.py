"""Where wires come from: a client's example, values that are given by name, and shares that both servers open under a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from protocols.errors import ProgramError
from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Kind, Shape, Value, wire
from protocols.mpc.parties.exchange import Ring, open_sum
from protocols.mpc.parties.material import Field

INPUT = "input"
"""The name by which what a client has sent is given."""


def check_first(scope: Scope) -> Shape:
    """Return the shape of an example, for an operation that takes what a client sends.

    Raises:
        ProgramError: it is not the first operation, or there is no client.
    """
    if scope.input_shape is None or scope.position != 0:
        raise ProgramError("the input is the first operation, and only that")
    return scope.input_shape


class Input(Operation, frozen=True):
    """The client's example, masked by the client: a wire. Rounds: 0."""

    flat: ClassVar[bool] = True

    def value(self, scope: Scope) -> Value:
        """Return a wire of the shape of an example."""
        return wire(check_first(scope))

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return lambda."""
        return [Field("lambda", columns)]

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Return lambda."""
        return side.field(at, "lambda").reshape(side.shape(at))

    def deal(self, dealer: Dealer, at: int) -> None:
        """Tell the dealer the mask of what the client sends."""
        dealer.sent = self.mask(dealer, at)
        super().deal(dealer, at)

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return what the client has sent, with its mask."""
        m = server.given[INPUT]
        assert not isinstance(m, Affine)
        return Affine(m, lambda: {"R": self.mask(server, at)})

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the example."""
        return clear.given[INPUT]


class Given(Operation, frozen=True):
    """A value from outside: a wire, of which the provider knows the mask, or a share of something that nobody knows. Rounds: 0."""

    flat: ClassVar[bool] = True

    name: str
    shape: Shape
    kind: Kind

    def value(self, scope: Scope) -> Value:
        """Return a value that is there once, not for each example."""
        if scope.input_shape is not None:
            raise ProgramError("values are given by name to steps of a training only")
        if self.kind not in ("wire", "share") or min(self.shape, default=1) < 1:
            raise ProgramError(f"a wire or a share of at least one element is given, not {self.kind} of shape {self.shape}")
        return wire(self.shape, batched=False) if self.kind == "wire" else Value(self.shape, "share", batched=False)

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Return lambda, which its giver has said."""
        given = side.given[self.name]
        return given.mask if isinstance(given, Affine) else given

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return what is given."""
        return server.given[self.name]

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return what is given."""
        return clear.given[self.name]


class Open(Operation, frozen=True):
    """Turns share `x` into a wire: both servers open x + lambda. Rounds: 1. Bytes: 8 an element and direction."""

    elementwise: ClassVar[bool] = True

    x: int

    def value(self, scope: Scope) -> Value:
        """Return a wire."""
        value = scope.operand(self.x)
        return wire(value.shape, batched=value.batched)

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return lambda."""
        return [Field("lambda", columns)]

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return the masked value."""
        return [columns]

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Return the gradient as it is."""
        return gradient

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Return lambda."""
        return side.field(at, "lambda").reshape(side.shape(at))

    async def protocol(self, server: Server, at: int) -> Affine | Ring:
        """Open x + lambda."""
        m = await open_sum(server.me, server.rows(self.x) + server.field(at, "lambda"))
        return Affine(m.reshape(server.shape(at)), lambda: {"R": self.mask(server, at)})

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the value."""
        return clear[self.x]


class AsShare(Operation, frozen=True):
    """Value `x` as a share and nothing more: m - lambda_0 and -lambda_1 of a wire. Rounds: 0."""

    x: int

    def value(self, scope: Scope) -> Value:
        """Return a share."""
        value = scope.operand(self.x)
        return Value(value.shape, "share", value.batched)

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Return the gradient as it is."""
        return gradient

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return this server's share."""
        return server.share(self.x)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return the value."""
        return clear[self.x]

"""What operations that each holder of a value runs alone have in common: they are linear, and act on values, masks and shares alike."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from protocols.mpc.engine.operation import Operation
from protocols.mpc.engine.sides import Clear, Dealer, Server
from protocols.mpc.engine.values import Affine, Parts, Value
from protocols.mpc.parties.exchange import Ring


class Local(Operation, frozen=True):
    """A linear operation. Rounds: 0. Bytes: 0. Of wires it makes a wire, else a share."""

    abstract: ClassVar[bool] = True

    @abstractmethod
    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Return what it makes of arrays, where `value` is known of the result; a public constant is added only where `constant` is set.

        Shares of party 0, masked values and values in the clear take the constant; shares of party 1 and masks do not.
        """
        raise NotImplementedError

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Apply it to masks."""
        return self.apply([side.mask(x) for x in self.operands], side.values[at], constant=False)

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Apply it to what is public of wires, and to their masks only if somebody asks; else to shares."""
        value = server.values[at]
        if value.kind == "share":
            return self.apply([server.share(x) for x in self.operands], value, constant=server.me.index == 0)
        wires = [server.affine(x) for x in self.operands]

        def parts() -> Parts:
            return {"R": self.apply([wire.mask for wire in wires], value, constant=False)}

        return Affine(self.apply([wire.a for wire in wires], value, constant=True), parts)

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Apply it to values."""
        return self.apply([clear[x] for x in self.operands], clear.values[at], constant=True)


class Move(Local, frozen=True):
    """An operation that puts each element somewhere, or nowhere, or several times; with one operand, an affine value stays affine."""

    abstract: ClassVar[bool] = True

    @abstractmethod
    def move(self, x: Ring, value: Value) -> Ring:
        """Return the elements of an array in their new places."""
        raise NotImplementedError

    def apply(self, xs: list[Ring], value: Value, *, constant: bool) -> Ring:
        """Move the elements of the only operand."""
        return self.move(xs[0], value)

    def secrets(self, dealer: Dealer, at: int) -> Parts:
        """Move the secret parts."""
        (x,) = self.operands
        return {part: self.move(secret, dealer.values[at]) for part, secret in dealer.parts(x).items()}

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Move what it holds of the operand."""
        (x,) = self.operands
        value, held = server.values[at], server.results[x]
        return held.moved(lambda elements: self.move(elements, value)) if isinstance(held, Affine) else self.move(held, value)

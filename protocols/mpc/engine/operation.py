"""What an operation has to say: one class for each, with all that is known about it. The loops over operations are beside this file.

A new operation is one class in a file of `protocols/mpc/operations/`. What it leaves out of the rules below is refused when it is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import msgspec

from protocols.mpc.engine.sides import Clear, Dealer, Scope, Server
from protocols.mpc.engine.tape import Tape
from protocols.mpc.engine.values import Affine, Pair, Parts, Value
from protocols.mpc.parties.exchange import Protocol, Ring
from protocols.mpc.parties.material import Field

REQUIRED = ("value", "meaning")
"""Rules that each operation has; one of `run` and `protocol`; of a protocol `sends` and `fields`; of these fields one of `deal` and `mask`;
what several operations leave to each of them (`abstractmethod`); and a gradient, or why there is none."""


class Operation(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """An operation of a program. Its position in the program is the number of the value that it makes.

    Attributes:
        abstract: whether a class is no operation itself, but what several have in common.
        elementwise: whether an element of its value depends on its operands in the same place only: it can be cut in parts.
        flat: whether its value has the derivative 0 wherever it has one, as a step function, or what reads no value.
        ungraded: why it has no gradient, if it has none.
    """

    abstract: ClassVar[bool] = True
    elementwise: ClassVar[bool] = False
    flat: ClassVar[bool] = False
    ungraded: ClassVar[str] = ""

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if cls.__dict__.get("abstract", False):
            return
        cls.abstract = False
        missing = [rule for rule in REQUIRED if getattr(cls, rule) is getattr(Operation, rule)]
        missing += [rule for rule in dir(cls) if getattr(getattr(cls, rule, None), "__isabstractmethod__", False)]
        if cls.run is Operation.run and cls.protocol is Operation.protocol:
            missing.append("run or protocol")
        if cls.protocol is not Operation.protocol and cls.sends is Operation.sends:
            missing.append("sends")
        if cls.protocol is not Operation.protocol and cls.fields is Operation.fields:
            missing.append("fields")  # whatever is opened is masked
        if cls.fields is not Operation.fields and cls.deal is Operation.deal and cls.mask is Operation.mask:
            missing.append("deal or mask")
        if (cls.gradient is not Operation.gradient) + cls.flat + bool(cls.ungraded) != 1:
            missing.append("gradient")
        if missing:
            raise TypeError(f"the operation {cls.__name__} has no rule {' and no rule '.join(missing)}")

    @property
    def operands(self) -> tuple[int, ...]:
        """The positions of the values that it reads: its fields `x` and `y`, or `xs`."""
        if "xs" in self.__struct_fields__:
            return tuple(getattr(self, "xs"))  # noqa: B009  of some operations
        return tuple(getattr(self, name) for name in ("x", "y") if name in self.__struct_fields__)

    def on(self, operands: Sequence[int]) -> Self:
        """Return the same operation on other operands, as many."""
        if "xs" in self.__struct_fields__:
            return msgspec.structs.replace(self, xs=tuple(operands))
        names = [name for name in ("x", "y") if name in self.__struct_fields__]
        return msgspec.structs.replace(self, **dict(zip(names, operands, strict=True)))

    # What everybody knows.

    def value(self, scope: Scope) -> Value:
        """Return what is known of its value, checked.

        Raises:
            ProgramError: its operands or settings do not fit.
        """
        raise NotImplementedError

    def fields(self, value: Value, xs: Sequence[Value], columns: int) -> list[Field]:
        """Return the correlated randomness that it needs for each of the rows of its value, which have so many columns."""
        return []

    def rows(self, value: Value, examples: int) -> Pair:
        """Return rows and columns of the matrix in which its value is computed."""
        return value.rows(examples)

    # The third party.

    def mask(self, side: Server | Dealer, at: int) -> Ring:
        """Return lambda of its value, a wire: one server's half, or both halves added at the dealer."""
        raise NotImplementedError

    def secrets(self, dealer: Dealer, at: int) -> Parts:
        """Return the secret parts of its value, which is affine or a wire."""
        return {"R": self.mask(dealer, at)}

    def deal(self, dealer: Dealer, at: int) -> None:
        """Make server 1's half of what is dealt, and tell the dealer the secret parts of its value."""
        if dealer.values[at].kind != "share":
            side = dealer.seeing(self.operands)
            dealer.know(at, lambda: self.secrets(side, at))

    # A server.

    @property
    def interactive(self) -> bool:
        """Whether it needs messages."""
        return type(self).protocol is not Operation.protocol

    def ahead(self, server: Server, at: int) -> None:
        """Compute what depends on no input: once, on a chunk of randomness. Wires are known by their masks only."""

    def run(self, server: Server, at: int) -> Affine | Ring:
        """Return what this server holds of its value, without a message."""
        raise NotImplementedError

    def protocol(self, server: Server, at: int) -> Protocol[Affine | Ring]:
        """Begin the protocol that gives what this server holds of its value."""
        raise NotImplementedError

    # What it costs, and how it is differentiated.

    def sends(self, value: Value, xs: Sequence[Value], columns: int) -> list[int]:
        """Return how many ring words a server sends in each of its rounds, for each of the rows of its value: as for `fields`."""
        return []

    def gradient(self, tape: Tape, at: int, gradient: int, side: int) -> int:
        """Write the gradient by one of its operands, given the `gradient` by its value.

        Args:
            tape: where it is written.
            at: the position of the value.
            gradient: by the value, with its shape.
            side: which of the operands.

        Returns:
            The position of the gradient, which has the shape of the operand.
        """
        raise NotImplementedError

    # Nobody: in the clear.

    def meaning(self, clear: Clear, at: int) -> Ring:
        """Return its value in the clear, slow and obviously right: the oracle of tests, and what a model is compared with.

        Raises:
            WindowError: a sum is outside of its window.
        """
        raise NotImplementedError

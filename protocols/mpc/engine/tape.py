"""What a rule for a gradient sees of the program that it writes to: values in fixed point, and how they become factors.

A value of `bits` fractional bits is the real number value / 2^bits. A gradient is that of one real number (a loss) by a value as a real
number, so that a truncation, which changes bits and not the number, has the gradient 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from protocols.mpc.engine.values import Value


class Tape(ABC):
    """A program while it and its gradients are written."""

    @abstractmethod
    def put(self, op: msgspec.Struct, bits: int) -> int:
        """Append an operation whose value has so many fractional bits; return the position of its value."""

    @abstractmethod
    def value(self, position: int) -> Value:
        """Return what is known of a value."""

    @abstractmethod
    def bits(self, position: int) -> int:
        """Return how many fractional bits a value has."""

    @abstractmethod
    def wire(self, gradient: int) -> int:
        """Return a gradient rounded to a usual fraction, as a wire: a factor of a matrix product."""

    @abstractmethod
    def factor(self, gradient: int) -> int:
        """Return a gradient rounded to a usual fraction, affine: a factor of a product element by element."""

    @abstractmethod
    def room(self, gradient: int, bits: int) -> int:
        """Return a gradient, rounded to a usual fraction if it could not have so many fractional bits more."""

    @abstractmethod
    def times(self, gradient: int, factor: int, shift: int) -> int:
        """Return `gradient` * `factor` / 2^`shift`, with public integers."""

    @abstractmethod
    def total(self, gradients: Sequence[int]) -> int:
        """Return the sum of gradients of one shape."""

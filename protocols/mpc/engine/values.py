"""Values of a program: what everybody knows of one before it is computed, and what a server holds of one.

Three kinds, from the one that can be used most freely to the one that can be used least freely:

- a **wire**: m = x + lambda is known to both servers, lambda is shared between them and known to the crypto provider;
- **affine**: x = a - R + kappa h, with a and kappa known to both servers, R and h shared and known to the crypto provider (design, section
  2.3). A wire is affine with a = m, R = lambda and no h. Affine values can be multiplied without an opening;
- a **share**: x = x_0 + x_1 modulo 2^64. Wires and affine values can be used as one.

The **bits** of an arg max are shared by XOR, and are an answer only: no operation reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from protocols.mpc.parties.exchange import Party, Ring

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[Pair, Pair]
Kind = Literal["wire", "affine", "share", "bits"]
Part = Literal["R", "h"]
Parts = dict[Part, Ring]

WORD = 64
"""Bits of a row are packed into words."""


class Value(msgspec.Struct, frozen=True):
    """What is known of a value before it runs.

    Attributes:
        shape: without the batch axis, if it is batched.
        kind: how freely it can be used.
        batched: whether there is one for each example, along a first axis that `shape` leaves out.
        parts: the secret parts that it has if it is affine: "R", "h" or both; those of a wire are ("R",).
        cut: of the result of a truncation: the bits that were dropped, and its window.
    """

    shape: Shape
    kind: Kind
    batched: bool = True
    parts: tuple[Part, ...] = ()
    cut: Pair | None = None

    @property
    def size(self) -> int:
        """Elements of one example, or of the whole."""
        return math.prod(self.shape)

    def full(self, examples: int) -> Shape:
        """Return the shape of the array that holds it."""
        return (examples, *self.shape) if self.batched else self.shape

    def rows(self, examples: int) -> Pair:
        """Return rows and columns of the matrix in which it is compared and packed.

        A row is an example; or, of what is not batched, an entry of the first axis, and one row is all where that is shorter than a word.
        """
        if self.batched:
            return examples, self.size
        columns = self.size // self.shape[0]
        return (self.shape[0], columns) if columns >= WORD else (1, self.size)


def wire(shape: Shape, *, batched: bool = True) -> Value:
    """Return what is known of a wire."""
    return Value(shape, "wire", batched, ("R",))


class Affine:
    """x = a - R + kappa h at one server. What nobody asks for is not computed.

    Args:
        a: known to both servers.
        parts: this server's shares of R and h, where the value has them.
        kappa: known to both; None without h.
        c: of what a truncation gives: the opened value that it came from.
        whole: gives this server's share of x, where there is a shorter way than by its parts.
    """

    def __init__(
        self,
        a: Ring | Callable[[], Ring],
        parts: Parts | Callable[[], Parts],
        kappa: Ring | Callable[[], Ring] | None = None,
        c: Ring | None = None,
        whole: Callable[[Party], Ring] | None = None,
    ) -> None:
        self._a, self._parts, self._kappa, self.c, self._whole = a, parts, kappa, c, whole

    @property
    def a(self) -> Ring:
        """What both servers know: of a wire m."""
        if callable(self._a):
            self._a = self._a()
        return self._a

    @property
    def parts(self) -> Parts:
        """This server's shares of the secret parts."""
        if callable(self._parts):
            self._parts = self._parts()
        return self._parts

    @property
    def kappa(self) -> Ring:
        """What multiplies h."""
        assert self._kappa is not None  # only values with a part h are asked
        if callable(self._kappa):
            self._kappa = self._kappa()
        return self._kappa

    @property
    def mask(self) -> Ring:
        """R: of a wire this server's half of lambda."""
        return self.parts["R"]

    def apart(self) -> Affine:
        """Return the same value, computed, in memory of its own: what it was made from can be freed."""
        kappa = None if self._kappa is None else apart(self.kappa)
        return Affine(
            apart(self.a), {part: apart(value) for part, value in self.parts.items()}, kappa, None if self.c is None else apart(self.c)
        )

    def share(self, me: Party) -> Ring:
        """Return this server's share of x."""
        if self._whole is not None:
            return self._whole(me)
        total = self.a.copy() if me.index == 0 else np.zeros_like(self.a)
        if "R" in self.parts:
            total -= self.parts["R"]
        if "h" in self.parts:
            total += self.kappa * self.parts["h"]
        return total

    def moved(self, move: Callable[[Ring], Ring]) -> Affine:
        """Return what a permutation, choice or repetition of elements makes of it."""
        return Affine(
            lambda: move(self.a),
            lambda: {part: move(value) for part, value in self.parts.items()},
            None if self._kappa is None else lambda: move(np.broadcast_to(self.kappa, self.a.shape)),
            whole=lambda me: move(self.share(me)),
        )

    def __repr__(self) -> str:
        return "Affine(...)"  # shares are nobody's to see


def apart(array: Ring) -> Ring:
    """Return an array that is no view of another, which would keep all of that one in memory."""
    return array if array.base is None else array.copy()

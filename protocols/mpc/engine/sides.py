"""What an operation sees of its surroundings: of the program, at a server, at the dealer, and in the clear.

Each side looks values up by the position of the operation that made them. None of them knows what operations there are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from protocols.errors import ProgramError, WindowError
from protocols.mpc.engine.values import Affine, Kind, Parts, Shape, Value, apart
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import Expansion, Key, Layout, Material

_FITS: dict[Kind, tuple[Kind, ...]] = {
    "wire": ("wire",),
    "affine": ("wire", "affine"),
    "share": ("wire", "affine", "share"),
    "bits": ("bits",),
}


@dataclass(frozen=True)
class Scope:
    """The public side: what is known of the values before an operation.

    Attributes:
        values: of the operations before.
        weights: the shapes of the weights that are shared ahead.
        input_shape: of an example that a client sends; None where all values are given by name.
    """

    values: list[Value]
    weights: Sequence[Shape] = ()
    input_shape: Shape | None = None

    @property
    def position(self) -> int:
        """Of the operation that is asked."""
        return len(self.values)

    def operand(self, x: int, kind: Kind = "share") -> Value:
        """Return what is known of an operand.

        Raises:
            ProgramError: it is no earlier value, or cannot be used as `kind`.
        """
        if not 0 <= x < self.position:
            raise ProgramError(f"operand {x} is not an earlier value")
        if self.values[x].kind not in _FITS[kind]:
            raise ProgramError(f"operand {x} is {_A[self.values[x].kind]}, {_A[kind]} is needed")
        return self.values[x]

    def weight(self, index: int, dimensions: int) -> Shape:
        """Return the shape of a weight.

        Raises:
            ProgramError: there is none, or it has another number of axes.
        """
        if not 0 <= index < len(self.weights):
            raise ProgramError(f"there is no weight {index}")
        shape = self.weights[index]
        if len(shape) != dimensions or any(n < 1 for n in shape):
            raise ProgramError(f"weight {index} has shape {shape}, {dimensions} dimensions are needed")
        return shape


_A: dict[Kind, str] = {"wire": "a wire", "affine": "an affine value", "share": "a share", "bits": "an arg max"}


def broadcast(values: Sequence[Value]) -> tuple[Shape, bool]:
    """Return the shape of an element by element result, and whether it is batched.

    Values for each example have as many axes each, and those of length 1 are repeated, as numpy does.

    Raises:
        ProgramError: there is none, or the shapes do not fit.
    """
    if not values:
        raise ProgramError("at least one operand is needed")
    shapes, batched = [value.shape for value in values], any(value.batched for value in values)
    axes = {len(value.shape) for value in values if value.batched}
    if len(axes) > 1 or (axes and max(map(len, shapes)) > min(axes)):
        raise ProgramError(f"values of shapes {shapes} do not fit each other element for element")
    try:
        return np.broadcast_shapes(*shapes), batched
    except ValueError:
        raise ProgramError(f"values of shapes {shapes} do not fit each other element for element") from None


class Arrays(Protocol):
    """An array for each weight of a model: kept, or made anew each time that somebody asks for it."""

    def __getitem__(self, index: int, /) -> Ring:
        """Return that of one weight."""


@dataclass(frozen=True)
class WeightShares:
    """What one server holds of a model.

    Attributes:
        masked: M_W = W + lambda_W of every weight, known to both servers.
        share: this server's additive share W_i of every weight.
    """

    masked: Arrays = field(repr=False)
    share: Arrays = field(repr=False)

    @classmethod
    def of(cls, me: Party, masked: Sequence[Ring], masks: Sequence[Ring]) -> WeightShares:
        """From the masked weights and this server's half lambda_{W,i} of their masks, which the shares are written over."""
        for m, mask in zip(masked, masks, strict=True):
            weight_share(me, m, mask)
        return cls(masked, masks)


def weight_share(me: Party, masked: Ring, mask: Ring) -> Ring:
    """Return W_i, written over this server's half of the mask: -lambda_{W,0} or M_W - lambda_{W,1}."""
    np.negative(mask, out=mask)
    if me.index:
        mask += masked
    return mask


@dataclass
class Server:
    """One server's side of an evaluation.

    Attributes:
        me: which server.
        values: what is known of the values.
        material: its half of the correlated randomness.
        given: what comes from outside, by name: a wire, or a share.
        weights: its shares of what was shared ahead.
        noise: where noise comes from; None where no operation adds any.
        results: what it holds of the values that are still needed.
    """

    me: Party
    values: Sequence[Value]
    material: Material
    given: Mapping[str, Affine | Ring] = field(repr=False)
    weights: WeightShares = WeightShares((), ())
    noise: KeyStream | None = field(default=None, repr=False)
    results: dict[int, Affine | Ring] = field(default_factory=dict, repr=False)

    def leave(self) -> None:
        """Leave a segment behind: what is needed of it later gets memory of its own, and its material is forgotten."""
        self.results = {x: value.apart() if isinstance(value, Affine) else apart(value) for x, value in self.results.items()}
        self.material = Material({}, 0, self.material.examples)

    def share(self, x: int) -> Ring:
        """Return its share of a value."""
        value = self.results[x]
        return value.share(self.me) if isinstance(value, Affine) else value

    def affine(self, x: int) -> Affine:
        """Return a value that both servers know but for its secret parts."""
        value = self.results[x]
        assert isinstance(value, Affine)  # the program has been checked
        return value

    def mask(self, x: int) -> Ring:
        """Return its half of the mask of a wire."""
        return self.affine(x).mask

    def shape(self, at: int) -> Shape:
        """Return the shape of an array that holds a value."""
        return self.values[at].full(self.material.examples)

    def rows(self, x: int) -> Ring:
        """Return its share of a value as a matrix, contiguous."""
        return np.ascontiguousarray(self.share(x)).reshape(self.values[x].rows(self.material.examples))

    def field(self, at: int, name: str) -> Ring:
        """Return a field of the randomness of an operation, (rows, words)."""
        return self.material(at, name)


class Dealer:
    """The crypto provider's side: both halves of the randomness, and the masks of all wires; no value at all.

    Args:
        values: what is known of the values.
        examples: how many are dealt for.
        halves: of both servers, from which their fields are expanded. What is dealt is at first a key stream, the first server's half, and
            becomes the second server's half in place.
        weight_masks: lambda_W of every weight, both halves added.
        given: lambda of every wire that is given, by name.

    Attributes:
        sent: the mask of what a client sends, as soon as the operation that takes it has been dealt for.
    """

    def __init__(
        self,
        values: Sequence[Value],
        examples: int,
        halves: tuple[Expansion, Expansion],
        weight_masks: Arrays = (),
        given: Mapping[str, Ring] | None = None,
    ) -> None:
        self.values, self._examples, self._expanded = values, examples, halves
        self.weight_masks, self.given = weight_masks, given or {}
        self._parts: dict[int, _Later] = {}
        self._halves: tuple[dict[Key, Ring], dict[Key, Ring]] = ({}, {})
        self.sent: Ring | None = None

    def enter(self, layout: Layout) -> Ring:
        """Expand the fields of the next operations, and return the flat array in which server 1's half of what is dealt is made."""
        first, second = self._expanded
        dealt = first.dealt(layout, self._examples)
        views = [layout.views(half.own(layout, self._examples), dealt, self._examples) for half in (first, second)]
        self._halves = views[0], views[1]
        return dealt

    def leave(self) -> None:
        """Forget the fields; what is needed of them later is computed now."""
        for parts in self._parts.values():
            parts.get()
        self._halves = ({}, {})

    def field(self, at: int, name: str) -> Ring:
        """Return a mask of ring elements: the sum of both halves."""
        return self._halves[0][at, name] + self._halves[1][at, name]

    def xor(self, at: int, name: str) -> Ring:
        """Return a mask of bits: the XOR of both halves."""
        return self._halves[0][at, name] ^ self._halves[1][at, name]

    def dealt(self, at: int, name: str) -> Ring:
        """Return a dealt field: server 0's half, to be turned into server 1's in place."""
        return self._halves[0][at, name]

    def give(self, at: int, name: str, secret: Ring) -> None:
        """Turn server 0's half of a dealt field into server 1's share of `secret`."""
        share = self._halves[0][at, name]
        np.subtract(secret.reshape(share.shape), share, out=share)

    def know(self, at: int, parts: Parts | Callable[[], Parts]) -> None:
        """Remember the secret parts of a value, until nothing needs them."""
        self._parts[at] = _Later(parts)

    def seeing(self, xs: Sequence[int]) -> Dealer:
        """Return this side with what is known of some values only, and of these also when others have forgotten them."""
        side = copy.copy(self)
        side._parts = {x: self._parts[x] for x in xs if x in self._parts}
        return side

    def parts(self, x: int) -> Parts:
        """Return the secret parts of a value."""
        return self._parts[x].get()

    def mask(self, x: int) -> Ring:
        """Return the mask of a wire."""
        return self.parts(x)["R"]

    def forget(self, x: int) -> None:
        """Free what is known of a value."""
        self._parts.pop(x, None)

    def shape(self, at: int) -> Shape:
        """Return the shape of an array that holds a value."""
        return self.values[at].full(self._examples)


class _Later:
    """Secret parts that are computed when somebody asks, once."""

    def __init__(self, parts: Parts | Callable[[], Parts]) -> None:
        self._parts = parts

    def get(self) -> Parts:
        """Return them."""
        if callable(self._parts):
            self._parts = self._parts()
        return self._parts


Rounding = Callable[[Shape], Ring]
"""Gives the random bit u of each rounded value, 0 or 1, for a shape."""


@dataclass
class Clear:
    """The side of somebody who knows everything: integers in the clear.

    Attributes:
        values: what is known of the values.
        weights: as integers.
        given: what comes from outside, by name.
        rounding: the random bits of truncations.
        fast: whether kernels compute products with weights, in place of plain numpy.
        results: the values that are still needed.
    """

    values: Sequence[Value]
    weights: Sequence[Ring]
    given: Mapping[str, Ring]
    rounding: Rounding
    fast: bool = False
    results: dict[int, Ring] = field(default_factory=dict)

    def __getitem__(self, x: int) -> Ring:
        """Return a value."""
        return self.results[x]

    def rounded(self, x: int, at: int, drop: int, window: int) -> Ring:
        """Return x / 2^drop, rounded down or up.

        Raises:
            WindowError: |x| > 2^(drop + window - 1) - 2^(drop + 1).
        """
        signed = self[x].view(np.int64)
        check_window(max(int(signed.max(initial=0)), -int(signed.min(initial=0))), drop, window, at)
        exact = signed & np.int64((1 << drop) - 1) == 0
        up = np.where(exact, np.uint64(0), self.rounding(signed.shape))
        t: Ring = (signed >> np.int64(drop)).view(np.uint64) + up
        return t


def check_window(largest: int, drop: int, window: int, at: int) -> None:
    """Refuse a sum outside of its window.

    Raises:
        WindowError: it is.
    """
    limit = (1 << (drop + window - 1)) - (1 << (drop + 1))
    if largest > limit:
        raise WindowError(f"operation {at}: a sum of {largest} is outside of its window, which ends at {limit}")

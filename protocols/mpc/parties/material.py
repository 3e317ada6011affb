"""Correlated randomness: what each operation needs, where it lies in memory, and one party's half of it.

A chunk of material serves a number of examples. Each party holds two flat arrays of ring words. `own` is expanded by each party from its
own key (masks, which are the sum of two independent halves). `dealt` is expanded from its key by party 0, and sent by the crypto provider
to party 1, so that the two halves add up (or XOR) to what the provider computed from the masks.

Each field of an operation is contiguous, (examples, words), so that any range of examples is a view and is used once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocols.errors import SharingError
from protocols.mpc.parties.keystream import KeyStream, derive

Ring = npt.NDArray[np.uint64]
Key = tuple[int, str]
"""The position of an operation and the name of one of its fields."""


@dataclass(frozen=True)
class Field:
    """An array of randomness of one operation: `words` ring words an example; `dealt` or expanded by both parties."""

    name: str
    words: int
    dealt: bool = False


class Layout:
    """Where the fields of a program lie.

    Attributes:
        own: words that each party expands by itself, for one example.
        dealt: words that the crypto provider sends to party 1, for one example.
    """

    def __init__(self, entries: Iterable[tuple[int, Field, int | None]]) -> None:
        """Of (position, field, rows): how many rows a field has, or None for a row an example."""
        self._entries = tuple(entries)
        self.whole = frozenset((at, entry.name) for at, entry, rows in self._entries if rows is not None)
        self._once, self._each = [0, 0], [0, 0]
        for _, entry, rows in self._entries:
            if rows is None:
                self._each[entry.dealt] += entry.words
            else:
                self._once[entry.dealt] += rows * entry.words
        self.own, self.dealt = self.words(1, dealt=False), self.words(1, dealt=True)

    def words(self, examples: int, *, dealt: bool) -> int:
        """Return how many words are expanded, or dealt, for so many examples."""
        return self._once[dealt] + examples * self._each[dealt]

    @property
    def bytes_per_example(self) -> int:
        """Memory that one party needs for the material of one example, and of what is there once."""
        return 8 * (self.own + self.dealt)

    def sizes(self, examples: int) -> dict[int, int]:
        """Return the bytes that each operation needs, by position, of those that need any."""
        sizes: dict[int, int] = {}
        for at, entry, rows in self._entries:
            sizes[at] = sizes.get(at, 0) + 8 * entry.words * (examples if rows is None else rows)
        return sizes

    def of(self, positions: range) -> Layout:
        """Return that of some of the operations."""
        return Layout(entry for entry in self._entries if entry[0] in positions)

    def views(self, own: Ring, dealt: Ring, examples: int) -> dict[Key, Ring]:
        """Return the fields (rows, words) of two flat arrays."""
        views: dict[Key, Ring] = {}
        at = [0, 0]
        for position, entry, rows in self._entries:
            count = examples if rows is None else rows
            start, stop = at[entry.dealt], at[entry.dealt] + count * entry.words
            views[position, entry.name] = (dealt if entry.dealt else own)[start:stop].reshape(count, entry.words)
            at[entry.dealt] = stop
        return views


@dataclass(frozen=True)
class Material:
    """A party's half of the randomness for the examples start..stop of a chunk. Used once, then forgotten.

    Attributes:
        fields: (rows, words) each.
        start: the first example.
        stop: the example after the last.
        whole: the fields that are there once, and not for each example.
    """

    fields: dict[Key, Ring] = field(repr=False)
    start: int
    stop: int
    whole: frozenset[Key] = frozenset()

    @classmethod
    def of(cls, layout: Layout, key: bytes, examples: int, dealt: Ring | None) -> Material:
        """Expand a party's half from its key; `dealt` is what the provider sent to party 1, None at party 0.

        Raises:
            SharingError: another number of words was dealt than the layout needs.
        """
        return Expansion(key).material(layout, examples, dealt)

    @property
    def examples(self) -> int:
        """How many examples it serves."""
        return self.stop - self.start

    def __call__(self, position: int, name: str) -> Ring:
        """Return the field `name` of the operation at `position`: (rows, words)."""
        found = self.fields[position, name]
        return found if (position, name) in self.whole else found[self.start : self.stop]

    def slice(self, start: int, stop: int) -> Material:
        """Return the material of a range of the examples, as views."""
        return Material(self.fields, self.start + start, self.start + stop, self.whole)

    def copy(self) -> Material:
        """Return the same in memory of its own, so that the rest of the chunk can be freed."""
        fields = {key: self(*key).copy() for key in self.fields}
        return Material(fields, 0, self.examples, self.whole)


class Expansion:
    """A party's half of the randomness of a chunk as it is expanded from the party's key: one segment of a program after the other.

    The words are the same in however many segments they are asked for. Not for use by two threads at once.

    Args:
        key: of the chunk.
    """

    def __init__(self, key: bytes) -> None:
        self._own, self._dealt = KeyStream(derive(key, "own")), KeyStream(derive(key, "dealt"))

    def own(self, layout: Layout, examples: int) -> Ring:
        """Return what the party expands for itself."""
        return self._own.words(layout.words(examples, dealt=False))

    def dealt(self, layout: Layout, examples: int) -> Ring:
        """Return what party 0 expands as its half of what is dealt."""
        return self._dealt.words(layout.words(examples, dealt=True))

    def material(self, layout: Layout, examples: int, dealt: Ring | None) -> Material:
        """Return the material of a layout; `dealt` is what the provider sent to party 1, None at party 0.

        Raises:
            SharingError: another number of words was dealt than the layout needs.
        """
        needed = layout.words(examples, dealt=True)
        if dealt is not None and dealt.shape != (needed,):
            raise SharingError(f"{dealt.size} words were dealt for {examples} examples, {needed} are needed")
        own = self.own(layout, examples)
        return Material(layout.views(own, self.dealt(layout, examples) if dealt is None else dealt, examples), 0, examples, layout.whole)


def packed(elements: int) -> int:
    """Words that hold one bit of each of so many elements."""
    return -(-elements // 64)

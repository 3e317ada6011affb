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
    """Where the fields of a program lie, in words an example.

    Attributes:
        own: words an example that each party expands by itself.
        dealt: words an example that the crypto provider sends to party 1.
    """

    def __init__(self, fields: Iterable[tuple[int, Field]]) -> None:
        self.own = 0
        self.dealt = 0
        self._at: dict[Key, tuple[bool, int, int]] = {}
        for position, entry in fields:
            start = self.dealt if entry.dealt else self.own
            self._at[position, entry.name] = (entry.dealt, start, entry.words)
            if entry.dealt:
                self.dealt += entry.words
            else:
                self.own += entry.words

    @property
    def bytes_per_example(self) -> int:
        """Memory that one party needs for the material of one example."""
        return 8 * (self.own + self.dealt)

    def views(self, own: Ring, dealt: Ring, examples: int) -> dict[Key, Ring]:
        """The fields (examples, words) of two flat arrays."""
        return {
            key: (dealt if is_dealt else own)[start * examples : (start + words) * examples].reshape(examples, words)
            for key, (is_dealt, start, words) in self._at.items()
        }


@dataclass(frozen=True)
class Material:
    """A party's half of the randomness for the examples start..stop of a chunk. Used once, then forgotten."""

    fields: dict[Key, Ring] = field(repr=False)
    start: int
    stop: int

    @property
    def examples(self) -> int:
        """How many examples it serves."""
        return self.stop - self.start

    def __call__(self, position: int, name: str) -> Ring:
        """The field `name` of the operation at `position`: (examples, words)."""
        return self.fields[position, name][self.start : self.stop]

    def slice(self, start: int, stop: int) -> Material:
        """The material of a range of the examples, as views."""
        return Material(self.fields, self.start + start, self.start + stop)


def packed(elements: int) -> int:
    """Words that hold one bit of each of so many elements."""
    return -(-elements // 64)


def own_words(key: bytes, layout: Layout, examples: int) -> Ring:
    """What a party expands for itself: the `own` array of a chunk."""
    return KeyStream(derive(key, "own")).words(layout.own * examples)


def dealt_words(key: bytes, layout: Layout, examples: int) -> Ring:
    """What party 0 expands as its half of what is dealt."""
    return KeyStream(derive(key, "dealt")).words(layout.dealt * examples)

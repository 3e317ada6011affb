"""Arrays that are larger than a message may be: cut by who sends them, put together by who receives them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

import numpy as np

from protocols.errors import SharingError
from protocols.mpc.parties.exchange import Ring

PIECE = 32 << 20
"""Bytes of a piece, at most: on a slow network each has a deadline of its own, and its receiver holds little beside the whole."""
BESIDE = 64 << 10
"""Bytes that a message may have beside its arrays."""


def pieces(arrays: Sequence[Ring], most: int) -> Iterator[list[Ring]]:
    """Yield the words of arrays in their order, in flat parts, so many together that they have `most` bytes or less."""
    words = left = most // 8
    group: list[Ring] = []
    for array in arrays:
        flat, start = array.reshape(-1), 0
        while start < flat.size:
            part = flat[start : start + left]
            group.append(part)
            start, left = start + part.size, left - part.size
            if not left:
                yield group
                group, left = [], words
    if group:
        yield group


def _most(limit: int) -> int:
    return min(limit - BESIDE, PIECE)


def fits(size: int, limit: int) -> bool:
    """Return whether arrays of so many bytes go in one message, if the largest that the receiver takes has `limit`."""
    return size <= _most(limit)


async def sent_ahead(arrays: Sequence[Ring], limit: int, send: Callable[[list[Ring]], Awaitable[None]]) -> list[Ring]:
    """Send arrays in pieces, one after the other, if they are more than one; return what is left for that message: all, or nothing.

    Args:
        arrays: what is to be sent.
        limit: bytes of the largest message that the receiver takes.
        send: sends a piece, and returns when it has arrived.
    """
    if fits(sum(array.nbytes for array in arrays), limit):
        return list(arrays)
    for piece in pieces(arrays, _most(limit)):
        await send(piece)
    return []


class Arriving:
    """Words that arrive in pieces, each once and in order; how many there will be is known before.

    Args:
        expected: how many.
    """

    def __init__(self, expected: int) -> None:
        self._expected, self._here = expected, 0
        self._words: Ring | None = None

    def add(self, parts: Sequence[Ring]) -> None:
        """Take the next piece.

        Raises:
            SharingError: it has more than is missing.
        """
        size = sum(part.size for part in parts)
        if self._here + size > self._expected:
            raise SharingError(f"{self._here + size} words have arrived in pieces, {self._expected} were expected")
        if self._words is None and len(parts) == 1 and size == self._expected:
            self._words, self._here = parts[0].reshape(-1), size  # all at once: as it is
            return
        if self._words is None:
            self._words = np.empty(self._expected, np.uint64)
        for part in parts:
            self._words[self._here : self._here + part.size] = part.reshape(-1)
            self._here += part.size

    def complete(self) -> Ring:
        """Return all of them.

        Raises:
            SharingError: some are missing.
        """
        if self._here != self._expected:
            raise SharingError(f"{self._here} words have arrived in pieces, {self._expected} were expected")
        return np.empty(0, np.uint64) if self._words is None else self._words


def carved(words: Ring, shapes: Sequence[tuple[int, ...]]) -> list[Ring]:
    """Return the arrays of these shapes that words are, one after the other."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    ends = np.cumsum([0, *sizes])
    return [words[start:stop].reshape(shape) for start, stop, shape in zip(ends, ends[1:], shapes, strict=False)]

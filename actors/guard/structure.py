"""How much a header may hold, counted on its MessagePack before a single object is made of it.

A byte of MessagePack can become some 200 bytes of Python objects (an empty set of a declared `set[int]`, from the byte of an empty list).
So the bytes of a header are bounded, and so are the lists, maps and extensions in it, however deep they are.
"""

from __future__ import annotations

from actors.errors import TooLarge

HEADER_LIMIT = 1 << 20
"""Bytes of a header. Arrays do not count; long bytes and text do."""
MAX_CONTAINERS = 1 << 15
"""Lists, maps and extensions in one header, nested ones included."""
MAX_ARRAYS = 1 << 13
MAX_REFERENCES = 1 << 10
MAX_DIMENSIONS = 32
SMALL = 4 << 10
"""Bytes of a header up to which counting does not pay: there cannot be too much in it."""

_FIXED = bytes((*range(0x80, 0xA0), *range(0xD4, 0xD9), *range(0xDC, 0xE0), *range(0xC7, 0xCA)))
"""The marks of lists, maps and extensions."""


def _tables() -> tuple[list[int], list[int]]:
    """For each mark: the bytes of its token as far as they are fixed, and how many of them hold the length of what follows."""
    fixed, length = [1] * 256, [0] * 256
    for mark in range(0xA0, 0xC0):  # short text
        fixed[mark] = 1 + (mark & 31)
    for first in (0xC4, 0xD9):  # bytes and text, of length u8, u16, u32
        for step in range(3):
            fixed[first + step] = 1 + (1 << step)
            length[first + step] = 1 << step
    for step in range(3):  # extensions of length u8, u16, u32
        fixed[0xC7 + step] = 2 + (1 << step)
        length[0xC7 + step] = 1 << step
    for step in range(5):  # extensions of 1, 2, 4, 8, 16 bytes
        fixed[0xD4 + step] = 2 + (1 << step)
    for step in range(4):  # u8 to u64, i8 to i64
        fixed[0xCC + step] = fixed[0xD0 + step] = 1 + (1 << step)
    fixed[0xCA], fixed[0xCB] = 5, 9  # floats
    fixed[0xDC] = fixed[0xDE] = 3  # lists and maps of length u16
    fixed[0xDD] = fixed[0xDF] = 5  # of length u32
    return fixed, length


_WIDTH, _LENGTH = _tables()
_COUNTED = [mark in _FIXED for mark in range(256)]


def check_structure(header: bytes | memoryview) -> None:
    """Refuse a header with too many lists, maps and extensions. One that is no MessagePack passes; its decoder refuses it.

    Raises:
        TooLarge: there are more than `MAX_CONTAINERS`.
    """
    data = bytes(header)
    if len(data) - len(data.translate(None, _FIXED)) <= MAX_CONTAINERS:
        return  # not even if each byte that may be a mark is one
    if _more_than(MAX_CONTAINERS, data):
        raise TooLarge(f"a header with more than {MAX_CONTAINERS} lists, maps and extensions; put many values into an array")


def _more_than(most: int, data: bytes) -> bool:
    """Whether there are more than `most` lists, maps and extensions."""
    width, lengths, counted = _WIDTH, _LENGTH, _COUNTED
    place, end, count = 0, len(data), 0
    while place < end:
        mark = data[place]
        if counted[mark]:
            count += 1
            if count > most:
                return True
        if lengths[mark]:
            place += int.from_bytes(data[place + 1 : place + 1 + lengths[mark]], "big")
        place += width[mark]
    return False

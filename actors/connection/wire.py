"""Frames to bytes and bytes to frames. No event loop, no socket: bytes come in any pieces, and frames come out.

A frame is `u32 length of the header (little-endian) + header (MessagePack) + the raw bytes of its arrays, one after the other`.
The first frame on a connection is a `Hello`. How much a header holds is counted before it is parsed; sizes, dtypes, shapes and depth are
checked before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np

from actors.errors import Malformed, TooLarge, Truncated, UnknownType, VersionMismatch
from actors.guard.structure import HEADER_LIMIT, MAX_ARRAYS, MAX_DIMENSIONS, MAX_REFERENCES, SMALL, check_structure
from actors.guard.words import shown
from actors.messages.frames import PROTOCOL, VERSION, AnyFrame, Failed, FailureReport, Frame, Hello, Invocation, OneWay, Payload, Reply
from actors.messages.portable import ARGUMENTS_LIMIT
from actors.messages.values import DTYPES, Array

LONGEST_NONCE = 64
WORDS = 200
"""Characters of what the other side sent that an error quotes."""

_LENGTH = struct.Struct("<I")


class Packet(NamedTuple):
    """A frame, and the arrays of its payload."""

    frame: Frame
    arrays: list[Array]


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(AnyFrame)


class Encoded(NamedTuple):
    """A frame as bytes: the header with its length, and views of the arrays' bytes."""

    header: bytes
    buffers: list[memoryview]

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.header) + (sum(buffer.nbytes for buffer in self.buffers) if self.buffers else 0)

    def joined(self) -> Encoded:
        """Return the same bytes in one piece that shares no memory with the arrays."""
        return Encoded(b"".join((self.header, *self.buffers)), []) if self.buffers else self

    def detach(self) -> None:
        """From now on it shares no memory with arrays that can be changed."""
        self.buffers[:] = [buffer if _constant(buffer) else memoryview(bytes(buffer)) for buffer in self.buffers]


def encode(packet: Packet) -> Encoded:
    """Encode a frame as bytes.

    Args:
        packet: its arrays are in C order and little-endian, in the order of the specifications in its payload.

    Raises:
        TooLarge: the header is larger than `HEADER_LIMIT`, or holds more than the other side takes.
    """
    header = bytearray(4)
    _encoder.encode_into(packet.frame, header, 4)
    length = len(header) - 4
    if length > HEADER_LIMIT:
        raise TooLarge(f"a header of {length} bytes; at most {HEADER_LIMIT} can be sent. Put long bytes into a uint8 array")
    _LENGTH.pack_into(header, 0, length)
    if length > SMALL:
        check_structure(memoryview(header)[4:])
    return Encoded(bytes(header), [_bytes_of(array) for array in packet.arrays if array.size])


def specification(array: Array) -> tuple[str, tuple[int, ...]]:
    """(dtype, shape) as in a payload."""
    return array.dtype.str, array.shape


def _bytes_of(array: Array) -> memoryview:
    """Return the memory of a C-ordered array. Reshaping comes first, since a 0-d array has no byte view."""
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _constant(buffer: memoryview) -> bool:
    """Whether the memory belongs to an array that is read-only, or to bytes: not to one of which this is a read-only view."""
    owner: object = buffer.obj
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return False
        owner = owner.base
    return owner is None or isinstance(owner, bytes)


class FrameReader:
    """Finds frames in a stream of bytes.

    Args:
        limit: the largest frame in bytes, arrays included.

    Attributes:
        frames: how many have been found.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()  # of a header that is not complete
        self._frame: Frame | None = None  # whose arrays are not complete
        self._arrays: list[Array] = []
        self._holes: list[memoryview] = []  # memory of the arrays that is still to be filled, in reverse
        self._greeted = False
        self.frames = 0

    @property
    def unfinished(self) -> bool:
        """Whether a frame has begun and has not ended."""
        return bool(self._pending) or self._frame is not None

    @property
    def room(self) -> int:
        """Bytes that are missing of the array that is being filled; 0 if none is."""
        return len(self._holes[-1]) if self._holes else 0

    def fill(self, piece: bytes) -> None:
        """Read the next bytes, fewer than there is `room`: the same as `feed`, where nothing can be complete."""
        self._fill(memoryview(piece))

    def feed(self, piece: bytes) -> Iterator[Packet]:
        """Read the next bytes; yield the frames that are complete now.

        Raises:
            Malformed, UnknownType, TooLarge, VersionMismatch: nothing can be read after that.
        """
        view = memoryview(piece)
        while view:
            if self._frame is None:
                view = self._read_header(view)
            if self._frame is not None:
                view = self._fill(view)
                if not self._holes:
                    packet = Packet(self._frame, self._arrays)
                    self._frame, self._arrays = None, []
                    self.frames += 1
                    yield packet

    def end(self) -> None:
        """Check that no frame has begun and not ended, where the stream, or a message of it, ends.

        Raises:
            Truncated: in the middle of a frame.
        """
        if self.unfinished:
            missing = sum(hole.nbytes for hole in self._holes)
            what = (
                f"{missing} bytes of its arrays are missing" if self._frame is not None else f"after {len(self._pending)} bytes of a header"
            )
            raise Truncated(f"a message ends within a frame: {what}")

    def _read_header(self, view: memoryview) -> memoryview:
        """Read as much as is there of a header; parse it if it is complete. Return the rest."""
        if self._pending:
            wanted = max(4, self._wanted()) - len(self._pending)
            self._pending += view[:wanted]
            view = view[wanted:]
            if len(self._pending) < 4 or len(self._pending) < self._wanted():
                return view
            whole, self._pending = memoryview(bytes(self._pending)), bytearray()
            self._begin(whole[4:])
            return view
        if len(view) >= 4:
            length = self._header_length(view)
            if len(view) >= 4 + length:
                self._begin(view[4 : 4 + length])
                return view[4 + length :]
        self._pending += view
        return view[:0]

    def _wanted(self) -> int:
        """Bytes of the pending header, length included; 0 while that is unknown."""
        return 4 + self._header_length(memoryview(self._pending)) if len(self._pending) >= 4 else 0

    def _header_length(self, view: memoryview) -> int:
        length: int = _LENGTH.unpack_from(view)[0]
        if length > min(HEADER_LIMIT, self._limit):
            raise TooLarge(f"a header of {length} bytes was announced; at most {min(HEADER_LIMIT, self._limit)} are taken")
        return length

    def _begin(self, header: memoryview) -> None:
        """Parse a header and make room for the arrays of the frame."""
        frame = _parse(header)
        if not self._greeted:
            _check_greeting(frame)
            self._greeted = True
        elif isinstance(frame, Hello):
            raise Malformed("a second greeting on the same connection")
        self._frame = frame
        if isinstance(frame, (Invocation, OneWay, Reply)):
            self._make_room(frame.payload, len(header))
        elif isinstance(frame, (Failed, FailureReport)) and len(frame.failure.arguments) > ARGUMENTS_LIMIT:
            raise TooLarge(f"an error with {len(frame.failure.arguments)} arguments; at most {ARGUMENTS_LIMIT} are taken")

    def _make_room(self, value: Payload, header: int) -> None:
        if len(value.refs) > MAX_REFERENCES:
            raise TooLarge(f"{len(value.refs)} references were announced; at most {MAX_REFERENCES} are taken in one frame")
        if value.arrays:
            sizes = _check_arrays(value.arrays, self._limit - header)
            self._arrays = [np.empty(shape, DTYPES[dtype]) for dtype, shape in value.arrays]
            self._holes = [_bytes_of(array) for array, size in zip(self._arrays, sizes, strict=True) if size][::-1]

    def _fill(self, view: memoryview) -> memoryview:
        """Copy bytes into the arrays of the frame; return the rest."""
        while self._holes and len(view):
            hole = self._holes.pop()
            count = min(len(hole), len(view))
            hole[:count] = view[:count]
            view = view[count:]
            if count < len(hole):
                self._holes.append(hole[count:])
        return view


def _parse(header: memoryview) -> Frame:
    if len(header) > SMALL:
        check_structure(header)
    try:
        return _decoder.decode(header)
    except msgspec.ValidationError as error:
        if str(error).startswith("Invalid value") and str(error).endswith("`$[0]`"):
            raise UnknownType(f"a frame of an unknown kind: {shown(str(error), WORDS)}") from None
        raise Malformed(f"a header that is none: {shown(str(error), WORDS)}") from None
    except RecursionError:
        raise Malformed("a header that is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"a header that is none: {shown(str(error), WORDS)}") from None


def _check_greeting(frame: Frame) -> None:
    if not isinstance(frame, Hello):
        raise Malformed(f"the first frame is of type {type(frame).__name__}; a Hello was expected")
    if (frame.protocol, frame.version) != (PROTOCOL, VERSION):
        older = "the other side" if frame.version < VERSION else "this side"
        advice = f": upgrade {older}, see docs/deployment.md" if frame.protocol == PROTOCOL else ""
        raise VersionMismatch(
            f"the other side speaks {frame.protocol[:40]!r} version {frame.version}; here it is {PROTOCOL!r} version {VERSION}{advice}"
        )
    if not (isinstance(frame.nonce, bytes) and len(frame.nonce) <= LONGEST_NONCE):
        raise Malformed(f"a greeting whose nonce is none; at most {LONGEST_NONCE} bytes are taken")
    if type(frame.busy) is not int:
        raise Malformed("a greeting that does not say in whole seconds how long its sender may be busy")


def _check_arrays(specifications: list[tuple[str, tuple[int, ...]]], limit: int) -> list[int]:
    """Check the announced arrays; return their sizes in bytes."""
    if len(specifications) > MAX_ARRAYS:
        raise TooLarge(f"{len(specifications)} arrays were announced; at most {MAX_ARRAYS} are taken in one frame")
    sizes = []
    for dtype, shape in specifications:
        if dtype not in DTYPES:
            raise UnknownType(f"an array of dtype {dtype[:20]!r} was announced; known are {', '.join(DTYPES)}")
        if len(shape) > MAX_DIMENSIONS or any(length < 0 for length in shape):
            raise Malformed(f"an array with {len(shape)} axes was announced, or with a negative one; at most {MAX_DIMENSIONS} are taken")
        if math.prod(max(length, 1) for length in shape) > limit:
            raise TooLarge(f"an array of shape {shown(str(shape), WORDS)} was announced; at most {limit} bytes are taken")
        sizes.append(math.prod(shape) * DTYPES[dtype].itemsize)
    if sum(sizes) > limit:
        raise TooLarge(f"arrays of {sum(sizes)} bytes were announced; at most {limit} are taken")
    return sizes


def hello(limit: int, nonce: bytes = b"", busy: int = 0) -> Packet:
    """Build the greeting of this side."""
    return Packet(Hello(PROTOCOL, VERSION, limit, nonce, busy), [])


def payload(body: bytes, arrays: list[Array], refs: list[tuple[str, str]]) -> Payload:
    """Build a value that is ready to be put into a frame.

    Raises:
        TooLarge: it has more arrays or references than the other side takes.
    """
    if len(arrays) > MAX_ARRAYS or len(refs) > MAX_REFERENCES:
        raise TooLarge(
            f"{len(arrays)} arrays and {len(refs)} references in one message; at most {MAX_ARRAYS} and {MAX_REFERENCES} can be sent. "
            "Send several messages, or put many small arrays into one"
        )
    return Payload(msgspec.Raw(body), [specification(array) for array in arrays], refs)

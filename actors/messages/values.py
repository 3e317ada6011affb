"""The values that messages are made of, and how they are taken apart: a MessagePack body, with arrays and references beside it.

In the body an array or a reference is an extension that holds its position in the list beside the body. Nothing here is unpickled
or imported by name: what arrives is made of plain values, arrays and references only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import msgpack

from actors.errors import MessageRejected
from actors.messages.reference import ActorRef

Array = npt.NDArray[Any]

_KINDS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128"
DTYPES = {dtype.str: dtype for dtype in (np.dtype(name).newbyteorder("<") for name in _KINDS.split())}
"""The dtypes that can be sent, by the name that stands for them on the wire. All travel in little-endian order."""

ARRAY, REFERENCE = 1, 2
PLAIN = "None, bool, int, float, str, bytes, list, tuple, set, dict, numpy arrays, references, msgspec.Struct and dataclasses"


class Packed(NamedTuple):
    """A value taken apart: `body` is MessagePack; the extensions in it point into `arrays` (C order, little-endian) and `refs`."""

    body: bytes
    arrays: list[Array]
    refs: list[ActorRef]


class _Packing:
    """Collects what does not go into the body."""

    __slots__ = ("arrays", "copy", "refs")

    def __init__(self, copy: bool) -> None:
        self.copy = copy
        self.arrays: list[Array] = []
        self.refs: list[ActorRef] = []

    def extension(self, value: object) -> Any:
        if isinstance(value, np.ndarray):
            self.arrays.append(_ordered(value, self.copy))
            return msgpack.Ext(ARRAY, (len(self.arrays) - 1).to_bytes(4, "big"))
        if isinstance(value, ActorRef):
            self.refs.append(ActorRef(value._transport, value._name))  # its class and options stay behind
            return msgpack.Ext(REFERENCE, (len(self.refs) - 1).to_bytes(4, "big"))
        if isinstance(value, np.generic) and isinstance(value.item(), (bool, int, float)):
            return value.item()
        raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} cannot be sent; these can: {PLAIN}")


def _ordered(array: Array, copy: bool) -> Array:
    """Return the same elements in C order and little-endian; 0-d stays 0-d."""
    dtype = DTYPES.get(array.dtype.newbyteorder("<").str)
    if dtype is None or isinstance(array, np.ma.MaskedArray):
        what = "a masked array" if dtype else f"an array of dtype {array.dtype}"
        raise TypeError(f"{what} cannot be sent; arrays of these dtypes can: {_KINDS}")
    return np.array(array, dtype, order="C") if copy else np.asarray(array, dtype, order="C")


def pack(value: Any, *, copy: bool) -> Packed:
    """Take a value apart.

    Args:
        value: nested plain values, arrays and references.
        copy: copy all arrays; otherwise those that are in order already are views.

    Raises:
        TypeError: something in it cannot be sent. The message names its type and shows no value.
        OverflowError: an integer that does not fit 64 bits.
        RecursionError: it is nested too deeply.
    """
    packing = _Packing(copy)
    return Packed(msgpack.encode(value, enc_hook=packing.extension), packing.arrays, packing.refs)


class _Unpacking:
    __slots__ = ("arrays", "refs")

    def __init__(self, packed: Packed) -> None:
        self.arrays: list[Array | None] = list(packed.arrays)
        self.refs = packed.refs

    def extension(self, code: int, data: memoryview) -> Array | ActorRef:
        index = int.from_bytes(data, "big")
        if code == REFERENCE and index < len(self.refs):
            return self.refs[index]
        if code == ARRAY and index < len(self.arrays):
            array, self.arrays[index] = self.arrays[index], None
            if array is not None:
                return array
        raise MessageRejected(f"extension {code} number {index} stands for no array or reference of this message")


def _no_extension(code: int, data: memoryview) -> NoReturn:
    raise MessageRejected(f"extension {code} stands for no array or reference of this message")


def unpack(packed: Packed, struct: type[msgspec.Struct], convert: Callable[[Any, Any], Any]) -> Any:
    """Put a value together again, as an instance of `struct`; `convert(type, value)` makes what is no plain value.

    Raises:
        msgspec.ValidationError: it does not fit the types of `struct`.
        MessageRejected: it refers to arrays or references that did not come with it.
    """
    if packed.arrays or packed.refs:
        extension: Callable[[int, memoryview], Any] = _Unpacking(packed).extension
    else:
        extension = _no_extension
    return msgpack.decode(packed.body, type=struct, ext_hook=extension, dec_hook=convert)

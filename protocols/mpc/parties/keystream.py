"""Key streams: all secret randomness of `protocols` but for the keys themselves, which come from the operating system.

AES-128 in counter mode (NIST SP 800-38A, section 6.5) through one long-lived OpenSSL context; sub keys by HKDF-SHA256 (RFC 5869).
The speed assumes that the processor has AES instructions. This file knows nothing of what the numbers are for.
"""

from __future__ import annotations

import os
import sys
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.mpc.numbers.ring import Ring

KEY_BYTES: Final = 16
MAX_WORDS: Final = 1 << 65
"""The words of 2^64 blocks of 16 bytes: no stream gives more."""

_ZEROS: Final = bytes(1 << 18)  # what is encrypted; 64 KB to 1 MB a call is fastest


class KeyStream:
    """The words of AES-128-CTR under one key, each given once, in order.

    Word i is bytes 8i to 8i + 7 of the key stream with the initial counter 0, little-endian. Two streams of one key give the same
    words: that is how two parties share randomness, and how tests get a seed. A position never repeats within a stream, so whoever
    needs words twice for different things derives two keys (`derive`). Not for use by two threads at once.

    Args:
        key: 16 bytes.

    Raises:
        ValueError: the key has another length.

    Example:
        >>> KeyStream(bytes(16)).words(2)
        array([4263935709876578662, 3326810793440857224], dtype=uint64)
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key has {len(key)} bytes: {KEY_BYTES} are needed")
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._used = 0

    def __repr__(self) -> str:
        return f"<KeyStream at word {self._used}>"

    def fill(self, out: Ring) -> None:
        """Overwrite `out` with the next `out.size` words.

        Args:
            out: any shape, uint64, C-contiguous, writable.

        Raises:
            ValueError: `out` is not such an array, or the stream would end.
        """
        if out.dtype != np.uint64 or not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"out is {out.dtype} with strides {out.strides}: a C-contiguous uint64 array that can be written is needed")
        if self._used + out.size > MAX_WORDS:
            raise ValueError(f"the stream has given {self._used} words and ends at {MAX_WORDS}: derive a new key")
        target = out.reshape(-1).view(np.uint8).data
        zeros = memoryview(_ZEROS)
        for start in range(0, len(target), len(zeros)):
            chunk = target[start : start + len(zeros)]
            self._encryptor.update_into(zeros[: len(chunk)], chunk)
        if sys.byteorder == "big":
            out.byteswap(inplace=True)
        self._used += out.size

    def words(self, shape: int | tuple[int, ...]) -> Ring:
        """Return a new array of `shape`, uint64, with the next words: uniform over Z_2^64.

        Raises:
            ValueError: the stream would end.
        """
        out = np.empty(shape, np.uint64)
        self.fill(out)
        return out


def derive(key: bytes, *labels: str | bytes | int) -> bytes:
    """Derive a sub key: HKDF-SHA256 (RFC 5869) of `key` without salt, with the labels as its info.

    Each label is encoded as its kind, its length in 8 bytes, and itself, so that two different sequences of labels never give one
    encoding. Sub keys of different labels are independent, and none of them tells `key`.

    Args:
        key: at least 16 bytes, uniform.
        labels: what the sub key is for, at least one: text, bytes or integers of any size.

    Returns:
        16 bytes.

    Raises:
        ValueError: the key is shorter, or there is no label.

    Example:
        >>> derive(bytes(16), "wire", 3) == derive(bytes(16), "wire", "3")
        False
    """
    if len(key) < KEY_BYTES:
        raise ValueError(f"the key has {len(key)} bytes: at least {KEY_BYTES} are needed")
    if not labels:
        raise ValueError("there is no label: say what the sub key is for")
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"".join(map(_encode, labels))).derive(key)


def _encode(label: str | bytes | int) -> bytes:
    match label:
        case str():
            kind, content = b"s", label.encode()
        case bytes():
            kind, content = b"b", label
        case _:
            kind, content = b"i", str(int(label)).encode()
    return kind + len(content).to_bytes(8, "big") + content


def fresh_key() -> bytes:
    """Draw a new key from the operating system: 16 bytes."""
    return os.urandom(KEY_BYTES)

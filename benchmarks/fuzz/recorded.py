"""The recorded corpus: small inputs of each target that reach something of their own, a file for each in `corpus/`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

FOLDER = Path(__file__).parent / "corpus"
LARGEST = 2048
"""Bytes of an input that is recorded."""
MOST = 300
"""Inputs of one target."""


def recorded(target: str) -> list[bytes]:
    """Return the inputs of a target, the shortest first; none if nothing was recorded."""
    path = FOLDER / f"{target}.mpk"
    return msgspec.msgpack.decode(path.read_bytes(), type=list[bytes]) if path.is_file() else []


def record(target: str, found: Iterable[bytes]) -> int:
    """Add inputs, the shortest ones if there are too many; return how many there are now."""
    kept = sorted({one for one in (*recorded(target), *found) if len(one) <= LARGEST}, key=lambda one: (len(one), one))[:MOST]
    (FOLDER / f"{target}.mpk").write_bytes(msgspec.msgpack.encode(kept))
    return len(kept)

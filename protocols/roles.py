"""Who does what among three equals: derived by everybody alike from the name of a model, so that no one is always the helper."""

from __future__ import annotations

from hashlib import sha256

from protocols.hosting import Addresses


def helper_of(name: str) -> int:
    """The place, 0 to 2, of the worker that helps with what has this name: SHA-256 modulo 3. Public."""
    return int.from_bytes(sha256(name.encode()).digest(), "big") % 3


def roles(urls: tuple[str, str, str], helper: int) -> Addresses:
    """The worker at place `helper` helps, and the two after it, in a circle, are servers 0 and 1. All must list the workers alike."""
    return Addresses((urls[(helper + 1) % 3], urls[(helper + 2) % 3]), urls[helper], helper)

"""Where the three workers are in their roles for one name, as owners and clients see a cluster."""

from __future__ import annotations

from protocols.authority.seats import helper_of
from protocols.serving.hosting import Addresses

__all__ = ["helper_of", "roles"]


def roles(urls: tuple[str, str, str], helper: int) -> Addresses:
    """Return the urls of three equals in their roles: the worker at place `helper` helps, the two after it are servers 0 and 1.

    All who use a cluster must list the workers alike.
    """
    return Addresses((urls[(helper + 1) % 3], urls[(helper + 2) % 3]), urls[helper], helper)

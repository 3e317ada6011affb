"""What an owner tells of a failure: its kind, in words of this library. Texts of others quote data and paths: they stay in its log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TypeVar

from actors import ActorError, RemoteError
from federated.errors import FederatedError, OwnerFailed
from protocols.errors import ProtocolError

R = TypeVar("R")

log = logging.getLogger(__name__)


async def in_own_words(what: str, work: Awaitable[R]) -> R:
    """Wait for work of an owner. What goes wrong is raised without a trace of what was raised by others.

    Args:
        what: is done, like "training".
        work: of which errors of this library pass as they are.

    Raises:
        OwnerFailed: another error, by the name of its class. The whole of it is in the log of this process.
    """
    ours: Exception
    try:
        return await work
    except Exception as error:
        if is_ours(error):
            ours = error
        else:
            log.warning("%s failed", what, exc_info=True)
            ours = OwnerFailed(f"{what} failed ({kind(error)}); see this owner's log")
    ours.__cause__ = ours.__context__ = None  # set again if it were raised above, where the other error is being handled
    raise ours


def is_ours(error: BaseException) -> bool:
    """Whether the message of an error is of this library, and has nothing of the data in it."""
    return isinstance(error, (FederatedError, ProtocolError, ActorError)) and not isinstance(error, RemoteError)


def kind(error: BaseException) -> str:
    """Return the name of the class of an error, and nothing else of it."""
    name = error.class_name.rpartition(".")[2] if isinstance(error, RemoteError) else type(error).__name__
    return name[:100] if name.isidentifier() else "an error"

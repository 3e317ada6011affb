"""Typed actors over asyncio: programs that talk, in one process or over WebSocket, in the same way.

Start reading in `actor.py` (what an actor is), then `system.py` (where it lives). How a message travels: `reference.py`, `schema.py`,
then `memory.py`, or `dialed.py`, `peer.py`, `wire.py` and `websocket.py`; how it is handled: `mailbox.py`, `cell.py`; what protects a
system from strangers: `guard`. This package knows nothing of machine learning or cryptographic protocols.
"""

from actors.actor import ANYONE, Actor, Surroundings, message
from actors.errors import (
    ActorError,
    ActorNotFound,
    ActorStopped,
    AddressInUse,
    AuditBroken,
    AuditUnwritable,
    BadAddress,
    BadCredentials,
    CallCancelled,
    CallTimeout,
    ChildFailed,
    CodeNotTrusted,
    ConnectFailed,
    ConnectionLost,
    Crash,
    InsecureAddress,
    LinkError,
    Malformed,
    MessageRejected,
    NameTaken,
    NotAllowed,
    OneWayFailed,
    Overrun,
    RemoteError,
    SystemClosed,
    TooLarge,
    Truncated,
    UnknownType,
    VersionMismatch,
    WireError,
)
from actors.identity import Caller, caller
from actors.messages.portable import portable_error
from actors.messages.reference import ActorRef
from actors.processes import ChildProcess, exit_with_parent, started_by_parent
from actors.supervision import Restart, Terminated
from actors.system import ActorSystem

__all__ = [
    "ANYONE",
    "Actor",
    "ActorError",
    "ActorNotFound",
    "ActorRef",
    "ActorStopped",
    "ActorSystem",
    "AddressInUse",
    "AuditBroken",
    "AuditUnwritable",
    "BadAddress",
    "BadCredentials",
    "CallCancelled",
    "CallTimeout",
    "Caller",
    "ChildFailed",
    "ChildProcess",
    "CodeNotTrusted",
    "ConnectFailed",
    "ConnectionLost",
    "Crash",
    "InsecureAddress",
    "LinkError",
    "Malformed",
    "MessageRejected",
    "NameTaken",
    "NotAllowed",
    "OneWayFailed",
    "Overrun",
    "RemoteError",
    "Restart",
    "Surroundings",
    "SystemClosed",
    "Terminated",
    "TooLarge",
    "Truncated",
    "UnknownType",
    "VersionMismatch",
    "WireError",
    "caller",
    "exit_with_parent",
    "message",
    "portable_error",
    "started_by_parent",
]

"""The kinds of frames that two systems exchange. `connection/wire.py` turns them into bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from actors.messages.portable import Failure

PROTOCOL = "confide-actors"
VERSION = 1


class Frame(msgspec.Struct, array_like=True, frozen=True, tag=True):
    """What is sent in one piece."""


class Payload(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A value: its body, (dtype, shape) of its arrays, and (address, name) of its references.

    The address of a reference is "" if the actor lives in the system that sends the frame and can be reached through this connection
    only, and "." if it lives in the system that receives it.
    """

    body: msgspec.Raw
    arrays: list[tuple[str, tuple[int, ...]]] = []
    refs: list[tuple[str, str]] = []


class Hello(Frame, frozen=True, tag=0):
    """The first frame in each direction.

    `limit` is the largest message that the sender takes, in bytes; `nonce` is for a `Proof`; `busy` is for how many seconds the loop of the
    sender may be busy, and pings wait.
    """

    protocol: str
    version: int
    limit: int
    nonce: Any = b""  # of another version it may be anything: the version is read first
    busy: Any = 0


class Invocation(Frame, frozen=True, tag=1):
    """Run a handler and answer with `Reply` or `Failed` under the same `id`. Exactly one answer comes, cancelled or not."""

    id: int
    target: str
    method: str
    payload: Payload


class OneWay(Frame, frozen=True, tag=2):
    """Run a handler; answer with `Credit` later, and with `FailureReport` if it failed."""

    target: str
    method: str
    payload: Payload


class Reply(Frame, frozen=True, tag=3):
    """The result of a call."""

    id: int
    payload: Payload


class Failed(Frame, frozen=True, tag=4):
    """The error of a call."""

    id: int
    failure: Failure


class Cancel(Frame, frozen=True, tag=5):
    """The caller does not want the result any more."""

    id: int


class Credit(Frame, frozen=True, tag=6):
    """So many more messages may be sent to an actor, beyond those that calls give back with their answer."""

    target: str
    count: int


class FailureReport(Frame, frozen=True, tag=7):
    """A message without reply failed."""

    target: str
    method: str
    failure: Failure


class Proof(Frame, frozen=True, tag=8):
    """Who the sender is, on loopback without certificates: sent by who has dialed, before anything else, and answered by the other side.

    Attributes:
        address: where the sender listens; empty if it does not.
        user: proves that it runs for the user of the receiver; empty if it does not say so.
        system: proves that it is the system that listens there; empty if it does not say so.
    """

    address: str
    user: bytes
    system: bytes


AnyFrame = Hello | Invocation | OneWay | Reply | Failed | Cancel | Credit | FailureReport | Proof

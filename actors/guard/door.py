"""Who may be connected: sockets are counted where they are accepted, and again once the other side has shown a certificate.

A socket that finds no room is closed at once, so that nobody waits in vain and no descriptor is held. A few more than the limit are let in
far enough to be told why.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import logging
import os
import resource
import socket
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from actors.guard.limited_log import LimitedLog

log = logging.getLogger(__name__)

TOLD = 16
"""Connections beyond a limit that are told why they are refused; more are closed without a word."""
RESERVED = 32
"""Descriptors that are left for everything else that this process has open."""
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Arrival:
    """The other side of a connection that is being accepted."""

    def __init__(self, host: str, connection: socket.socket | None) -> None:
        self.host = host
        self._connection = connection

    def tell(self, data: bytes) -> None:
        """Send some last bytes before the connection is closed, as far as it takes them without waiting."""
        if self._connection is not None and data:
            with contextlib.suppress(OSError):
                self._connection.send(data)


caller: ContextVar[Arrival] = ContextVar("caller", default=Arrival("somebody", None))  # noqa: B039 (it does not change)
"""Of the connection whose callbacks are running."""


class Door:
    """Counts the connections that a system has accepted.

    Args:
        in_all: how many there may be.
        of_one: how many of them may belong to one peer: to one certificate, or without one to one host (of IPv6: one /64 network).
        lines: takes what goes into the log.
    """

    def __init__(self, in_all: int, of_one: int, lines: LimitedLog) -> None:
        self._most, self._most_of_one = in_all, of_one
        self._bound = f"{in_all} connections are open, the max_connections of this system"
        self._bound_of_one = f"{of_one} connections of one peer are open, the max_connections_per_peer of this system"
        self._lines = lines
        self._sockets: dict[int, str] = {}  # descriptor -> peer, from the moment of accepting
        self._by_peer: Counter[str] = Counter()
        self._admitted: dict[int, str] = {}  # of those: who have said who they are, and found room
        self._admitted_by_peer: Counter[str] = Counter()

    def open(self) -> None:
        """Call it before listening: sees to it that descriptors do not run out before the connections do.

        Raises the soft limit of open files of this process as far as its hard limit allows and the connections need.
        """
        available = _descriptors(self._most + TOLD + RESERVED)
        if available - RESERVED < self._most:
            self._most = max(1, available - RESERVED)
            self._bound = f"{self._most} connections are open, all that the limit of {available} open files (ulimit -n) leaves room for"

    def enter(self, descriptor: int, host: str) -> bool:
        """Count a socket that was accepted; return False if it must be closed at once."""
        peer = _network(host)
        if len(self._sockets) >= self._most + TOLD or self._by_peer[peer] >= self._most_of_one + TOLD:
            self._refused(host, self._bound if len(self._sockets) >= self._most + TOLD else self._bound_of_one)
            return False
        self._sockets[descriptor] = peer
        self._by_peer[peer] += 1
        return True

    def refusal(self, descriptor: int, host: str, certificate: bytes | None) -> str:
        """Why a connection whose peer is known now must not go on; empty if it may."""
        if descriptor not in self._sockets:
            return "it has been closed"
        peer = self._sockets[descriptor]
        if certificate is not None:
            _less(self._by_peer, peer)
            peer = self._sockets[descriptor] = hashlib.sha256(certificate).hexdigest()
            self._by_peer[peer] += 1
        reason = ""
        if len(self._admitted) >= self._most:
            reason = self._bound
        elif self._admitted_by_peer[peer] >= self._most_of_one:
            reason = self._bound_of_one
        if reason:
            self._refused(host, reason)
        else:
            self._admitted[descriptor] = peer
            self._admitted_by_peer[peer] += 1
        return reason

    def leave(self, descriptor: int) -> None:
        """Forget a socket that was closed."""
        _less(self._by_peer, self._sockets.pop(descriptor))
        if descriptor in self._admitted:
            _less(self._admitted_by_peer, self._admitted.pop(descriptor))

    def exhausted(self, host: str) -> None:
        """No descriptor was left for a connection."""
        self._refused(host, "no descriptor is left (ulimit -n)")

    def _refused(self, host: str, why: str) -> None:
        self._lines.write(log, logging.WARNING, "no room", "a connection from %s was refused: %s", host, why, at_once=1)


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class Listener(socket.socket):
    """A listening socket that lets in as many as its door allows."""

    door: Door
    _spare: int

    @staticmethod
    def bind_to(address: tuple[Any, ...], family: int, door: Door) -> Listener:
        """Bind to an address of `getaddrinfo`; raise `OSError` like `bind`."""
        made = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle's algorithm on
        try:
            made.door, made._spare = door, os.open(os.devnull, os.O_RDONLY)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
        return made

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept the next connection; raise `ConnectionAbortedError`, which the event loop takes calmly, if there was no room for it."""
        try:
            accepted, address = super().accept()
        except OSError as error:
            if error.errno not in _NO_DESCRIPTOR:
                raise
            self._turn_away()
            raise ConnectionAbortedError("no descriptor is left") from None
        made = _Accepted(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        caller.set(Arrival(address[0], made))
        if not self.door.enter(made.fileno(), address[0]):
            made.close()
            raise ConnectionAbortedError("no room for it")
        made.left = self.door.leave
        return made, address

    def _turn_away(self) -> None:
        """Close the connection that waits, with the descriptor that is kept for this: otherwise the loop would be told of it for ever."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            waiting, address = super().accept()
            waiting.close()
            self.door.exhausted(address[0])
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Close the listener and its spare descriptor."""
        if self.fileno() >= 0 and hasattr(self, "_spare"):
            os.close(self._spare)
        super().close()


class _Accepted(socket.socket):
    """A socket that says when it is closed."""

    left: Callable[[int], None] | None = None

    def close(self) -> None:
        descriptor, left, self.left = self.fileno(), self.left, None
        super().close()
        if left is not None:
            left(descriptor)


def _network(host: str) -> str:
    """Return the network that stands for a host, as long as it has shown no certificate."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _descriptors(wanted: int) -> int:
    """How many files this process may have open, after asking for as many as are wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    more = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

"""How long the other end of a connection has stood still while its answer to a ping is awaited.

A process that is frozen, or a machine that cannot be reached, is told from a slow link by what moves. Bytes that arrive are a sign of life.
So are bytes that the machine at the other end acknowledges, but only until it has the ping: a machine acknowledges what comes for a frozen
process, too, as long as it has room for it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Hashable

if sys.platform == "linux":
    import fcntl
    import termios

SENT_AND_RECEIVED = struct.Struct("=120x2Q")
"""Bytes that the other side has acknowledged, and that it has sent, in Linux' `struct tcp_info` (tcpi_bytes_acked, tcpi_bytes_received)."""
UNMEASURED = 60.0
"""Seconds that an answer may take where the operating system does not tell what the other side has acknowledged."""


class Stillness:
    """Begins when a ping is sent.

    Args:
        transport: of the connection.
        patience: seconds for which nothing may move; `UNMEASURED` at least where only what has arrived is known, that is not on Linux.

    Attributes:
        left: of them.
    """

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._socket = transport.get_extra_info("socket") if sys.platform == "linux" else None
        self._patience = self.left = patience if self._socket is not None else max(patience, UNMEASURED)
        self._acknowledged, self._received = self._moved()
        self._arrived: Hashable = None
        self._has_ping = self._acknowledged + self._unacknowledged(transport)

    def look(self, waited: float, arrived: Hashable, *, held: bool) -> None:
        """Count time in which the answer has not come, or begin again if something has moved.

        Args:
            waited: seconds since the last look, or since the beginning.
            arrived: what is there now of frames from the other side.
            held: we do not read now, as the other side takes nothing: then what it acknowledges is the only sign of life.
        """
        acknowledged, received = self._moved()
        before = self._acknowledged, self._received, self._arrived
        arriving = received > before[1] or (self._arrived is not None and arrived != before[2])
        taking = acknowledged > before[0] and (held or before[0] < self._has_ping)
        self._acknowledged, self._received, self._arrived = acknowledged, received, arrived
        self.left = self._patience if arriving or taking else self.left - waited

    def _moved(self) -> tuple[int, int]:
        if sys.platform != "linux" or self._socket is None:
            return 0, 0
        try:
            found = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, SENT_AND_RECEIVED.size)
        except OSError:  # it was closed, which its reader learns
            return 0, 0
        acknowledged, received = SENT_AND_RECEIVED.unpack(found)
        return acknowledged, received

    def _unacknowledged(self, transport: asyncio.Transport) -> int:
        """Bytes that were written, the ping not included, and that the other machine does not have."""
        if sys.platform != "linux" or self._socket is None:
            return 0
        try:
            (queued,) = struct.unpack("=i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            return 0
        return int(queued) + transport.get_write_buffer_size()

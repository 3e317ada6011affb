"""What a process tells the service manager that has started it (systemd): that it is ready, that its event loop runs, that it ends.

The protocol is that of sd_notify(3): datagrams of `NAME=VALUE` to the socket in `NOTIFY_SOCKET`. It is a few lines, so no library is used.
Without that variable nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping

log = logging.getLogger(__name__)

BEATS = 3
"""Signs of life in the time in which the service manager waits for one."""


@contextlib.asynccontextmanager
async def announced(environment: Mapping[str, str] = os.environ) -> AsyncIterator[None]:
    """Say that this process is ready; as long as the block lasts that its event loop runs; and at its end that it ends.

    A loop that is busy for longer than `WatchdogSec` gives no sign of life: the service manager then kills the process.

    Args:
        environment: `NOTIFY_SOCKET`, and, if signs of life are wanted, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    """
    place = environment.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        yield
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        address = f"\0{place[1:]}" if place.startswith("@") else place
        _send(channel, address, "READY=1")
        every = _interval(environment)
        task = None if every is None else asyncio.create_task(_beat(channel, address, every))
        try:
            yield
        finally:
            _send(channel, address, "STOPPING=1")
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def _interval(environment: Mapping[str, str]) -> float | None:
    """Return the seconds between two signs of life; None: nobody waits for them, or for those of another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 / BEATS


async def _beat(channel: socket.socket, address: str, every: float) -> None:
    while True:
        _send(channel, address, "WATCHDOG=1")
        await asyncio.sleep(every)


def _send(channel: socket.socket, address: str, state: str) -> None:
    try:
        channel.sendto(state.encode(), address)
    except OSError as error:
        log.warning("the service manager cannot be told %s: %s", state, error.strerror)

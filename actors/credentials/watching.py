"""A process that reads its certificates again when they have changed, or when it is told to by SIGHUP, and warns in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator

from actors.credentials.files import Credentials
from actors.credentials.periods import URGENT_DAYS, WARN_DAYS

log = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds between two looks at the files. New connections look by themselves; this is for those that are open, and for warnings."""
DAY = 24 * 60 * 60.0

Tell = Callable[[str], None]


@contextlib.asynccontextmanager
async def watched(credentials: Credentials | None, tell: Tell, *, every: float = EVERY) -> AsyncIterator[None]:
    """Watch the files as long as the block lasts.

    On SIGHUP they are read in any case. If the process was started from a terminal, and that is gone, SIGHUP ends it as it always did.

    Args:
        credentials: to watch; None: there is no TLS, and nothing to watch.
        tell: is told in a line when new files are in use.
        every: seconds between two looks.
    """
    if credentials is None:
        yield
        return

    def changed() -> None:
        tell(credentials.summary())
        _warn(credentials)

    end = credentials.on_change(changed)
    _warn(credentials)
    task = asyncio.create_task(_watch(credentials, every))
    try:
        with _on_hangup(lambda: _reload(credentials)):
            yield
    finally:
        end()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _reload(credentials: Credentials) -> None:
    credentials.refresh(force=True)


async def _watch(credentials: Credentials, every: float) -> None:
    time = asyncio.get_running_loop().time
    warned = time()
    while True:
        await asyncio.sleep(every)
        credentials.refresh()
        if time() > warned + DAY:
            warned = time()
            _warn(credentials)


def _warn(credentials: Credentials) -> None:
    urgent = set(credentials.concerns(days=URGENT_DAYS))
    for line in credentials.concerns(days=WARN_DAYS):
        log.log(logging.ERROR if line in urgent else logging.WARNING, "%s", line)


@contextlib.contextmanager
def _on_hangup(reload: Callable[[], None]) -> Iterator[None]:
    """Have SIGHUP reload, where there is such a signal and this is the main thread."""
    ignored, terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, _has_terminal()

    def told() -> None:
        if terminal and not ignored and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            reload()

    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, told)
    except (NotImplementedError, RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if ignored:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True

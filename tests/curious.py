"""A curious worker: an honest one whose whole memory, and everything it was ever sent, is used to make any call to the other two.

It is curious, not faulty: it follows every protocol, and makes besides every call that it can make, with its own key, as a process of its
user, and as a stranger.
"""

from __future__ import annotations

import contextlib
import gc
import types
from collections.abc import AsyncIterator, Iterator
from typing import Any

from actors import Actor, ActorSystem
from actors.messages.schema import Message
from inner_workers import Inner, inner_workers
from protocols import Cluster
from protocols.workers.worker_process import PARTS

SHORTEST, LONGEST = 8, 64
"""Bytes of what could be a right, a key or an identifier."""
SKIPPED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.FrameType)


class Curious:
    """One of three workers, looked through.

    Args:
        inner: the worker.
        seen: the arguments of all messages that it was sent.
    """

    def __init__(self, inner: Inner, seen: list[tuple[str, tuple[Any, ...]]]) -> None:
        self.inner, self.seen = inner, seen

    def known(self) -> set[bytes]:
        """Every string of bytes that could be a right, in its memory or in what it was sent."""
        roots: list[Any] = [self.inner.actor(name) for name in PARTS]
        roots += [self.inner.holdings, self.inner.membership, self.seen]
        return {found for found in _reachable(roots) if isinstance(found, bytes) and SHORTEST <= len(found) <= LONGEST}

    @contextlib.asynccontextmanager
    async def callers(self) -> AsyncIterator[list[ActorSystem]]:
        """The systems by which it can call: its own, one of a process of its user, and one of a stranger."""
        async with ActorSystem() as user, ActorSystem(for_user=False) as stranger:
            yield [self.inner.system, user, stranger]


def _reachable(roots: list[Any]) -> Iterator[Any]:
    """All objects that can be reached from some without leaving for modules, classes, code, or the event loop."""
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, SKIPPED) or type(one).__module__.partition(".")[0] in ("asyncio", "logging", "_asyncio"):
            continue
        if isinstance(one, ActorSystem):
            continue
        seen[id(one)] = one
        yield one
        waiting.extend(gc.get_referents(one))


@contextlib.asynccontextmanager
async def curious_workers(folder: Any = None, *, equals: bool, place: int, monkeypatch: Any) -> AsyncIterator[tuple[Curious, Cluster]]:
    """Three workers in this process; the one at `place` is curious, and remembers all that it is sent."""
    seen: list[tuple[str, tuple[Any, ...]]] = []
    watched: list[ActorSystem] = []
    invoke = Message.invoke

    def remembered(self: Message, actor: Actor, arguments: tuple[Any, ...]) -> Any:
        if watched and getattr(actor, "system", None) is watched[0]:
            seen.append((self.label, arguments))
        return invoke(self, actor, arguments)

    monkeypatch.setattr(Message, "invoke", remembered)
    async with inner_workers(folder, equals=equals) as (inner, cluster):
        watched.append(inner[place].system)
        yield Curious(inner[place], seen), cluster

"""Three workers in this process, each with its own actor system on loopback and its own folder for shares: quick, and open to tests.

They are set up by the very code that a worker's process runs; a test may put classes of its own in the place of parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actors import Actor, ActorSystem
from actors.limits import MESSAGE_LIMIT
from actors.observing.observer import Observing
from protocols import Cluster, Worker
from protocols.authority.membership import Membership
from protocols.storage.holdings import Holdings
from protocols.storage.vault import Vault
from protocols.workers.training_server import TrainingServer
from protocols.workers.worker_process import Encryption, opened

NAMES = ("julia", "greg", "me")

Parts = Mapping[str, type[Actor]]


@dataclass(frozen=True)
class Inner:
    """One worker in this process: its system, what it holds, and the cluster that it belongs to."""

    system: ActorSystem
    holdings: Holdings
    membership: Membership

    def actor(self, name: str) -> Actor:
        """The very instance behind a name: a test sees all of its memory."""
        found = self.system.cell(name)._actor
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def inner_worker(
    folder: Path | None = None,
    parts: Parts | None = None,
    address: str = "127.0.0.1:0",
    *,
    message_limit: int = MESSAGE_LIMIT,
    observing: Observing | None = None,
) -> AsyncIterator[Inner]:
    """A worker that belongs to no cluster yet."""
    membership = Membership()
    async with opened(address, Encryption(), membership, data=folder, parts=parts, message_limit=message_limit, observing=observing) as (
        system,
        holdings,
    ):
        yield Inner(system, holdings, membership)


@contextlib.asynccontextmanager
async def inner_workers(
    folder: Path | None = None,
    *,
    parts: Sequence[Parts | None] = (None, None, None),
    equals: bool = False,
    message_limit: int = MESSAGE_LIMIT,
    observing: Sequence[Observing | None] = (None, None, None),
) -> AsyncIterator[tuple[list[Inner], Cluster]]:
    """Three such workers, and the cluster that they form; `parts` for each of them."""
    async with contextlib.AsyncExitStack() as stack:
        inner = [
            await stack.enter_async_context(
                inner_worker(None if folder is None else folder / name, own, message_limit=message_limit, observing=seen)
            )
            for name, own, seen in zip(NAMES, parts, observing, strict=True)
        ]
        workers = [Worker(one.system.address) for one in inner]
        formed = Cluster(*workers, auto_managed=False) if equals else Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False)
        yield inner, await stack.enter_async_context(formed)


@contextlib.asynccontextmanager
async def inner_cluster(
    folder: Path | None, *, server: type[TrainingServer] = TrainingServer, vault: type[Vault] = Vault, equals: bool = False
) -> AsyncIterator[Cluster]:
    """The cluster alone; without a folder its workers keep nothing."""
    async with inner_workers(folder, parts=[{"training": server}] * 3, equals=equals) as (inner, cluster):
        for one in inner:
            if folder is not None:
                one.holdings.vault.__class__ = vault
        yield cluster

"""Three workers in this process, each with its own actor system on loopback and its own folder for shares: quick, and open to tests."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from actors import ActorSystem
from protocols import Cluster, Worker
from protocols.compute_server import ComputeServer
from protocols.crypto_provider import CryptoProvider
from protocols.training.holdings import Holdings
from protocols.training.keeper import Keeper
from protocols.training.training_dealer import TrainingDealer
from protocols.training.training_server import TrainingServer
from protocols.vault import Vault

NAMES = ("julia", "greg", "me")


@contextlib.asynccontextmanager
async def inner_cluster(
    folder: Path | None, *, server: type[TrainingServer] = TrainingServer, vault: type[Vault] = Vault, equals: bool = False
) -> AsyncIterator[Cluster]:
    """A cluster of such workers; without a folder they keep nothing."""
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for name in NAMES:
            opened = None if folder is None else Vault.open(folder / name)
            if opened is not None:
                opened.__class__ = vault
            holdings = stack.enter_context(contextlib.closing(Holdings(opened)))
            system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
            await system.spawn(ComputeServer, name="server")
            await system.spawn(CryptoProvider, name="provider")
            await system.spawn(server, holdings, name="training")
            await system.spawn(TrainingDealer, holdings, name="training-dealer")
            await system.spawn(Keeper, holdings, name="keeper")
            workers.append(Worker(system.address))
        parties = Cluster(*workers, auto_managed=False)
        async with parties if equals else Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False) as cluster:
            yield cluster

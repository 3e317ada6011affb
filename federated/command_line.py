"""What commands have in common: errors in one line, and which three workers are meant."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import ActorError
from federated.certs_command import failed
from federated.errors import FederatedError
from privacy.keras_models.installed import KerasMissing
from protocols.errors import ProtocolError

if TYPE_CHECKING:
    from federated.sharing import Among
    from protocols.owner.cluster import Cluster

EXPECTED = (ActorError, FederatedError, KerasMissing, ProtocolError)
"""What is told in one line. Anything else, such as what the code of a node raises, is shown with its traceback."""

KeysPath = Annotated[Path | None, typer.Option("--keys", help="folder with ca.pem, NAME.pem and NAME.key", file_okay=False)]
WorkerAddresses = Annotated[
    list[str] | None, typer.Option("--worker", help="host:port, three times: both servers, then the crypto provider")
]
Equals = Annotated[bool, typer.Option("--equals", help="the three --worker are equals, without a crypto provider")]
ClusterFilePath = Annotated[Path | None, typer.Option("--cluster", help="the cluster file, instead of --worker")]
Acting = Annotated[str | None, typer.Option("--as", help="node of the cluster file whose certificate is shown")]


def among(worker: list[str] | None, equals: bool, cluster: Path | None, keys: Path | None, acting: str | None) -> Among:
    """Return what makes the cluster that options name.

    Raises:
        typer.Exit: they name none.
    """
    if bool(worker) == (cluster is not None) or (worker and len(worker) != 3):
        raise failed(FederatedError("give --worker three times (both servers, then the crypto provider), or --cluster with a cluster file"))
    if equals and cluster is not None:
        raise failed(FederatedError("--equals goes with --worker; a cluster file says it itself, by three nodes with role = 'server'"))

    def made() -> Cluster:
        from federated.machines.node import computing_cluster
        from protocols.clusters.worker import Worker
        from protocols.owner.cluster import Cluster

        if cluster is not None:
            return computing_cluster(cluster, keys=keys, name=acting)
        first, second, third = (Worker(address) for address in worker or ())
        for far in (one.url for one in (first, second, third) if not one.local):
            raise FederatedError(f"{far} is not on this machine: give --cluster with a cluster file, and --keys, instead of --worker")
        if equals:
            return Cluster(first, second, third, auto_managed=False)
        return Cluster(first, second, crypto_provider=third, auto_managed=False)

    return made


def told(work: Coroutine[Any, Any, None]) -> None:
    """Run until it is over, or the process is told to end; errors that a person can do something about become one line."""
    import asyncio

    async def supervised() -> None:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(NotImplementedError, RuntimeError):  # on Windows, and outside of the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        await work

    try:
        asyncio.run(supervised())
    except EXPECTED as error:
        raise failed(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except asyncio.CancelledError:
        raise typer.Exit(143) from None

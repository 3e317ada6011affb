"""What the command line says of workers. The commands are in `federated/command.py`, which may know cluster files as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors import ActorError
from actors.errors import InsecureAddress

if TYPE_CHECKING:
    from actors import ActorSystem
    from protocols.clusters.worker import Worker

app = typer.Typer(help="Learn and predict together without showing each other anything.", no_args_is_help=True)
console = Console()


async def show_workers(addresses: list[str]) -> None:
    """Ask workers (host:port) whether they are there, and which models they host; show a table.

    Raises:
        typer.Exit: one of them is not there.
        ClusterError: an address cannot be understood.
    """
    table = Table("worker", "state", "models")
    reached = await worker_states(addresses)
    for address, (there, text) in zip(addresses, reached, strict=True):
        table.add_row(escape(address), "[green]ready[/]" if there else "[red]unreachable[/]", escape(text))
    console.print(table)
    if not all(there for there, _ in reached):
        raise typer.Exit(1)


async def worker_states(addresses: list[str]) -> list[tuple[bool, str]]:
    """Ask workers (host:port); return of each whether it is there, and its models, or why it is not.

    Raises:
        ClusterError: an address cannot be understood.
    """
    import asyncio

    from actors import ActorSystem
    from protocols.clusters.worker import Worker

    workers = [Worker(address) for address in addresses]
    async with ActorSystem(timeout=5.0) as system:
        return await asyncio.gather(*(_state(system, worker) for worker in workers))


async def _state(system: ActorSystem, worker: Worker) -> tuple[bool, str]:
    from protocols.workers.compute_server import ComputeServer

    try:
        server = await system.connect(f"{worker.url}/server", ComputeServer)
        return True, ", ".join(await server.names()) or "none"
    except InsecureAddress:
        return False, "it is not on this machine: give --cluster with a cluster file, and the certificates of a node with --keys"
    except ActorError as error:
        return False, str(error)

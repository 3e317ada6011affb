"""Workers from the command line. The whole command `confide` is in `federated/command.py`, which may know the federation as well."""

from __future__ import annotations

import asyncio
from pathlib import Path
from ssl import SSLError
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actors import ActorError, ActorSystem
from protocols import worker_process
from protocols.compute_server import ComputeServer
from protocols.errors import ClusterError, ProtocolError
from protocols.worker import Worker

app = typer.Typer(help="Learn and predict together without showing each other anything.", no_args_is_help=True, add_completion=False)
console = Console()


def fail(error: Exception) -> typer.Exit:
    """Prints an error the way a person wants it: one line, no traceback."""
    Console(stderr=True).print(f"[red]{error}[/]")
    return typer.Exit(1)


Pem = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]


@app.command()
def worker(
    address: Annotated[str, typer.Argument(help="host:port to listen on; port 0 chooses one")],
    certificate: Pem = None,
    key: Pem = None,
    authority: Pem = None,
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="listen in the clear beyond this machine")] = False,
    data: Annotated[Path | None, typer.Option(help="folder to keep shares in; is made if it is missing", file_okay=False)] = None,
    data_key: Annotated[
        Path | None, typer.Option(envvar="CONFIDE_DATA_KEY", help="file with the key of that folder: 64 hexadecimal digits")
    ] = None,
) -> None:
    """Run one worker here: a compute server, the crypto provider of a cluster, or one of three equals, whichever it is asked to be.

    With --certificate, --key and --authority (PEM files) it is reached at wss:// and both sides show certificates. With --data it keeps
    shares of data (confide share) and of trainings, encrypted; their key is made in the folder unless --data-key names one.
    """
    try:
        encryption = _encryption(certificate, key, authority, allow_plaintext)
        asyncio.run(worker_process.run(Worker(address).address, encryption, with_parent=False, data=data, data_key=data_key))
    except (ActorError, ProtocolError, SSLError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _encryption(certificate: Path | None, key: Path | None, authority: Path | None, allow_plaintext: bool) -> worker_process.Encryption:
    if certificate is None and key is None and authority is None:
        return worker_process.Encryption(allow_plaintext=allow_plaintext)
    if certificate is None or key is None or authority is None:
        raise ClusterError("TLS needs all three of --certificate, --key and --authority")
    return worker_process.mutual(certificate, key, authority)


async def show_workers(addresses: list[str]) -> None:
    """Asks workers (host:port) whether they are there, and which models they host; shows a table.

    Raises:
        typer.Exit: one of them is not there.
        ClusterError: an address cannot be understood.
    """
    table = Table("worker", "state", "models")
    reached = await _states([Worker(address) for address in addresses])
    for address, (there, text) in zip(addresses, reached, strict=True):
        table.add_row(address, "[green]ready[/]" if there else "[red]unreachable[/]", text)
    console.print(table)
    if not all(there for there, _ in reached):
        raise typer.Exit(1)


async def _states(workers: list[Worker]) -> list[tuple[bool, str]]:
    async with ActorSystem(timeout=5.0) as system:
        return await asyncio.gather(*(_state(system, worker) for worker in workers))


async def _state(system: ActorSystem, worker: Worker) -> tuple[bool, str]:
    try:
        server = await system.connect(f"{worker.url}/server", ComputeServer)
        return True, ", ".join(await server.names()) or "none"
    except ActorError as error:
        return False, str(error)

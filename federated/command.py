"""The command `confide`: workers, nodes of a cluster file, their certificates, and a demonstration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import limits
from actors.credentials.periods import WARN_DAYS
from actors.errors import InsecureAddress
from federated import doctor_command, models_command
from federated.certs_command import certs, failed
from federated.command_line import EXPECTED, Acting, ClusterFilePath, Equals, KeysPath, WorkerAddresses, among, told
from federated.errors import FederatedError
from federated.observing_options import Audit, LogFormat, LogLevel, MetricsPort, Traces, seen
from federated.observing_options import audit as audit_commands
from federated.vault_command import vault
from protocols.command import app, console, show_workers

if TYPE_CHECKING:
    from actors.observing.observer import Observing
    from federated.machines.cluster_file import ClusterFile
    from federated.status_command import StatusReport
    from protocols.workers.worker_process import Encryption

ClusterPath = Annotated[Path, typer.Option("--cluster", help="the cluster file, the same for all nodes")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"confide {version('confide')}")
        raise typer.Exit


@app.callback()
def confide(
    version: Annotated[bool, typer.Option("--version", help="show the version and end", callback=_version, is_eager=True)] = False,
) -> None:
    """Learn and predict together without showing each other anything."""


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="of a node in the cluster file")],
    cluster: ClusterPath = Path("cluster.toml"),
    keys: KeysPath = None,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
    metrics_port: MetricsPort = None,
    audit: Audit = None,
    traces: Traces = False,
) -> None:
    """Run one node of a cluster here: a server, the crypto provider, an owner of data, or the aggregator.

    An aggregator ends when its rounds are over; all others when they are told to. The functions that the file names for this node are
    taken from files beside it, and run here.
    """
    try:
        with seen(log_format, log_level, metrics_port, audit, traces) as observing:
            told(_run(name, cluster, keys, observing))
    except EXPECTED as error:
        raise failed(error) from None


async def _run(name: str, cluster: Path, keys: Path | None, observing: Observing) -> None:
    from federated.machines import node
    from federated.machines.cluster_file import ClusterFile

    await node.run(name, ClusterFile.read(cluster), keys, lambda line: print(line, flush=True), observing)


Certificate = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="PEM file that this worker shows")]
Key = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="PEM file with its key, mode 0600")]
Trusted = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="PEM file of the authority that is trusted")]
RevokedFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="PEM file with revoked certificates; as --authority with .crl, unless given"),
]


@app.command()
def worker(
    address: Annotated[str, typer.Argument(help="host:port to listen on; port 0 chooses one")],
    certificate: Certificate = None,
    key: Key = None,
    authority: Trusted = None,
    revoked: RevokedFile = None,
    cluster: Annotated[
        Path | None, typer.Option("--for", help="cluster.toml with the three workers, of which this is one", exists=True, dir_okay=False)
    ] = None,
    allow_plaintext: Annotated[bool, typer.Option("--allow-plaintext", help="listen in the clear beyond this machine")] = False,
    data: Annotated[Path | None, typer.Option(help="folder to keep shares in; is made if it is missing", file_okay=False)] = None,
    data_key: Annotated[
        Path | None, typer.Option(envvar="CONFIDE_DATA_KEY", help="file with the key of that folder: 64 hexadecimal digits")
    ] = None,
    message_limit: Annotated[
        int | None,
        typer.Option(
            "--message-limit",
            min=limits.LEAST_LIMIT,
            max=limits.MOST_LIMIT,
            help="bytes of the largest message that it takes; 1 GiB, or as in --for",
        ),
    ] = None,
    log_format: LogFormat = "text",
    log_level: LogLevel = "info",
    metrics_port: MetricsPort = None,
    audit: Audit = None,
    traces: Traces = False,
) -> None:
    """Run one worker here: a compute server, the crypto provider of a cluster, or one of three equals, whichever it is asked to be.

    On this machine alone, without certificates, it works for the programs of its own user: the first Cluster that uses it tells it which
    other two it belongs to. Elsewhere give --for: it computes with the three workers of that file only. With --certificate, --key and
    --authority (PEM files) it is reached at wss:// and both sides show certificates. With --data it keeps shares of data (confide share)
    and of trainings, encrypted; their key is made in the folder unless --data-key names one.
    """
    import asyncio
    from ssl import SSLError

    from federated.machines import node
    from federated.machines.cluster_file import ClusterFile
    from protocols.clusters.worker import Worker
    from protocols.workers import worker_process

    try:
        file = None if cluster is None else ClusterFile.read(cluster)
        encryption = _encryption(certificate, key, authority, revoked, allow_plaintext, file)
        belongs = None if file is None else node.worker_membership(file, address, certificate)
        most = message_limit if message_limit is not None else limits.MESSAGE_LIMIT if file is None else file.message_limit
        url = Worker(address).address
        name = None if file is None else node.worker_name(file, address, certificate)
        with seen(log_format, log_level, metrics_port, audit, traces) as observing:
            if file is not None and name is not None:
                observing = replace(observing, watchers=node.watchers(file, name))
            asyncio.run(
                worker_process.run(
                    url,
                    encryption,
                    with_parent=False,
                    cluster=belongs,
                    data=data,
                    data_key=data_key,
                    message_limit=most,
                    observing=observing,
                )
            )
    except InsecureAddress:
        why = "is not on this machine alone: give --certificate, --key and --authority, or --allow-plaintext to send all in the clear"
        raise failed(FederatedError(f"{address} {why}")) from None
    except (*EXPECTED, SSLError) as error:
        raise failed(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _encryption(
    certificate: Path | None,
    key: Path | None,
    authority: Path | None,
    revoked: Path | None,
    allow_plaintext: bool,
    cluster: ClusterFile | None,
) -> Encryption:
    from actors.credentials.files import Paths
    from protocols.nodes.certificate import admitting
    from protocols.workers import worker_process

    if certificate is None and key is None and authority is None and revoked is None:
        return worker_process.Encryption(allow_plaintext=allow_plaintext)
    if certificate is None or key is None or authority is None:
        raise FederatedError("TLS needs all three of --certificate, --key and --authority")
    files = Paths(certificate, key, authority, revoked or authority.with_suffix(".crl"))
    return worker_process.mutual(files) if cluster is None else admitting(files, cluster.roles, cluster.admission)


app.add_typer(certs, name="certs")
app.add_typer(models_command.models, name="models")
app.command()(models_command.serve)
app.add_typer(audit_commands, name="audit")
app.add_typer(vault, name="vault")
app.command()(doctor_command.doctor)


@app.command()
def status(
    addresses: Annotated[list[str] | None, typer.Argument(help="host:port of workers, if there is no cluster file")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="the cluster file")] = None,
    keys: KeysPath = None,
    warn_days: Annotated[int, typer.Option(min=0, help="days before a certificate expires in which that is a warning")] = WARN_DAYS,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, with the figures of each node that may be read")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="ask again and again, until it is interrupted")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two times of --watch")] = 5.0,
) -> None:
    """Ask the nodes of a cluster, or workers by address, whether they are there and what they do.

    Exit code 1: one is not there; 3: all are, and a certificate expires soon. With TLS the first node whose key is in --keys is the one
    that asks: its figures are shown by nodes whose watchers it is among, see docs/observability.md.
    """
    from federated import status_command

    if bool(addresses) == (cluster is not None):
        raise failed(FederatedError("give either addresses of workers, or --cluster with a cluster file"))
    if cluster is None and not (as_json or watch):
        told(show_workers(addresses or []))
        return

    async def ask() -> StatusReport:
        if cluster is None:
            return await status_command.of_workers(addresses or [])
        return await status_command.of_cluster(cluster, keys, numbers=as_json or watch)

    told(status_command.show(ask, warn_days, as_json=as_json, watch=watch, interval=interval))


@app.command()
def share(
    file: Annotated[Path | None, typer.Argument(help=".npy, .npz or .csv", exists=True, dir_okay=False)] = None,
    name: Annotated[str | None, typer.Option(help="of the data at the workers; the name of the file, unless given")] = None,
    worker: WorkerAddresses = None,
    equals: Equals = False,
    cluster: ClusterFilePath = None,
    keys: KeysPath = None,
    acting: Acting = None,
    labels: Annotated[str | None, typer.Option(help="column of a .csv with labels or targets")] = None,
    ids: Annotated[str | None, typer.Option(help="column of a .csv, or array of an .npz, with record ids: a digest becomes public")] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="how many labels there can be; one more than the largest, unless given")
    ] = None,
    allow: Annotated[list[str] | None, typer.Option("--for", help="a certificate name that may train without the grant")] = None,
    min_batch: Annotated[int, typer.Option(min=1, help="the fewest of these examples in a step of training")] = 1,
    reveal_to: Annotated[
        list[str] | None, typer.Option(help="a certificate name that gets trained weights and metrics; whoever trains, unless given")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the grants; is made if it is missing", file_okay=False)] = Path("grants"),
    listing: Annotated[bool, typer.Option("--list", help="show what data the workers keep")] = False,
    delete: Annotated[
        Path | None, typer.Option(help="NAME.owner.json: have the workers remove its data", exists=True, dir_okay=False)
    ] = None,
) -> None:
    """Leave secret shares of data with the workers of a cluster, for training on them later: no worker sees more than their shape.

    Writes NAME.grant.json, which lets whoever has it train on the data, and NAME.owner.json, which also lets them be removed: give the
    first to those who may, keep the second. The workers must have been started with --data.
    """
    from federated import sharing
    from protocols.datasets.use import Use

    if (file is not None) + listing + (delete is not None) != 1:
        raise failed(FederatedError("give one of: a file to share, --list, or --delete with the owner's grant"))
    source = among(worker, equals, cluster, keys, acting)
    if file is not None:
        use = Use(min_batch=min_batch, reveal_to=tuple(reveal_to) if reveal_to else None)
        what = sharing.Source(file, name or file.stem, labels, ids, classes, tuple(allow or ()), use)
        told(sharing.share(source, what, out, console))
    elif delete is not None:
        told(sharing.remove(source, delete, console))
    else:
        told(sharing.show(source, console))


@app.command()
def demo(images: Annotated[int, typer.Option(min=1, help="how many images to ask for")] = 3) -> None:
    """Encrypted prediction on this machine: trains a model, shares it among three processes, asks it for digits."""
    from protocols import demonstration

    told(demonstration.demonstrate(images, lambda line: print(line, flush=True)))


def main() -> None:
    """Run the installed command."""
    app()


if __name__ == "__main__":
    main()

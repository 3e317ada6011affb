"""What nodes are told on the command line of how they can be seen, and `confide audit`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import ActorError
from actors.observing.audit_file import verified
from actors.observing.log_lines import FORMS, LEVELS, log_lines
from federated.certs_command import failed
from federated.errors import FederatedError

if TYPE_CHECKING:
    from actors.observing.observer import Observing

LogFormat = Annotated[str, typer.Option("--log-format", help="of lines on standard error: text, or json", metavar="text|json")]
LogLevel = Annotated[str, typer.Option("--log-level", help="the least that is logged", metavar="|".join(LEVELS))]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", min=0, max=65535, help="/metrics and /healthz in the clear at this port of 127.0.0.1; 0 chooses one"),
]
Audit = Annotated[
    Path | None, typer.Option("--audit", help="file that every request is written to, in a chain; for this user alone", dir_okay=False)
]
Traces = Annotated[
    bool, typer.Option("--traces", help="send spans by OTLP, as OTEL_EXPORTER_OTLP_ENDPOINT and the like say; needs confide[otel]")
]

audit = typer.Typer(help="Check what an audit log says.", no_args_is_help=True)


@contextlib.contextmanager
def seen(form: str, level: str, metrics_port: int | None, audit_file: Path | None, traces: bool) -> Iterator[Observing]:
    """Have this process log, and trace if it is asked to; yield what its system is to show.

    Raises:
        FederatedError: there is no such format or level.
        ActorError: OpenTelemetry is not installed.
    """
    from actors.observing import spans
    from actors.observing.observer import Observing

    if form not in FORMS or level not in LEVELS:
        raise FederatedError(f"--log-format is one of {', '.join(FORMS)}, and --log-level one of {', '.join(LEVELS)}")
    end = spans.trace_by_environment() if traces else None
    log_lines("json" if form == "json" else "text", level)
    try:
        yield Observing(metrics_port=metrics_port, audit=audit_file)
    finally:
        if end is not None:
            end()


@audit.command()
def verify(
    file: Annotated[Path, typer.Argument(help="that a node has written with --audit", exists=True, dir_okay=False)],
    head: Annotated[
        str | None, typer.Option(help="hash of an entry that was once the last: from confide status --json, the metrics, or the log")
    ] = None,
) -> None:
    """Check that each entry of an audit log follows from the one before it; exit code 1 if one does not.

    Found are entries that were changed, removed, put in or moved. That entries were cut off at the end, that the last one was changed, or
    that somebody made the file anew from some entry on, is found with --head only, if that is the hash of a later entry.
    """
    if head is not None and not re.fullmatch("[0-9a-f]{64}", head):
        raise failed(FederatedError(f"--head {head!r}: 64 hexadecimal digits are needed"))
    try:
        chain = verified(file, head=head)
    except ActorError as error:
        raise failed(error) from None
    for number in chain.torn:
        typer.echo(f"entry {number} is torn: its process, or the machine, ended while it was written")
    found = "" if chain.found is None else f", the given head is entry {chain.found}"
    typer.echo(f"{chain.entries} entries in one chain{found}; head {chain.head}")

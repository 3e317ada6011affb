"""`confide vault`: whoever runs a worker checks the folder of its shares, backs it up, and puts a backup back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from protocols.storage.backup import Checked

vault = typer.Typer(help="Check, back up and restore the folder in which a worker keeps shares. Run it as the user of the worker.")

Folder = Annotated[Path, typer.Argument(help="of a worker: its --data", file_okay=False)]
Backup = Annotated[Path, typer.Argument(help="folder of a backup", file_okay=False)]
Key = Annotated[
    Path | None,
    typer.Option("--key", envvar="CONFIDE_DATA_KEY", help="file with their key; `key` in the folder, unless given", dir_okay=False),
]


@vault.command()
def check(folder: Folder, key: Key = None) -> None:
    """Read and verify all that a worker, which may be running, keeps, or a backup (with --key). Exit code 1: something is damaged."""
    from protocols.storage import backup  # noqa: PLC0415  the command line starts without the mathematics

    with _one_line():
        found = backup.check(folder, key)
    _show(found)
    if any(one.damage for one in found):
        raise typer.Exit(1)


@vault.command("backup")
def back_up(folder: Folder, to: Backup, key: Key = None) -> None:
    """Copy what a worker keeps, also while it runs, into a new folder, and verify the copy. The key is not in it: keep that elsewhere."""
    from protocols.storage import backup  # noqa: PLC0415  as above

    with _one_line():
        _show(backup.back_up(folder, to, key))
    typer.echo(f"backed up to {to}, without the key {key or folder / backup.KEY}: keep that elsewhere")


@vault.command()
def restore(
    source: Backup,
    folder: Folder,
    key: Key = None,
    nothing_since: Annotated[
        bool,
        typer.Option("--nothing-since", help="the worker has not run since the backup: quotas go on as they were"),
    ] = False,
) -> None:
    """Put a backup back into a folder without shares, while the worker is stopped.

    What was answered after the backup is not counted in it. So models that are put back are not answered of until their owners have
    called `confide models limit` again; with --nothing-since they go on at once.
    """
    from protocols.storage import backup  # noqa: PLC0415  as above

    with _one_line():
        found = backup.restore(source, folder, key, nothing_since=nothing_since)
    _show(found)
    models = sorted(one.label.name for one in found if one.counted is not None)
    if models and not nothing_since:
        typer.echo(f"not answered of until their owners call `confide models limit NAME --requests N`: {', '.join(models)}")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Make one line of an error that a person can do something about."""
    from federated.certs_command import failed  # noqa: PLC0415  as above
    from protocols.errors import ProtocolError  # noqa: PLC0415  as above

    try:
        yield
    except ProtocolError as error:
        raise failed(error) from None


def _show(found: list[Checked]) -> None:
    for one in found:
        what = f"{one.label.kind} {one.label.name}, version {one.label.serial}"
        if one.damage:
            typer.echo(f"{what}: DAMAGED: {one.damage}")
        else:
            counted = "" if one.counted is None else f", {one.counted.requests} requests and {one.counted.examples} examples counted"
            typer.echo(f"{what}: {one.size} bytes{counted}")
    typer.echo(f"{len(found)} versions, {sum(bool(one.damage) for one in found)} damaged")

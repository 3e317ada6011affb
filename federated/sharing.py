"""What `confide share` does: files of an owner become shares that stay with the workers of a cluster, and files of grants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from federated.errors import FederatedError
from protocols import Cluster, Use
from protocols.errors import ProtocolError
from protocols.owner import tables
from protocols.owner.deposits import Deposited, Grant, read_grants, write_grants

Among = Callable[[], Cluster]


class Source(NamedTuple):
    """A file to share; see `confide share`."""

    file: Path
    name: str
    labels: str | None
    ids: str | None
    classes: int | None
    allow: tuple[str, ...]
    use: Use


async def share(among: Among, source: Source, out: Path, console: Console) -> None:
    """Share all arrays of a file, or none, and write the grants.

    Raises:
        FederatedError: there are grants of that name already, or they cannot be written.
        ProtocolError: see `Cluster.deposit`.
    """
    kept, given = _places(out, source.name)
    found = tables.read(source.file, labels=source.labels, ids=source.ids)
    grants: list[Grant] = []
    async with among() as cluster:
        try:
            for end, array in found.arrays.items():
                classes = source.classes if array.ndim == 1 and array.dtype.kind in "iu" else None
                name = source.name + end
                grants.append(await cluster.deposit(name, array, classes=classes, ids=found.ids, allow=source.allow, use=source.use))
                write_grants(kept, grants)
            write_grants(given, [grant.to_give() for grant in grants])
        except BaseException:
            with contextlib.suppress(ProtocolError):  # what went wrong first is what is told
                for grant in grants:
                    await cluster.withdraw(grant)
                _remove(kept)
            raise
        names = {grant.name for grant in grants}
        _print(console, [one for one in await cluster.deposits() if one.name in names])
    console.print(
        f"{escape(str(given))} lets whoever has it train on this; {escape(str(kept))} also lets it be removed: keep it", soft_wrap=True
    )


def _places(out: Path, name: str) -> tuple[Path, Path]:
    """Return the owner's file and the one to give away."""
    places = out / f"{name}.owner.json", out / f"{name}.grant.json"
    for path in places:
        if path.exists():
            raise FederatedError(
                f"{path} is there already: it is the right to data shared before; move it, or give another --name or --out"
            )
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise FederatedError(f"grants cannot be written: {error}") from None
    return places


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def show(among: Among, console: Console) -> None:
    """Show what the workers keep."""
    async with among() as cluster:
        _print(console, await cluster.deposits())


async def remove(among: Among, owner: Path, console: Console) -> None:
    """Have the workers remove what a file of an owner's grants is for, and remove that file."""
    async with among() as cluster:
        for grant in read_grants(owner).values():
            await cluster.withdraw(grant)
            console.print(f"removed {escape(grant.name)}")
    _remove(owner)


def _print(console: Console, kept: list[Deposited]) -> None:
    table = Table("data", "examples", "columns", "", "record ids", "for")
    for one in kept:
        content = one.content if one.complete else f"[red]{one.content}, not at all workers[/]"
        row = (escape(one.name), str(one.shape[0]), str(one.shape[1]), content, "yes" if one.checked else "no")
        table.add_row(*row, escape(", ".join(one.allowed)) or "whoever has the grant")
    console.print(table)

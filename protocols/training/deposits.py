"""The owner's side of data that stay with the workers when their owner has gone: `Cluster.deposit`, `load` and `withdraw`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError
from protocols.errors import InputError, NotGranted, ProtocolError, UnknownData, VaultError
from protocols.keystream import KeyStream, fresh_key
from protocols.training.keeper import Keeper, Part
from protocols.training.kept import DATA, About, digest, joined, records
from protocols.training.kept_versions import ATTEMPTS, at_all, keepers, renewed
from protocols.training.stored import encoded
from protocols.training.terms import Column
from protocols.vault import NAME, Label, replace

if TYPE_CHECKING:
    from protocols.cluster import Cluster


class Grant(msgspec.Struct, frozen=True):
    """The right to train on data of a name. Whoever has it can use it: give it away as a secret.

    Attributes:
        name: of the data.
        right: to train on them.
        own: to remove them; empty in what is given to others.
    """

    name: str
    right: bytes
    own: bytes = b""

    def to_give(self) -> Grant:
        """The same without the right to remove."""
        return Grant(self.name, self.right)

    def __repr__(self) -> str:
        return f"Grant({self.name!r}{', its owner' if self.own else ''})"


Granting: TypeAlias = Grant | str | os.PathLike[str]
"""A grant, a file of grants, or a folder of such files."""


class Deposited(msgspec.Struct, frozen=True):
    """What workers say about data that they keep.

    Attributes:
        name: of the data.
        shape: examples and columns.
        content: "numbers" or "labels".
        checked: whether record ids were given.
        allowed: who may train on them by certificate.
        complete: whether all three workers keep their part.
    """

    name: str
    shape: tuple[int, int]
    content: str
    checked: bool
    allowed: tuple[str, ...]
    complete: bool


async def deposit(
    cluster: Cluster,
    name: str,
    array: npt.ArrayLike,
    *,
    classes: int | None,
    ids: Sequence[object] | None,
    allow: Iterable[str],
) -> Grant:
    """Leaves shares of an array with the workers; see `Cluster.deposit`."""
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} is no name for data that are kept: 1 to 100 letters, digits, '.', '_' and '-', the first no '.'")
    values, content = encoded(name, np.asarray(array), classes)
    if ids is not None and len(ids) != len(values):
        raise InputError(f"{name!r} has {len(values)} examples and {len(ids)} record ids: each example needs one")
    allowed = tuple(allow)
    if "" in allowed:
        raise InputError("allow= names certificates: a name is not empty")
    column = Column(name, (values.shape[0], values.shape[1]), content, b"", b"" if ids is None else records(ids))
    grant = Grant(name, secrets.token_bytes(32), secrets.token_bytes(32))
    label = Label(DATA, name, 1, secrets.token_bytes(16))
    server = About("server", digest(grant.right), digest(grant.own), allowed, column)
    provider = msgspec.structs.replace(server, role="crypto provider")
    keys = fresh_key(), fresh_key()
    masked = values + KeyStream(keys[0]).words(values.shape) + KeyStream(keys[1]).words(values.shape)
    *servers, third = keeping = await keepers(cluster, cluster.addresses)
    try:
        work = (keeper.keep_masked(label, server, masked, key) for keeper, key in zip(servers, keys, strict=True))
        await at_all(cluster.addresses, *work, third.keep_mask(label, provider, keys))
    except BaseException:
        await _removed_where_it_is(keeping, grant)
        raise
    return grant


async def _removed_where_it_is(keeping: Sequence[Keeper], grant: Grant) -> None:
    """After a failure: at some workers the name may be there, or be somebody else's."""
    for keeper in keeping:
        try:
            await keeper.with_options(timeout=5.0).remove(DATA, grant.name, grant.own)
        except (ActorError, ProtocolError):
            continue


async def withdraw(cluster: Cluster, grant: Grant) -> None:
    """Has the workers remove data; see `Cluster.withdraw`."""
    if not grant.own:
        raise NotGranted(f"this grant lets one train on {grant.name!r}, not remove it: its owner has the one that does")
    await at_all(cluster.addresses, *(keeper.remove(DATA, grant.name, grant.own) for keeper in await keepers(cluster, cluster.addresses)))


async def deposits(cluster: Cluster) -> list[Deposited]:
    """What the workers keep; see `Cluster.deposits`."""
    found = await at_all(cluster.addresses, *(keeper.versions(DATA, None) for keeper in await keepers(cluster, cluster.addresses)))
    labels = [{version.label for version in versions} for versions in found]
    complete = {label.name for label in set.intersection(*labels)}
    abouts = {version.label.name: version.about for versions in found for version in versions}
    listed = []
    for name, about in sorted(abouts.items()):
        if (column := about.column) is not None:
            listed.append(Deposited(name, column.shape, column.content, bool(column.records), about.allowed, name in complete))
    return listed


async def load(cluster: Cluster, names: Sequence[str], axis: int, grants: Granting | Iterable[Granting]) -> Column:
    """Finds data that were left with the workers; see `Cluster.load`."""
    granted = read_grants(grants)
    rights = {name: granted[name].right if name in granted else b"" for name in names}
    if len(rights) != len(names):
        raise InputError(f"{', '.join(names)}: a name is there twice")
    keeping = await keepers(cluster, cluster.addresses)
    handle, helper, presence = os.urandom(16), cluster.addresses.helper, cluster.presence
    for attempt in range(1, ATTEMPTS + 1):
        joined([await _known(cluster, keeping[0], name) for name in names], axis, handle)  # before anything is done
        versions = [await renewed(cluster.addresses, presence, keeping, DATA, name, right) for name, right in rights.items()]
        parts = [Part(version.label, right) for version, right in zip(versions, rights.values(), strict=True)]
        try:
            placed = await at_all(
                cluster.addresses, *(keeper.place(parts, axis, handle, party, helper, presence) for party, keeper in enumerate(keeping))
            )
            return placed[0]
        except (UnknownData, VaultError):  # somebody else has loaded it meanwhile
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


async def _known(cluster: Cluster, keeper: Keeper, name: str) -> Column:
    """The array that a server keeps under a name."""
    (found,) = await at_all(cluster.addresses, keeper.versions(DATA, name))
    column = found[-1].about.column if found else None
    if column is None:
        raise UnknownData(f"no data of the name {name!r} are kept by these workers; confide share --list shows what they keep")
    return column


def write_grants(path: str | os.PathLike[str], grants: Sequence[Grant]) -> None:
    """Writes a file of grants, for its user alone.

    Raises:
        VaultError: it cannot be written.
    """
    try:
        replace(Path(path), msgspec.json.format(msgspec.json.encode(grants)))
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error}") from None


def read_grants(grants: Granting | Iterable[Granting]) -> dict[str, Grant]:
    """All grants by name. One that may remove is taken before one that may not.

    Raises:
        InputError: a file cannot be read, or holds no grants.
    """
    given = [grants] if isinstance(grants, Grant | str | os.PathLike) else list(grants)
    every = [grant for one in given for grant in ([one] if isinstance(one, Grant) else _read(Path(one)))]
    return {grant.name: grant for grant in sorted(every, key=lambda grant: bool(grant.own))}


def _read(path: Path) -> list[Grant]:
    try:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        return [grant for file in files for grant in msgspec.json.decode(file.read_bytes(), type=list[Grant])]
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} holds no grants, as confide share writes them: {error}") from None

"""The owner's side of data that stay with the workers when their owner has gone: `Cluster.deposit`, `load` and `withdraw`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError
from protocols.authority.rights import SECRET_BYTES, digest_at, new_secret, right_at
from protocols.clusters.three_workers import ThreeWorkers
from protocols.datasets.dataset import Dataset, SharedDataset, records
from protocols.datasets.joined import joined
from protocols.datasets.masked import mask
from protocols.datasets.use import Use
from protocols.errors import InputError, NotGranted, ProtocolError, UnknownData, VaultError
from protocols.owner.kept_versions import ATTEMPTS, VersionedShares, at_all, keepers, renewed
from protocols.owner.stored import described, encoded
from protocols.storage.replacement import replace
from protocols.storage.vault import NAME, Label
from protocols.storage.versions import DATA, About
from protocols.workers.keeper import GrantedVersion, Keeper


class Grant(msgspec.Struct, frozen=True):
    """The right to train on data of a name. Whoever has it can use it: give it away as a secret.

    A worker is shown what follows from it for that worker only, and keeps a digest of that, so that no worker can use it at another.

    Attributes:
        name: of the data.
        right: secret from which the rights to train on them follow.
        own: secret from which the rights to remove them follow; empty in what is given to others.
    """

    name: str
    right: bytes
    own: bytes = b""

    def to_give(self) -> Grant:
        """Return the same without the right to remove."""
        return Grant(self.name, self.right)

    def rights(self, places: Sequence[int]) -> list[bytes]:
        """Return the rights to train on the data at the workers of these places.

        Raises:
            NotGranted: this is no grant that `Cluster.deposit` has made.
        """
        return self._at(self.right, places)

    def owns(self, places: Sequence[int]) -> list[bytes]:
        """Return the rights to remove the data at the workers of these places.

        Raises:
            NotGranted: it is the grant of somebody who may only train on them, or none that `Cluster.deposit` has made.
        """
        if not self.own:
            raise NotGranted(f"this grant lets one train on {self.name!r}, not remove it: its owner has the one that does")
        return self._at(self.own, places)

    def _at(self, secret: bytes, places: Sequence[int]) -> list[bytes]:
        if len(secret) != SECRET_BYTES:
            raise NotGranted(
                f"{self.name!r} may not be used with this grant: its secret has {len(secret)} bytes, and those that workers know have"
                f" {SECRET_BYTES}; ask the owner for the grant again"
            )
        return [right_at(secret, place) for place in places]

    def __repr__(self) -> str:
        return f"Grant({self.name!r}{', its owner' if self.own else ''})"


GrantSource: TypeAlias = Grant | str | os.PathLike[str]
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
    cluster: ThreeWorkers,
    name: str,
    array: npt.ArrayLike,
    *,
    classes: int | None,
    ids: Sequence[object] | None,
    allow: Iterable[str] | Mapping[str, Use],
    use: Use | None,
) -> Grant:
    """Leave shares of an array with the workers; see `Cluster.deposit`."""
    if NAME.fullmatch(name) is None:
        raise InputError(f"{name!r} is no name for data that are kept: 1 to 100 letters, digits, '.', '_' and '-', the first no '.'")
    values, content = encoded(name, np.asarray(array), classes)
    if ids is not None and len(ids) != len(values):
        raise InputError(f"{name!r} has {len(values)} examples and {len(ids)} record ids: each example needs one")
    use = use or Use()
    if isinstance(allow, str):
        raise InputError(f"allow={allow!r}: names of certificates are needed, in a list or tuple")
    allowed = dict(allow) if isinstance(allow, Mapping) else dict.fromkeys(allow, use)
    if "" in allowed:
        raise InputError("allow= names certificates: a name is not empty")
    for one in (use, *allowed.values()):
        if not isinstance(one, Use):
            raise InputError(f"a {type(one).__name__} was given for what may be done with {name!r}: Use(...) is needed")
        one.check()
    known = b"" if ids is None else records(ids)
    dataset = described(name, values, content, handle=b"", records=known, example=np.shape(array)[1:])
    grant = Grant(name, new_secret(), new_secret())
    label, places = Label(DATA, name, 1, secrets.token_bytes(16)), cluster.seats_for("").all
    digests = [(digest_at(grant.right, place), digest_at(grant.own, place)) for place in places]
    *abouts, about = [About("server", right, own, allowed, use, dataset) for right, own in digests]
    provider = msgspec.structs.replace(about, role="crypto provider")
    masked, keys = mask(values)
    *servers, third = keeping = await keepers(cluster, cluster.addresses)
    try:
        work = (keeper.deposit_masked(label, one, masked, key) for keeper, one, key in zip(servers, abouts, keys, strict=True))
        await at_all(cluster.addresses, *work, third.deposit_mask(label, provider, keys))
    except BaseException:
        await _removed_where_it_is(cluster, keeping, grant)
        raise
    return grant


async def _removed_where_it_is(cluster: ThreeWorkers, keeping: Sequence[Keeper], grant: Grant) -> None:
    """Remove what a failure has left: at some workers the name may be there, or be somebody else's."""
    for keeper, own in zip(keeping, grant.owns(cluster.seats_for("").all), strict=True):
        try:
            await keeper.with_options(timeout=5.0).remove(DATA, grant.name, own)
        except (ActorError, ProtocolError):
            continue


async def withdraw(cluster: ThreeWorkers, grant: Grant) -> None:
    """Have the workers remove data; see `Cluster.withdraw`."""
    owns = grant.owns(cluster.seats_for("").all)
    keeping = zip(await keepers(cluster, cluster.addresses), owns, strict=True)
    await at_all(cluster.addresses, *(keeper.remove(DATA, grant.name, own) for keeper, own in keeping))


async def deposits(cluster: ThreeWorkers) -> list[Deposited]:
    """Return what the workers keep; see `Cluster.deposits`."""
    found = await at_all(cluster.addresses, *(keeper.versions(DATA, None) for keeper in await keepers(cluster, cluster.addresses)))
    labels = [{version.label for version in versions} for versions in found]
    complete = {label.name for label in set.intersection(*labels)}
    abouts = {version.label.name: version.about for versions in found for version in versions}
    listed = []
    for name, about in sorted(abouts.items()):
        if (dataset := about.dataset) is not None:
            listed.append(Deposited(name, dataset.shape, dataset.content, bool(dataset.records), tuple(about.allowed), name in complete))
    return listed


async def load(cluster: ThreeWorkers, names: Sequence[str], axis: int, grants: GrantSource | Iterable[GrantSource]) -> SharedDataset:
    """Load data that were left with the workers; see `Cluster.load`."""
    granted = read_grants(grants)
    places, none = cluster.seats_for("").all, [b""] * 3
    rights = {name: granted[name].rights(places) if name in granted else none for name in names}
    if len(rights) != len(names):
        raise InputError(f"{', '.join(names)}: a name is there twice")
    keeping = await keepers(cluster, cluster.addresses)
    handle, secret, presence = os.urandom(16), new_secret(), cluster.presence
    digests = [digest_at(secret, place) for place in places]
    for attempt in range(1, ATTEMPTS + 1):
        joined([await _known(cluster, keeping[0], name) for name in names], axis, handle)  # before anything is done
        shares = [VersionedShares(cluster.addresses, keeping, shown, cluster.equals, "") for shown in rights.values()]
        versions = [await renewed(one, DATA, name) for one, name in zip(shares, rights, strict=True)]
        try:
            placed = await at_all(
                cluster.addresses,
                *(
                    keeper.place(
                        [GrantedVersion(version.label, one.rights[party]) for version, one in zip(versions, shares, strict=True)],
                        axis,
                        handle,
                        digests[party],
                        cluster.equals,
                        presence,
                    )
                    for party, keeper in enumerate(keeping)
                ),
            )
            return SharedDataset(placed[0], secret)
        except (UnknownData, VaultError):  # somebody else has loaded it meanwhile
            handle = os.urandom(16)  # one of the workers may hold it under the one before
            if attempt == ATTEMPTS:
                raise
    raise AssertionError


async def _known(cluster: ThreeWorkers, keeper: Keeper, name: str) -> Dataset:
    """Return the dataset that a server keeps under a name."""
    (found,) = await at_all(cluster.addresses, keeper.versions(DATA, name))
    dataset = found[-1].about.dataset if found else None
    if dataset is None:
        raise UnknownData(f"no data of the name {name!r} are kept by these workers; confide share --list shows what they keep")
    return dataset


def write_grants(path: str | os.PathLike[str], grants: Sequence[Grant]) -> None:
    """Write a file of grants, for its user alone.

    Raises:
        VaultError: it cannot be written.
    """
    try:
        replace(Path(path), msgspec.json.format(msgspec.json.encode(grants)))
    except OSError as error:
        raise VaultError(f"{path} cannot be written: {error}") from None


def read_grants(grants: GrantSource | Iterable[GrantSource]) -> dict[str, Grant]:
    """Return all grants by name. One that may remove is taken before one that may not.

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

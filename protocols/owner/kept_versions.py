"""The owner's view of what workers keep: which version is current, and its re-randomisation by all parties that have a part of it."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

from actors import ActorError
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.errors import Altered, KeepsNothing, UnknownData, VaultError, WorkerLost
from protocols.serving.hosting import Addresses
from protocols.storage.vault import Label
from protocols.storage.versions import DATA
from protocols.workers.keeper import Keeper, Version

T = TypeVar("T")

ATTEMPTS = 3
"""How often something is loaded that others load at the same time."""


async def keepers(cluster: ThreeWorkers, addresses: Addresses, parties: int = 3) -> list[Keeper]:
    """Return the actors that keep shares: of server 0, server 1, and who deals, or of the first of them.

    Raises:
        ClusterError: outside of the `async with` block.
        WorkerLost: a worker does not answer.
    """
    await cluster.enrol()
    try:
        return [(await cluster.links.system.connect(f"{url}/keeper", Keeper)).with_options(timeout=None) for url in addresses.all[:parties]]
    except ActorError as error:
        raise WorkerLost(f"the cluster cannot keep shares: {error}") from None


async def at_all(addresses: Addresses, *work: Coroutine[Any, Any, T]) -> list[T]:
    """Ask the workers, in the order of their roles; errors of one of them say which it was.

    Raises:
        WorkerLost: one went away.
        KeepsNothing, VaultError: one has no folder, or cannot use what is in it.
    """

    async def asked(number: int, one: Coroutine[Any, Any, T]) -> T:
        try:
            return await one
        except (KeepsNothing, VaultError) as error:
            raise type(error)(f"Worker({addresses.all[number]!r}): {error}") from None
        except ActorError as error:
            raise WorkerLost(f"Worker({addresses.all[number]!r}) is lost: {error}") from None

    return await at_once(*(asked(number, one) for number, one in enumerate(work)))


def current(found: Sequence[Sequence[Version]], what: str) -> tuple[Version, Label]:
    """Return the newest version that all have and have made together, and a label for the one after it.

    Raises:
        UnknownData: there is none.
    """
    labels = [{version.label for version in versions} for versions in found]
    checked = [{(version.label, version.about.check) for version in versions} for versions in found]
    common = [label for label, _ in set.intersection(*checked)]
    if not common:
        everywhere = set.union(*labels)
        raise UnknownData(
            f"the workers do not all keep the same {what}: {[len(one) for one in labels]} versions, none of them at all; was a folder"
            " removed, or another cluster meant?"
            if everywhere
            else f"no {what} is kept by these workers"
        )
    newest = max(common, key=lambda label: (label.serial, label.tag))
    version = next(version for version in found[0] if version.label == newest)
    return version, Label(newest.kind, newest.name, newest.serial + 1, secrets.token_bytes(16))


class VersionedShares(NamedTuple):
    """Something that workers keep, as whoever may use it sees it.

    Attributes:
        addresses: of the workers, in their roles.
        keeping: their actors, in the same order.
        rights: at each of them; empty where the certificate of this process is enough.
        equals: see `Keeper.refresh`.
        model: the same.
    """

    addresses: Addresses
    keeping: Sequence[Keeper]
    rights: Sequence[bytes]
    equals: bool
    model: str

    async def refreshed(self, old: Label, new: Label) -> None:
        """Have all parties write a version that has nothing in common with the old one.

        Raises:
            Altered: they have not made it together; the old one stands.
        """
        parties = list(zip(self.keeping, self.rights, strict=True))
        await at_all(self.addresses, *(keeper.refresh(old, new, right, self.equals, self.model) for keeper, right in parties))
        await self.committed(new)

    async def committed(self, label: Label) -> None:
        """Have all parties let go of old versions, once each has asked the others whether they have this one."""
        parties = zip(self.keeping, self.rights, strict=True)
        await at_all(self.addresses, *(keeper.commit(label, right, self.equals, self.model) for keeper, right in parties))

    async def found(self, kind: str, name: str) -> list[list[Version]]:
        """Return the versions that each party has."""
        return await at_all(self.addresses, *(keeper.versions(kind, name) for keeper in self.keeping))


async def renewed(shares: VersionedShares, kind: str, name: str) -> Version:
    """Re-randomise the current version, and return it.

    Raises:
        UnknownData: there is none.
        NotGranted: the right is not the right to it.
        WorkerLost: a worker went away.
    """
    what = f"data of the name {name!r}" if kind == DATA else "checkpoint of this training"
    for attempt in range(1, ATTEMPTS + 1):
        version, new = current(await shares.found(kind, name), what)
        try:
            await shares.refreshed(version.label, new)
            return Version(new, version.about)
        except (UnknownData, VaultError, Altered):  # somebody else has loaded it meanwhile
            if attempt == ATTEMPTS:
                raise
    raise AssertionError

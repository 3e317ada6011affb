"""The actor that keeps shares at rest: at each worker one, whichever part the worker has.

Server i keeps m = x + lambda and lambda_i of an array, the crypto provider both lambda_i (among three equals, the worker that helps with
what has no name), and each server its share of the weights of a training.
Whenever they are loaded they are re-randomised, see `storage/renewal.py`: a file of before and a file of afterwards, of two parties, say
nothing together.

A version is current when all parties have written it, together and from the same one. Nobody's word is taken for that: each version has a
check value, which follows from the seeds and from the version before; each keeper asks the others, which it knows from its cluster, for
theirs, makes a new version only from one that all have, and lets go of old ones only if all have the new one. The version from which the
current one was made stays until the next has been made from that.

Adversary: semi-honest, no two parties collude; whoever may only train on data does what it likes, and cannot destroy them. **Leaks** to
each worker: names, shapes, how far a training is, who loads what when.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial, reduce
from operator import and_

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError, caller, message
from actors.observing.notes import noted
from protocols.authority.membership import OWNER, SERVER, Membership
from protocols.authority.presence import Presence
from protocols.authority.rights import shows
from protocols.authority.seats import THIRD, Seats
from protocols.concurrency import at_once
from protocols.datasets.dataset import Dataset
from protocols.datasets.joined import joined, put_together
from protocols.datasets.masked import MaskedDataset, halves
from protocols.datasets.replicated import replicated
from protocols.datasets.use import Stretch, Use
from protocols.errors import Altered, InputError, NameTaken, NotGranted, UnknownData, VaultError, WorkerLost
from protocols.link.twins import Twins
from protocols.mpc.parties.exchange import Party, Ring
from protocols.mpc.parties.keystream import derive, fresh_key
from protocols.storage.holdings import Holdings
from protocols.storage.renewal import SEED_SHAPE, change, joint_key, told
from protocols.storage.vault import TAG_BYTES, Label
from protocols.storage.versions import DATA, RUN, About
from protocols.workers.linked import Linked

KINDS = (DATA, RUN)


class Version(msgspec.Struct, frozen=True):
    """A version of something that is kept here."""

    label: Label
    about: About


class GrantedVersion(msgspec.Struct, frozen=True):
    """A version of an array, and the right to train on it at this worker; empty for those whose certificate is enough."""

    label: Label
    right: bytes

    def __repr__(self) -> str:
        return f"GrantedVersion({self.label.name!r}, version {self.label.serial})"


class Keeper(Linked):
    """Writes, re-randomises, and removes what is kept here.

    Args:
        cluster: whose worker this is.
        holdings: of this worker.
        patience: seconds to wait for the other parties.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None, patience: float = 30.0) -> None:
        super().__init__(patience, "versions")
        self._cluster, self._holdings = cluster or Membership(), holdings or Holdings()
        self._links: dict[int, Twins] = {}
        self._peers: dict[int, Keeper] = {}
        self._writing = asyncio.Lock()
        self._making: set[Label] = set()

    async def stopped(self) -> None:
        """End what runs in the background."""
        for twins in self._links.values():
            twins.close(WorkerLost("the worker stops"))
        await super().stopped()

    # Data arrive.

    @message(reentrant=True, by=OWNER)
    async def deposit_masked(self, label: Label, about: About, masked: npt.NDArray[np.uint64], key: bytes) -> None:
        """Write a server's part of a dataset: the masked values, and the key of this server's half of the mask."""
        part = MaskedDataset.expanded(_dataset(about, "server"), masked, key)
        await self._write(label, about, {"masked": part.masked, "mask": part.mask})

    @message(reentrant=True, by=OWNER)
    async def deposit_mask(self, label: Label, about: About, keys: tuple[bytes, bytes]) -> None:
        """Write the provider's part of a dataset: both halves of its mask. The masked array never comes here."""
        first, second = await asyncio.to_thread(halves, _dataset(about, "crypto provider"), keys)
        await self._write(label, about, {"mask0": first, "mask1": second})

    async def _write(self, label: Label, about: About, arrays: dict[str, Ring]) -> None:
        noted(data=label.name)
        vault = self._holdings.vault
        async with self._writing:
            if label.kind != DATA or vault.labels(DATA, label.name):
                raise NameTaken(
                    f"data of the name {label.name!r} are kept here already: choose another name, or have their owner remove them"
                )
            await self._steps.run(partial(vault.write, label, msgspec.msgpack.encode(about), arrays))

    # What is there.

    @message(reentrant=True, by=OWNER)
    async def versions(self, kind: str, name: str | None) -> list[Version]:
        """Return all versions of a name. Of data also all versions of all names, which are public, but for those that are damaged here."""
        vault = self._holdings.vault
        if name is not None:
            return await asyncio.to_thread(lambda: [Version(label, self._about(label)) for label in vault.labels(kind, name)])
        if kind != DATA:
            raise NotGranted("only the names of data are told")
        return await asyncio.to_thread(lambda: list(self._readable(vault.labels(kind))))

    def _readable(self, labels: list[Label]) -> Iterator[Version]:
        for label in labels:
            with contextlib.suppress(VaultError):
                yield Version(label, self._about(label))

    def _about(self, label: Label) -> About:
        return msgspec.msgpack.decode(self._holdings.vault.about(label), type=About)

    # Versions.

    @message(reentrant=True, by=OWNER)
    async def refresh(self, old: Label, new: Label, right: bytes, equals: bool, name: str) -> None:
        """Write a version that has nothing in common with the one before, together with the other parties.

        Args:
            old: the version that is there.
            new: the one that follows it, with a fresh tag: whoever may train on data cannot use up its numbers.
            right: to use it, at this worker.
            equals: whether the caller takes the cluster for one of three equals.
            name: of the model whose servers keep a training; for data "".

        Raises:
            NotGranted: the caller has no right to it.
            UnknownData: there is no such version here, or at another party.
            Altered: the parties have not made the version that is there together.
            WorkerLost: another party did not take part.
        """
        about, _ = await self._granted(old, right)
        seats, party = self._seated(old, about, equals, name)
        if (old.kind, old.name) != (new.kind, new.name) or new.serial != old.serial + 1 or len(new.tag) != TAG_BYTES:
            raise InputError(f"version {new.serial} does not follow version {old.serial}")
        if new in self._making or new in self._holdings.vault.labels(new.kind, new.name):
            raise InputError(f"version {new.serial} of that tag is here already, or under way: no version is ever replaced")
        self._making.add(new)
        try:
            await self._make(old, new, about, seats, party)
        finally:
            self._making.discard(new)

    async def _make(self, old: Label, new: Label, about: About, seats: Seats, party: int) -> None:
        """Write a version that follows another one, with fresh seeds of both servers."""
        checks = await self._checks(old, seats, party)
        if None in checks:
            raise UnknownData(f"not all parties keep version {old.serial} of {old.name!r}; it may have been loaded or removed meanwhile")
        if any(check != about.check for check in checks):
            raise Altered(f"the parties have not made version {old.serial} of {old.name!r} together: nothing can be made from it")
        key = await self._joint_key(new.tag, party, seats, old.kind)
        check = derive(key, "check", old.serial, old.tag, about.check)
        about = msgspec.structs.replace(about, check=check, origin=old.serial)
        await asyncio.to_thread(self._rewrite, old, new, about, party, key)

    def _seated(self, label: Label, about: About, equals: bool, name: str) -> tuple[Seats, int]:
        """Return who keeps the parts of something, and which part is here."""
        seats = self._cluster.seats(equals, name if label.kind == RUN else "")
        party = seats.party(self._cluster.place)
        if (party == THIRD) != (about.role == "crypto provider"):
            raise InputError(f"{label.name!r} was left here for a {about.role}: name the servers and the provider as its owner did")
        return seats, party

    async def _keeper(self, place: int) -> Keeper:
        return await self.system.connect(f"{self._cluster.address(place)}/keeper", Keeper)

    async def _joint_key(self, tag: bytes, party: int, seats: Seats, kind: str) -> bytes:
        """Return K from the seeds of both servers, whom everybody hears. The tag is used once."""
        seed = None if party == THIRD else fresh_key()
        others = [other for other in _parties(kind) if other != party]
        heard = await at_once(*(self._told(tag, seats.all[other], seed, hears=other != THIRD) for other in others))
        seeds = dict(zip(others, heard, strict=True)) | {party: seed}
        return joint_key([seeds[0], seeds[1]], tag)

    async def _told(self, tag: bytes, place: int, seed: bytes | None, *, hears: bool) -> bytes | None:
        """Tell the worker at a place a seed, and return its own, if it has one."""
        twins = self._twins(place)
        try:
            self._peers[place] = await self._keeper(place)
            twins.watch(self.system, self._peers[place])
            protocol, channel = told(twins.me, seed, hears=hears), derive(tag, "seeds")
            heard, _ = await twins.compute(protocol, channel, None, words=2, dealt=0, who=tag, rest=True)
        except ActorError:
            raise WorkerLost("another party cannot be reached to make a new version together") from None
        return heard

    def _twins(self, place: int) -> Twins:
        """Return the link to the worker at a place: each end calls it by its own place."""
        if place not in self._links:

            async def deliver(name: bytes, channel: bytes, number: int, arrays: list[Ring]) -> None:
                await self._peers[place].deliver(name, channel, number, arrays)

            async def give_up(name: bytes, channel: bytes) -> None:
                await self._peers[place].give_up(name, channel)

            own, me = self._cluster.place, Party(int(self._cluster.place > place))
            self._links[place] = Twins(
                bytes([own]),
                me,
                deliver=deliver,
                give_up=give_up,
                threads=self._steps,
                background=self._background,
                patience=self._patience,
                spent=self._costs,
            )
        return self._links[place]

    def _linked(self, name: bytes, what: str) -> Twins | None:
        if len(name) != 1 or name[0] > THIRD:
            return None
        self._cluster.require(name[0], what)
        return self._twins(name[0])

    def _arrived(self, name: bytes, channel: bytes, number: int, arrays: list[npt.NDArray[np.uint64]]) -> None:
        """Take the seed of another worker for a new version, perhaps before anybody has asked for it here."""
        shapes = [array.shape for array in arrays]
        if shapes != [SEED_SHAPE]:
            raise InputError(f"arrays of shapes {shapes} arrived for a new version; one seed of two words is needed")
        super()._arrived(name, channel, number, arrays)

    def _rewrite(self, old: Label, new: Label, about: About, party: int, key: bytes) -> None:
        _, arrays = self._holdings.vault.read(old)
        refreshed = {name: array + change(key, name, array.shape, party) for name, array in arrays.items()}
        self._holdings.vault.write(new, msgspec.msgpack.encode(about), refreshed)

    async def _checks(self, label: Label, seats: Seats, party: int) -> list[bytes | None]:
        """Return what the other parties say that `holds` is for a version.

        Raises:
            WorkerLost: one of them cannot be asked.
        """
        others = [other for other in _parties(label.kind) if other != party]
        try:
            return [await (await self._keeper(seats.all[other])).holds(label) for other in others]
        except ActorError:
            raise WorkerLost("another party cannot be asked whether it has this version; nothing was changed") from None

    @message(reentrant=True, by=SERVER)
    async def holds(self, label: Label) -> bytes | None:
        """Return what all parties of a version have in common, for a worker of this cluster; None if this one has it not, or damaged."""
        if label.kind in KINDS and label in await asyncio.to_thread(self._holdings.vault.labels, label.kind, label.name):
            with contextlib.suppress(VaultError):
                return (await asyncio.to_thread(self._about, label)).check
        return None

    @message(reentrant=True, by=OWNER)
    async def commit(self, label: Label, right: bytes, equals: bool, name: str) -> None:
        """Let go of old versions once all parties have this one: which they are asked for, whatever the caller says. The one from which it
        was made stays.

        Raises:
            Altered: they have not, or theirs does not belong to this one; nothing was removed.
            NotGranted: the caller has no right to it.
        """
        about, _ = await self._granted(label, right)
        seats, party = self._seated(label, about, equals, name)
        if any(check != about.check for check in await self._checks(label, seats, party)):
            raise Altered(
                f"not all parties have version {label.serial} of {label.name!r}, or they do not belong together; the old ones stand"
            )
        serials = [one.serial for one in self._holdings.vault.labels(label.kind, label.name) if one.serial < label.serial]
        before = about.origin or max(serials, default=0)
        if any(serial < before for serial in serials):
            await asyncio.to_thread(self._holdings.vault.remove, label.kind, label.name, before=before)

    @message(reentrant=True, by=OWNER)
    async def remove(self, kind: str, name: str, own: bytes) -> None:
        """Remove all versions, for their owner. What was loaded from them already goes on."""
        noted(kind=kind, data=name)
        vault = self._holdings.vault
        async with self._writing:
            for label in vault.labels(kind, name):
                if not shows(own, self._about(label).own):
                    raise NotGranted(f"only the owner of {name!r} can remove it: show the right that its sharing gave to the owner")
            await asyncio.to_thread(vault.remove, kind, name)

    # To be trained on.

    @message(reentrant=True, by=OWNER)
    async def place(
        self, parts: list[GrantedVersion], axis: int, handle: bytes, digest: bytes, equals: bool, presence: Presence
    ) -> Dataset:
        """Put datasets together and hold them for training, as long as whoever asks is there.

        Args:
            parts: what is put together.
            axis: see `joined`.
            handle: what the workers call it.
            digest: of the right to train on it, at this worker.
            equals: whether the caller takes the cluster for one of three equals.
            presence: of the caller.
        """
        noted(data=", ".join(part.label.name for part in parts))
        if not parts:
            raise InputError("there is no array to place")
        granted = [await self._granted(part.label, part.right) for part in parts]
        abouts, uses = [about for about, _ in granted], [use for _, use in granted]
        seats, party = self._seated(parts[0].label, abouts[0], equals, "")
        if len({part.label.name for part in parts}) != len(parts):
            raise InputError("a name is there twice: the examples of an owner count once")
        dataset = joined([_dataset(about, "crypto provider" if party == THIRD else "server") for about in abouts], axis, handle)
        arrays = await asyncio.to_thread(self._together, parts, axis)
        self._holdings.claim_while_present(self._background, self.system, presence, handle, digest, _stretches(abouts, uses, axis))
        if seats.helper is not None:
            self._holdings.hold(handle, replicated(seats.helper, party, arrays))
        elif party == THIRD:
            self._holdings.masks[handle] = arrays["mask0"] + arrays["mask1"]
        else:
            self._holdings.datasets[handle] = MaskedDataset(dataset, arrays["masked"], arrays["mask"])
        return dataset

    def _together(self, parts: list[GrantedVersion], axis: int) -> dict[str, Ring]:
        read = [self._holdings.vault.read(part.label)[1] for part in parts]
        return {name: put_together([arrays[name] for arrays in read], axis) for name in read[0]}

    async def _granted(self, label: Label, right: bytes) -> tuple[About, Use]:
        """Return what a version is, and what the caller may do with it: who shows the right, or a certificate that its owner has named.

        Raises:
            UnknownData: there is no such version.
            NotGranted: the caller shows no right.
        """
        if label.kind not in KINDS or label not in self._holdings.vault.labels(label.kind, label.name):
            raise UnknownData(f"version {label.serial} of {label.name!r} is not kept here; it may have been loaded or removed meanwhile")
        about = await asyncio.to_thread(self._about, label)
        if shows(right, about.use):
            return about, about.granted
        if (use := about.allowed.get(caller().common_name)) is not None:
            return about, use
        raise NotGranted(
            f"{label.name!r} may not be used: show the grant that its owner has given, or a certificate that its owner has named"
        )


def _parties(kind: str) -> tuple[int, ...]:
    """Return who has a part of what is of this kind."""
    return (0, 1, THIRD) if kind == DATA else (0, 1)


def _dataset(about: About, role: str) -> Dataset:
    if about.dataset is None or about.role != role:
        raise InputError(f"something for a {about.role} arrived, an array for a {role} is needed")
    return about.dataset


def _stretches(abouts: list[About], uses: list[Use], axis: int) -> list[Stretch]:
    """Return what owners of joined datasets allow: below each other each of its own rows, beside each other all of all rows."""
    rows = [about.dataset.shape[0] for about in abouts if about.dataset is not None]
    return [Stretch(rows[0], reduce(and_, uses))] if axis else [Stretch(*one) for one in zip(rows, uses, strict=True)]

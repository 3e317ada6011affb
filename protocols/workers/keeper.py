"""The actor that keeps shares at rest: at each worker one, whichever part the worker has.

Server i keeps m = x + lambda and lambda_i of an array, the crypto provider both lambda_i (among three equals, the worker that helps with
what has no name), and each server its share of the weights of a training.
Whenever they are loaded they are re-randomised: the two servers each draw a seed s_i, which they tell each other (and, for an array, the
provider); with delta_i = PRG(s_0, s_1, i)

    m <- m + delta_0 + delta_1,   lambda_i <- lambda_i + delta_i,   W_0 <- W_0 + delta,   W_1 <- W_1 - delta,

which changes neither x nor W. A file of before and a file of afterwards, of two parties, say nothing together.

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
from functools import reduce
from operator import and_

import msgspec
import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, caller, message
from protocols.authority.membership import OTHER_SERVER, OWNER, SERVER, Membership
from protocols.authority.presence import Presence
from protocols.authority.rights import shows
from protocols.authority.seats import THIRD, Seats
from protocols.concurrency import Background, at_once
from protocols.errors import Altered, InputError, NameTaken, NotGranted, UnknownData, VaultError, WorkerLost
from protocols.link.run import Inboxes
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, derive, fresh_key
from protocols.storage.holdings import Holdings, Stored
from protocols.storage.kept import DATA, RUN, About, Stretch, Use, joined, put_together
from protocols.storage.replicated import replicated
from protocols.storage.vault import TAG_BYTES, Label
from protocols.training.terms import Column

KINDS = (DATA, RUN)


class Version(msgspec.Struct, frozen=True):
    """A version of something that is kept here."""

    label: Label
    about: About


class Part(msgspec.Struct, frozen=True):
    """A version of an array, and the right to train on it at this worker; empty for those whose certificate is enough."""

    label: Label
    right: bytes

    def __repr__(self) -> str:
        return f"Part({self.label.name!r}, version {self.label.serial})"


class Keeper(Actor):
    """Writes, re-randomises, and removes what is kept here.

    Args:
        cluster: whose worker this is.
        holdings: of this worker.
        patience: seconds to wait for the other parties.
    """

    def __init__(self, cluster: Membership | None = None, holdings: Holdings | None = None, patience: float = 30.0) -> None:
        self._cluster, self._holdings, self._patience = cluster or Membership(), holdings or Holdings(), patience
        self._seeds = Inboxes(patience)
        self._background = Background()
        self._writing = asyncio.Lock()

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        self._background.close()
        self._seeds.close()

    # Data arrive.

    @message(reentrant=True, by=OWNER)
    async def keep_masked(self, label: Label, about: About, masked: npt.NDArray[np.uint64], key: bytes) -> None:
        """A server's part of an array: the masked values, and the key of this server's half of the mask."""
        column = _column(about, "server")
        if masked.shape != column.shape:
            raise InputError(f"an array of shape {masked.shape} arrived for {column.name!r} of shape {column.shape}")
        await self._keep(label, about, {"masked": masked, "mask": KeyStream(key).words(column.shape)})

    @message(reentrant=True, by=OWNER)
    async def keep_mask(self, label: Label, about: About, keys: tuple[bytes, bytes]) -> None:
        """The provider's part of an array: both halves of its mask. The masked array never comes here."""
        column = _column(about, "crypto provider")
        column.check()
        first, second = await asyncio.to_thread(lambda: [KeyStream(key).words(column.shape) for key in keys])
        await self._keep(label, about, {"mask0": first, "mask1": second})

    async def _keep(self, label: Label, about: About, arrays: dict[str, Ring]) -> None:
        vault = self._holdings.vault
        async with self._writing:
            if label.kind != DATA or vault.labels(DATA, label.name):
                raise NameTaken(
                    f"data of the name {label.name!r} are kept here already: choose another name, or have their owner remove them"
                )
            writing = asyncio.create_task(asyncio.to_thread(vault.write, label, msgspec.msgpack.encode(about), arrays))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # a thread goes on; whoever removes the name must find what it has written
                raise

    # What is there.

    @message(reentrant=True, by=OWNER)
    async def versions(self, kind: str, name: str | None) -> list[Version]:
        """All versions of a name. Of data also all versions of all names, which are public, but for those that are damaged here."""
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
        """Writes a version that has nothing in common with the one before, together with the other parties.

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
        if new in self._holdings.vault.labels(new.kind, new.name):
            raise InputError(f"version {new.serial} of that tag is here already: no version is ever replaced")
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
        """Who keeps the parts of something, and which part is here."""
        seats = self._cluster.seats(equals, name if label.kind == RUN else "")
        party = seats.party(self._cluster.place)
        if (party == THIRD) != (about.role == "crypto provider"):
            raise InputError(f"{label.name!r} was left here for a {about.role}: name the servers and the provider as its owner did")
        return seats, party

    async def _keeper(self, place: int) -> Keeper:
        return await self.system.connect(f"{self._cluster.address(place)}/keeper", Keeper)

    async def _joint_key(self, tag: bytes, party: int, seats: Seats, kind: str) -> bytes:
        """K from the seeds of both servers, whom everybody hears. The tag is used once."""
        everybody = (0, 1, THIRD) if kind == DATA else (0, 1)
        seeds = {party: fresh_key()} if party != THIRD else {}

        async def tell(other: int) -> None:
            keeper = await self._keeper(seats.all[other])
            await keeper.contribute(tag, self._cluster.place, np.frombuffer(seeds[party], "<u8").astype(np.uint64))

        async def hear(other: int) -> None:
            with self._seeds.claimed(_channel(tag, seats.all[other])) as inbox:
                try:
                    seeds[other] = (await inbox.get(0, self._patience))[0].astype("<u8").tobytes()
                except TimeoutError:
                    raise WorkerLost(f"server {other} did not contribute within {self._patience:g} s") from None

        hearing = [hear(other) for other in (0, 1) if other != party]
        try:
            await at_once(*hearing, *(tell(other) for other in everybody if party in seeds and other != party))
        except ActorError:
            raise WorkerLost("another party cannot be reached to make a new version together") from None
        return derive(seeds[0] + seeds[1], "refresh", tag)

    @message(reentrant=True, by=OTHER_SERVER)
    def contribute(self, tag: bytes, place: int, seed: npt.NDArray[np.uint64]) -> None:
        """The seed of the worker at a place for a new version, perhaps before anybody has asked for it here."""
        self._cluster.require(place, "contribute")
        if seed.shape != (2,):
            raise InputError(f"a seed of shape {seed.shape} arrived, two words are needed")
        self._seeds.put(_channel(tag, place), 0, [seed])

    def _rewrite(self, old: Label, new: Label, about: About, party: int, key: bytes) -> None:
        _, arrays = self._holdings.vault.read(old)
        refreshed = {name: array + _change(key, name, array.shape, party) for name, array in arrays.items()}
        self._holdings.vault.write(new, msgspec.msgpack.encode(about), refreshed)

    async def _checks(self, label: Label, seats: Seats, party: int) -> list[bytes | None]:
        """What the other parties say that `holds` is for a version.

        Raises:
            WorkerLost: one of them cannot be asked.
        """
        others = [other for other in ((0, 1, THIRD) if label.kind == DATA else (0, 1)) if other != party]
        try:
            return [await (await self._keeper(seats.all[other])).holds(label) for other in others]
        except ActorError:
            raise WorkerLost("another party cannot be asked whether it has this version; nothing was changed") from None

    @message(reentrant=True, by=SERVER)
    async def holds(self, label: Label) -> bytes | None:
        """What all parties of a version have in common, for a worker of this cluster; None if this one does not have it, or damaged."""
        if label.kind in KINDS and label in await asyncio.to_thread(self._holdings.vault.labels, label.kind, label.name):
            with contextlib.suppress(VaultError):
                return (await asyncio.to_thread(self._about, label)).check
        return None

    @message(reentrant=True, by=OWNER)
    async def commit(self, label: Label, right: bytes, equals: bool, name: str) -> None:
        """Lets go of old versions once all parties have this one: which they are asked for, whatever the caller says. The one from which it
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
        """Removes all versions, for their owner. What was loaded from them already goes on."""
        vault = self._holdings.vault
        async with self._writing:
            for label in vault.labels(kind, name):
                if not shows(own, self._about(label).own):
                    raise NotGranted(f"only the owner of {name!r} can remove it: show the right that its sharing gave to the owner")
            await asyncio.to_thread(vault.remove, kind, name)

    # To be trained on.

    @message(reentrant=True, by=OWNER)
    async def place(self, parts: list[Part], axis: int, handle: bytes, digest: bytes, equals: bool, presence: Presence) -> Column:
        """Puts arrays together and holds them for training, as long as whoever asks is there.

        Args:
            parts: what is put together.
            axis: see `joined`.
            handle: what the workers call it.
            digest: of the right to train on it, at this worker.
            equals: whether the caller takes the cluster for one of three equals.
            presence: of the caller.
        """
        if not parts:
            raise InputError("there is no array to place")
        granted = [await self._granted(part.label, part.right) for part in parts]
        abouts, uses = [about for about, _ in granted], [use for _, use in granted]
        seats, party = self._seated(parts[0].label, abouts[0], equals, "")
        if len({part.label.name for part in parts}) != len(parts):
            raise InputError("a name is there twice: the examples of an owner count once")
        column = joined([_column(about, "crypto provider" if party == THIRD else "server") for about in abouts], axis, handle)
        arrays = await asyncio.to_thread(self._together, parts, axis)
        self._holdings.claim_while_present(self._background, self.system, presence, handle, digest, _stretches(abouts, uses, axis))
        if seats.helper is not None:
            self._holdings.hold(handle, replicated(seats.helper, party, arrays))
        elif party == THIRD:
            self._holdings.masks[handle] = arrays["mask0"] + arrays["mask1"]
        else:
            self._holdings.arrays[handle] = Stored(column, arrays["masked"], arrays["mask"])
        return column

    def _together(self, parts: list[Part], axis: int) -> dict[str, Ring]:
        read = [self._holdings.vault.read(part.label)[1] for part in parts]
        return {name: put_together([arrays[name] for arrays in read], axis) for name in read[0]}

    async def _granted(self, label: Label, right: bytes) -> tuple[About, Use]:
        """What a version is, and what the caller may do with it: who shows the right, or a certificate that its owner has named.

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


def _channel(tag: bytes, place: int) -> bytes:
    """The name of the inbox for the seed of the worker at a place."""
    return derive(tag, "seed of worker", place)


def _column(about: About, role: str) -> Column:
    if about.column is None or about.role != role:
        raise InputError(f"something for a {about.role} arrived, an array for a {role} is needed")
    return about.column


def _stretches(abouts: list[About], uses: list[Use], axis: int) -> list[Stretch]:
    """What the owners of arrays that are put together allow: below each other each of its own rows, beside each other all of all rows."""
    rows = [about.column.shape[0] for about in abouts if about.column is not None]
    return [Stretch(rows[0], reduce(and_, uses))] if axis else [Stretch(*one) for one in zip(rows, uses, strict=True)]


def _change(key: bytes, name: str, shape: tuple[int, ...], party: int) -> Ring:
    """What a party adds to one of its arrays. It may be so for all versions, for the key is of one version only."""
    halves = {f"mask{number}": KeyStream(derive(key, "half", number)) for number in (0, 1)}
    match name:
        case "masked":
            return halves["mask0"].words(shape) + halves["mask1"].words(shape)
        case "mask":
            return halves[f"mask{party}"].words(shape)
        case "mask0" | "mask1":
            return halves[name].words(shape)
        case _:  # shares that are added: a zero share
            zero = KeyStream(derive(key, "zero", name)).words(shape)
            return zero if party == 0 else np.uint64(0) - zero

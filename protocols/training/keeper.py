"""The actor that keeps shares at rest: at each worker one, whichever part the worker has.

Server i keeps m = x + lambda and lambda_i of an array, the crypto provider both lambda_i (among three equals, the worker that helps with
what has no name), and each server its share of the weights of a training.
Whenever they are loaded they are re-randomised: the two servers each draw a seed s_i, which they tell each other (and, for an array, the
provider); with delta_i = PRG(s_0, s_1, i)

    m <- m + delta_0 + delta_1,   lambda_i <- lambda_i + delta_i,   W_0 <- W_0 + delta,   W_1 <- W_1 - delta,

which changes neither x nor W. A file of before and a file of afterwards, of two parties, say nothing together.

A version is current when all parties have written it: old files are removed after that only, so that whenever anybody is killed there is
a version that all have.

Adversary: semi-honest, no two parties collude. **Leaks** to each worker: names, shapes, how far a training is, who loads what when.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from actors import Actor, message
from protocols.client_name import client_name
from protocols.concurrency import at_once
from protocols.errors import InputError, NameTaken, NotGranted, SharingError, UnknownData, VaultError, WorkerLost
from protocols.exchange import Ring
from protocols.hosting import Addresses
from protocols.keystream import KeyStream, derive, fresh_key
from protocols.presence import Presence
from protocols.run import Inboxes
from protocols.training.holdings import Background, Holdings, Stored
from protocols.training.kept import DATA, About, joined, put_together, shows
from protocols.training.replicated import replicated
from protocols.training.terms import Column
from protocols.vault import Label

PROVIDER = 2
"""The number of the crypto provider; the servers are 0 and 1."""


class Version(msgspec.Struct, frozen=True):
    """A version of something that is kept here."""

    label: Label
    about: About


class Part(msgspec.Struct, frozen=True):
    """A version of an array, and the right to train on it; empty for those whose certificate is enough."""

    label: Label
    right: bytes

    def __repr__(self) -> str:
        return f"Part({self.label.name!r}, version {self.label.serial})"


class Keeper(Actor):
    """Writes, re-randomises, and removes what is kept here.

    Args:
        holdings: of this worker.
        patience: seconds to wait for the other parties.
    """

    def __init__(self, holdings: Holdings, patience: float = 30.0) -> None:
        self._holdings, self._patience = holdings, patience
        self._seeds = Inboxes(patience)
        self._background = Background()
        self._writing = asyncio.Lock()

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        self._background.close()
        self._seeds.close()

    # Data arrive.

    @message(reentrant=True)
    async def keep_masked(self, label: Label, about: About, masked: npt.NDArray[np.uint64], key: bytes) -> None:
        """A server's part of an array: the masked values, and the key of this server's half of the mask."""
        column = _column(about, "server")
        if masked.shape != column.shape:
            raise SharingError(f"an array of shape {masked.shape} arrived for {column.name!r} of shape {column.shape}")
        await self._keep(label, about, {"masked": masked, "mask": KeyStream(key).words(column.shape)})

    @message(reentrant=True)
    async def keep_mask(self, label: Label, about: About, keys: tuple[bytes, bytes]) -> None:
        """The provider's part of an array: both halves of its mask. The masked array never comes here."""
        column = _column(about, "crypto provider")
        first, second = (KeyStream(key).words(column.shape) for key in keys)
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

    @message(reentrant=True)
    async def versions(self, kind: str, name: str | None) -> list[Version]:
        """All versions of a name. Of data also all versions of all names, which are public, but for those that are damaged here."""
        vault = self._holdings.vault
        if name is not None:
            return await asyncio.to_thread(lambda: [Version(label, self._about(label)) for label in vault.labels(kind, name)])
        if kind != DATA:
            raise SharingError("only the names of data are told")
        return await asyncio.to_thread(lambda: list(self._readable(vault.labels(kind))))

    def _readable(self, labels: list[Label]) -> Iterator[Version]:
        for label in labels:
            with contextlib.suppress(VaultError):
                yield Version(label, self._about(label))

    def _about(self, label: Label) -> About:
        return msgspec.msgpack.decode(self._holdings.vault.about(label), type=About)

    # Versions.

    @message(reentrant=True)
    async def refresh(self, old: Label, new: Label, right: bytes, party: int, addresses: Addresses, presence: Presence) -> bytes:
        """Writes a version that has nothing in common with the one before, together with the other parties.

        Returns:
            What all parties return if they have written versions that belong together.
        """
        about = await self._granted(old, right, presence)
        if (party == PROVIDER) != (about.role == "crypto provider") or not 0 <= party <= PROVIDER:
            raise InputError(f"{old.name!r} was left here for a {about.role}: name the servers and the provider as its owner did")
        if (old.kind, old.name) != (new.kind, new.name) or new.serial <= old.serial:
            raise SharingError(f"version {new.serial} cannot come after version {old.serial}")
        everybody = (0, 1, PROVIDER) if old.kind == DATA else (0, 1)
        key = await self._joint_key(new.tag, party, everybody, addresses)
        await asyncio.to_thread(self._rewrite, old, new, party, key)
        return derive(key, "check")

    async def _joint_key(self, tag: bytes, party: int, everybody: tuple[int, ...], addresses: Addresses) -> bytes:
        """K from the seeds of both servers, whom everybody hears. The tag is used once."""
        urls = (*addresses.servers, addresses.crypto_provider)
        seeds = {party: fresh_key()} if party != PROVIDER else {}

        async def tell(other: int) -> None:
            keeper = await self.system.connect(f"{urls[other]}/keeper", Keeper)
            await keeper.contribute(tag, party, np.frombuffer(seeds[party], "<u8").astype(np.uint64))

        async def hear(other: int) -> None:
            with self._seeds.claimed(_channel(tag, other)) as inbox:
                try:
                    async with asyncio.timeout(self._patience):
                        seeds[other] = (await inbox.get(0))[0].astype("<u8").tobytes()
                except TimeoutError:
                    raise WorkerLost(f"server {other} did not contribute within {self._patience:g} s") from None

        hearing = [hear(other) for other in (0, 1) if other != party]
        await at_once(*hearing, *(tell(other) for other in everybody if party in seeds and other != party))
        return derive(seeds[0] + seeds[1], "refresh", tag)

    @message(reentrant=True)
    def contribute(self, tag: bytes, party: int, seed: npt.NDArray[np.uint64]) -> None:
        """The seed of a server for a new version, perhaps before anybody has asked for it here."""
        if seed.shape != (2,):
            raise SharingError(f"a seed of shape {seed.shape} arrived, two words are needed")
        self._seeds.put(_channel(tag, party), 0, [seed])

    def _rewrite(self, old: Label, new: Label, party: int, key: bytes) -> None:
        about, arrays = self._holdings.vault.read(old)
        refreshed = {name: array + _change(key, name, array.shape, party) for name, array in arrays.items()}
        self._holdings.vault.write(new, about, refreshed)

    @message(reentrant=True)
    async def commit(self, label: Label, right: bytes, presence: Presence) -> None:
        """All parties have this version: those before it are removed."""
        await self._granted(label, right, presence)
        await asyncio.to_thread(self._holdings.vault.remove, label.kind, label.name, before=label.serial)

    @message(reentrant=True)
    async def remove(self, kind: str, name: str, own: bytes) -> None:
        """Removes all versions, for their owner. What was loaded from them already goes on."""
        vault = self._holdings.vault
        async with self._writing:
            for label in vault.labels(kind, name):
                if not shows(own, self._about(label).own):
                    raise NotGranted(f"only the owner of {name!r} can remove it: show the right that its sharing gave to the owner")
            await asyncio.to_thread(vault.remove, kind, name)

    # To be trained on.

    @message(reentrant=True)
    async def place(self, parts: list[Part], axis: int, handle: bytes, party: int, helper: int | None, presence: Presence) -> Column:
        """Puts arrays together and holds them for training, as long as whoever asks is there.

        Among equals `helper` is the place of the worker that keeps the masks.
        """
        if not parts:
            raise SharingError("there is no array to place")
        abouts = [await self._granted(part.label, part.right, presence) for part in parts]
        role = "crypto provider" if party == PROVIDER else "server"
        column = joined([_column(about, role) for about in abouts], axis, handle)
        arrays = await asyncio.to_thread(self._together, parts, axis)
        if helper is not None:
            self._holdings.hold(handle, replicated(helper, party, arrays))
        elif party == PROVIDER:
            self._holdings.masks[handle] = arrays["mask0"] + arrays["mask1"]
        else:
            self._holdings.arrays[handle] = Stored(column, arrays["masked"], arrays["mask"])
        self._background.while_present(self.system, presence, self._holdings.arrays, handle)
        self._background.while_present(self.system, presence, self._holdings.masks, handle)
        return column

    def _together(self, parts: list[Part], axis: int) -> dict[str, Ring]:
        read = [self._holdings.vault.read(part.label)[1] for part in parts]
        return {name: put_together([arrays[name] for arrays in read], axis) for name in read[0]}

    async def _granted(self, label: Label, right: bytes, presence: Presence) -> About:
        """What a version is, for somebody who may use it.

        Raises:
            UnknownData: there is no such version.
            NotGranted: the caller shows no right.
        """
        if label not in self._holdings.vault.labels(label.kind, label.name):
            raise UnknownData(f"version {label.serial} of {label.name!r} is not kept here; it may have been loaded or removed meanwhile")
        about = await asyncio.to_thread(self._about, label)
        if shows(right, about.use) or (about.allowed and client_name(self.system, presence) in about.allowed):
            return about
        raise NotGranted(
            f"{label.name!r} may not be used: show the grant that its owner has given, or a certificate that its owner has named"
        )


def _channel(tag: bytes, party: int) -> bytes:
    return derive(tag, "seed of server", party)


def _column(about: About, role: str) -> Column:
    if about.column is None or about.role != role:
        raise SharingError(f"something for a {about.role} arrived, an array for a {role} is needed")
    return about.column


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

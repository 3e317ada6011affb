"""The owner's side of checkpoints: a folder with the right to the shares that both servers keep of a training.

After each epoch, and every `save_every` steps, both servers write their shares of the weights and of the optimizer's state, each under
its own key. A checkpoint counts when both have written it; then those before it are removed. The owner's folder holds no weights: a
secret by which the servers know the owner, and the key from which the order of the examples derives. The crypto provider keeps nothing,
for all randomness is dealt once: a resumed training gets new.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from protocols.authority.rights import digest_at, right_at
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.datasets.dataset import SharedDataset
from protocols.errors import CheckpointError
from protocols.mpc.parties.keystream import fresh_key
from protocols.owner.kept_versions import VersionedShares, at_all, keepers, renewed
from protocols.storage.replacement import replace
from protocols.storage.vault import Label, locked
from protocols.storage.versions import RUN, Progress, run_name
from protocols.training.terms import AnyPlan
from protocols.workers.training_server import TrainingServer

FILE = "training.json"
MEMORIES = "callbacks.json"
"""What callbacks remember; public, as metrics are that they were told."""
SERVERS = 2
"""The parties that keep a share of a training."""


class _SavedRun(msgspec.Struct, frozen=True):
    """What is in the file.

    Attributes:
        settings: a digest of all that must be the same when the training is resumed.
        right: secret from which the rights to the shares follow, another one for each server.
        order: see `TrainingTerms.order`.
        model: the name under which it was shared.
        begun: whether there is a first checkpoint.
    """

    settings: bytes
    right: bytes
    order: bytes | None
    model: str
    begun: bool = False


def settings(plan: AnyPlan, arrays: Sequence[SharedDataset], batch: int, helper: int | None, *, shuffle: bool) -> bytes:
    """Return a digest of what a training does and among whom, but for the number of its epochs."""
    data = [(array.name, array.shape, array.content, array.dataset.records) for array in arrays]
    return hashlib.sha256(msgspec.msgpack.encode((plan, data, batch, helper, shuffle))).digest()


class CallbackMemory(msgspec.Struct, frozen=True):
    """What the owner's process remembers beside the shares, after an epoch.

    Attributes:
        epoch: how many there were.
        callbacks: what each callback remembers.
        rate: the learning rate, if callbacks may have set it.
    """

    epoch: int
    callbacks: list[dict[str, Any]]
    rate: float | None


class Checkpoints:
    """The checkpoints of one training. One process at a time; `close` lets others have it.

    Args:
        cluster: that keeps them.
        model: the name under which it is shared; among equals it says who the servers are.
        folder: of the owner; is made if it is missing.
        resume: go on with the training that is in it; if there is none, begin.
        settings: see `settings`.
        shuffle: whether the order of examples changes.

    Raises:
        CheckpointError: there is a training that is not to be resumed, or another one, or the folder cannot be used.
        VaultError: another process uses the folder.
    """

    def __init__(
        self, cluster: ThreeWorkers, model: str, folder: str | os.PathLike[str], *, resume: bool, settings: bytes, shuffle: bool
    ) -> None:
        self._cluster, self._file = cluster, Path(folder) / FILE
        self._addresses, self._places = cluster.addresses_for(model), cluster.seats_for(model).servers
        self._serial = 0
        self._remembered: list[CallbackMemory] = []
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = locked(self._file.parent)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be used for checkpoints: {error}") from None
        try:
            self._run = self._found(settings, resume) or _SavedRun(
                settings, secrets.token_bytes(32), fresh_key() if shuffle else None, model
            )
            self._write(self._run)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    @property
    def order(self) -> bytes | None:
        """From which the order of the examples derives."""
        return self._run.order

    @property
    def begun(self) -> bool:
        """Whether there is a first one."""
        return self._run.begun

    def _found(self, settings: bytes, resume: bool) -> _SavedRun | None:
        if not self._file.exists():
            return None
        folder = self._file.parent
        try:
            run = msgspec.json.decode(self._file.read_bytes(), type=_SavedRun)
        except (OSError, msgspec.MsgspecError) as error:
            raise CheckpointError(f"{self._file} is no training, or is damaged: {error}; give another folder") from None
        if run.begun and not resume:
            raise CheckpointError(f"{folder} has a training already: give resume=True to go on with it, or another folder")
        if run.begun and run.settings != settings:
            raise CheckpointError(
                f"the training in {folder} has another model, loss, optimizer, batch size, order, data or servers: resume it with its"
                " own, or give another folder"
            )
        return run if resume and run.settings == settings else None

    def _write(self, run: _SavedRun) -> None:
        try:
            replace(self._file, msgspec.json.encode(run))
        except OSError as error:
            raise CheckpointError(f"{self._file} cannot be written: {error}") from None
        self._run = run

    @property
    def _rights(self) -> list[bytes]:
        """At server 0 and at server 1."""
        return [right_at(self._run.right, place) for place in self._places]

    def remember(self, what: CallbackMemory) -> None:
        """Write down what the next epoch depends on at the owner, before its checkpoint: what belongs to the one before stays, too."""
        self._remembered = [*self._remembered[-1:], what]
        try:
            replace(self._file.parent / MEMORIES, msgspec.json.encode(self._remembered))
        except OSError as error:
            raise CheckpointError(f"{self._file.parent / MEMORIES} cannot be written: {error}") from None

    def remembered(self, epoch: int) -> CallbackMemory | None:
        """Return what was written down after so many epochs; None if nothing was."""
        try:
            self._remembered = msgspec.json.decode((self._file.parent / MEMORIES).read_bytes(), type=list[CallbackMemory])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise CheckpointError(f"{self._file.parent / MEMORIES} is damaged: {error}; remove it, and callbacks begin anew") from None
        return next((one for one in self._remembered if one.epoch == epoch), None)

    async def _shares(self) -> VersionedShares:
        keeping = await keepers(self._cluster, self._addresses, SERVERS)
        return VersionedShares(self._addresses, keeping, self._rights, self._cluster.equals, self._run.model)

    async def restore(self, plan: AnyPlan, handle: bytes, secret: bytes) -> Progress | None:
        """Have both servers hold the model of the last checkpoint, under new shares; return None if the training has not begun.

        Args:
            plan: what is trained.
            handle: for the model.
            secret: from which the rights to it follow.

        Raises:
            UnknownData: the servers keep no checkpoint of it that both have.
            VaultError: a file is damaged.
            WorkerLost: a worker went away.
        """
        name, presence, shares = run_name(self._run.right), self._cluster.presence, await self._shares()
        if not self._run.begun:
            found = await shares.found(RUN, name)
            labels = [{version.label for version in versions} for versions in found]
            if not set.intersection(*labels):
                self._serial = max((label.serial for label in set.union(*labels)), default=0)
                return None
        version = await renewed(shares, RUN, name)
        work = (
            server.restore(handle, digest_at(secret, place), plan, version.label, right, presence)
            for server, place, right in zip(await self._servers(), self._places, shares.rights, strict=True)
        )
        await at_all(self._addresses, *work)
        self._serial = version.label.serial
        return version.about.progress

    async def save(self, run: bytes, rights: list[bytes], progress: Progress) -> None:
        """Have both servers write a checkpoint of a run of theirs, and then forget older ones. `rights` are those to the run, at each.

        Raises:
            KeepsNothing: a server has no folder.
            VaultError: a server cannot write.
            WorkerLost: a worker went away.
        """
        label, shares = Label(RUN, run_name(self._run.right), self._serial + 1, secrets.token_bytes(16)), await self._shares()
        servers = zip(await self._servers(), rights, shares.rights, strict=True)
        await at_all(self._addresses, *(server.save(run, right, label, shown, progress) for server, right, shown in servers))
        await shares.committed(label)
        self._serial = label.serial
        if not self._run.begun:
            self._write(msgspec.structs.replace(self._run, begun=True))

    async def _servers(self) -> list[TrainingServer]:
        system = self._cluster.links.system
        connected = (system.connect(f"{url}/training", TrainingServer) for url in self._addresses.servers)
        return [server.with_options(timeout=None) for server in await at_once(*connected)]


async def discard(cluster: ThreeWorkers, folder: str | os.PathLike[str]) -> None:
    """Have both servers remove the checkpoints of a training; see `Cluster.discard`."""
    path = Path(folder) / FILE
    try:
        run = msgspec.json.decode(path.read_bytes(), type=_SavedRun)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(f"{folder} holds no training: {error}") from None
    addresses = cluster.addresses_for(run.model)
    keeping = await keepers(cluster, addresses, SERVERS)
    places = cluster.seats_for(run.model).servers
    removing = (keeper.remove(RUN, run_name(run.right), right_at(run.right, place)) for keeper, place in zip(keeping, places, strict=True))
    await at_all(addresses, *removing)
    path.unlink()

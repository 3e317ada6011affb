"""What private trainings of one model have spent: before an epoch begins, and for good.

An epoch takes each example once, in one step, so it is one Gaussian mechanism for each of them, and epochs are composed. Neighbours are two
stores of as many examples of which one has other numbers of no effect (zero-out: its gradients are zero): its part of one sum an epoch
moves by C at most. Which examples are in a step is known to the servers, and to the owner of the model, who draws the order: **no
amplification by sampling is claimed, towards anybody**; towards those who know only a result and not the order there would be some, but
batches of a shuffled order are no Poisson samples.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from protocols.errors import CheckpointError
from protocols.storage.replacement import replace

if TYPE_CHECKING:
    from privacy.ledger import Ledger
    from privacy.mechanisms import DPSGD

FILE = "privacy.json"


class ExamplePrivacy(msgspec.Struct, frozen=True):
    """What all private epochs of a model together have spent, for each example: (epsilon, delta)-differential privacy.

    It holds for whatever is revealed of the model, whoever sees it. The servers and the dealer by themselves see nothing at all.

    Attributes:
        epsilon: even if one of the two servers tells its noise: from that of the other one.
        alone: towards those whom no server helps: from the noise of both.
        delta: for both.
    """

    epsilon: float
    alone: float
    delta: float

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:.2f} at delta {self.delta:g} ({self.alone:.2f} if no server tells its noise)"


class _Written(msgspec.Struct):
    """What is in the file of a training that can be resumed.

    Attributes:
        multipliers: z of each epoch that was paid for, of earlier trainings of the model, too.
        paid: the next epoch that is not.
        marks: a name of its own for each of the multipliers, by which two accounts know what both have counted.
    """

    multipliers: list[float]
    paid: int = 0
    marks: list[str] = []

    def add(self, multiplier: float, mark: str = "") -> None:
        """Count one epoch more, unless its mark was counted."""
        if mark not in self.marks:
            self.multipliers.append(multiplier)
            self.marks.append(mark or os.urandom(16).hex())


class Spending:
    """Of one model. Kept in the folder of a training if there is one, so that who resumes goes on counting."""

    def __init__(self) -> None:
        self._written = _Written([])
        self._path: Path | None = None
        self._ledger: Ledger | None = None
        self._privacy: DPSGD | None = None

    async def begin(self, privacy: DPSGD, folder: str | os.PathLike[str] | None, ledger: Ledger | None, epochs: tuple[int, int]) -> None:
        """Begin a training from an epoch to another. What earlier ones of this model have spent goes on counting.

        Raises:
            BudgetSpent: the epochs cost more than `privacy` or the ledger allows. Nothing was written.
            CheckpointError: the folder cannot be written.
        """
        self._privacy, self._ledger = privacy, ledger
        self._path = None if folder is None else Path(folder) / FILE
        self._written = _Written(self._written.multipliers, marks=self._written.marks)
        await asyncio.to_thread(self._afford, epochs)
        self._write()

    async def resume(self, privacy: DPSGD, folder: str | os.PathLike[str] | None, ledger: Ledger | None, epochs: tuple[int, int]) -> None:
        """Go on with the training in a folder, as `begin`. What the folder does not know of, and was spent here since, goes on counting.

        Raises:
            BudgetSpent: see `begin`.
            CheckpointError: the folder does not say what has been spent, or cannot be written.
        """
        assert folder is not None  # else nothing could be resumed
        here, found = self._written, _read(Path(folder) / FILE)
        for multiplier, mark in zip(here.multipliers, here.marks, strict=True):
            found.add(multiplier, mark)
        self._privacy, self._ledger, self._path, self._written = privacy, ledger, Path(folder) / FILE, found
        await asyncio.to_thread(self._afford, epochs)
        self._write()

    def _afford(self, epochs: tuple[int, int]) -> None:
        from privacy.errors import BudgetSpent  # noqa: PLC0415  see `agreed.py`

        privacy, ledger, more = self._privacy, self._ledger, epochs[1] - max(epochs[0], self._written.paid)
        assert privacy is not None  # it is about to begin
        if more < 1:
            return
        z = privacy.noise_multiplier
        if privacy.max_epsilon is not None:
            after = _epsilon([*self._written.multipliers, *[z] * more], privacy.delta)
            if after > privacy.max_epsilon:
                raise BudgetSpent(
                    f"{more} epochs more would bring epsilon to {after:.3g} at delta {privacy.delta:g}, and max_epsilon is"
                    f" {privacy.max_epsilon:g}: train for fewer epochs, or with more noise"
                )
        if ledger is not None and not ledger.affords(_event(z), more):
            raise BudgetSpent(f"{more} epochs with noise_multiplier={z:g} cost more than is left in {ledger.path}")

    def pay(self, epoch: int) -> None:
        """Pay for an epoch, counted from 0, before it begins; nothing where that was done before it was interrupted.

        Raises:
            BudgetSpent: the ledger has not enough left.
        """
        assert self._privacy is not None  # it has begun
        if epoch < self._written.paid:
            return
        if self._ledger is not None:
            self._ledger.spend(_event(self._privacy.noise_multiplier), purpose=f"epoch {epoch + 1} of a training on shares")
        self._written.add(self._privacy.noise_multiplier)
        self._written.paid = epoch + 1
        self._write()

    def told(self, epoch: int) -> None:
        """Note that something of an epoch was told and the epoch is thrown away: made again it is paid for again."""
        self._written.paid = min(self._written.paid, epoch)
        self._write()

    def spent(self) -> ExamplePrivacy:
        """Return what all of it costs: slow, not for an event loop."""
        assert self._privacy is not None  # it has begun
        delta, both = self._privacy.delta, [z * 2**0.5 for z in self._written.multipliers]
        return ExamplePrivacy(_epsilon(self._written.multipliers, delta), _epsilon(both, delta), delta)

    async def paid(self, epoch: int) -> ExamplePrivacy:
        """Pay for an epoch, see `pay`, and return what has been spent with it."""
        await asyncio.to_thread(self.pay, epoch)
        return await asyncio.to_thread(self.spent)

    def _write(self) -> None:
        if self._path is not None:
            try:
                replace(self._path, msgspec.json.encode(self._written))
            except OSError as error:
                raise CheckpointError(f"{self._path} cannot be written: {error}") from None


def _read(path: Path) -> _Written:
    """Return what a file says; epochs without marks, of an earlier version, are taken for others than all that were counted here."""
    try:
        said = msgspec.json.decode(path.read_bytes(), type=_Written)
        if len(set(said.marks)) < len(said.marks):
            raise ValueError
        found = _Written([], said.paid)
        for multiplier, mark in zip(said.multipliers, said.marks or [""] * len(said.multipliers), strict=True):
            found.add(multiplier, mark)
    except (OSError, ValueError, msgspec.MsgspecError):
        raise CheckpointError(
            f"{path} is missing or damaged, and says what the training in its folder has spent: put it back, or begin in another folder"
        ) from None
    return found


def _event(multiplier: float) -> Any:
    from privacy.plan import event  # noqa: PLC0415  see `agreed.py`

    return event(1.0, multiplier)


def _epsilon(multipliers: list[float], delta: float) -> float:
    """Return an upper bound for so many Gaussian mechanisms: they are one, of multiplier (sum of z^-2)^-1/2 (Dong, Roth and Su, 2022)."""
    from privacy.accounting import epsilon  # noqa: PLC0415  see `agreed.py`

    if not multipliers:
        return 0.0
    return epsilon([(_event(sum(z**-2.0 for z in multipliers) ** -0.5), 1)], "pld", delta)

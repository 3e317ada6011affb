"""Versions of what stays when its owner has gone, datasets and trainings: the public half of each file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from protocols.datasets.dataset import Dataset
from protocols.datasets.use import Use

Role = Literal["server", "crypto provider"]

DATA, RUN = "data", "run"
"""The kinds of what is in a vault: datasets and runs of training."""


class Progress(msgspec.Struct, frozen=True, order=True):
    """How far a training is: so many steps of the epoch of this number, from 0, are in the weights.

    Attributes:
        before: steps that the model had made before this training: learning rates go on from there.
    """

    epoch: int
    step: int
    before: int = 0

    def made(self, steps: int) -> int:
        """Return all steps of the model, with so many in an epoch."""
        return self.before + self.epoch * steps + self.step


class About(msgspec.Struct, frozen=True):
    """The public half of a file of shares.

    Attributes:
        role: whose share it is: a server's, or the masks of the crypto provider.
        use: digest of the right to train on it, at this worker.
        own: digest of the right to remove it, at this worker.
        allowed: common names in the certificates of those who may train on it without showing a right, and what each may do.
        granted: what those may do who show the right; of a training, what may be done with its weights.
        dataset: which one it is; None: weights. Its handle is empty.
        progress: of a training whose weights they are.
        check: what the parts of one version have in common, and those of different ones do not; empty for data as their owner brought them.
        origin: serial number of the version from which this one was made; 0: from none.
    """

    role: Role
    use: bytes
    own: bytes
    allowed: Mapping[str, Use] = {}
    granted: Use = Use()
    dataset: Dataset | None = msgspec.field(default=None, name="column")  # so it is called in files that are there
    progress: Progress | None = None
    check: bytes = b""
    origin: int = 0


def run_name(secret: bytes) -> str:
    """Return the name under which servers keep a training, from the secret of its owner."""
    return hashlib.sha256(b"confide training" + secret).hexdigest()[:32]

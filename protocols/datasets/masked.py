"""Datasets at two servers and a crypto provider: both servers have m = x + lambda, server i has lambda_i, the provider both halves.

lambda = lambda_0 + lambda_1 modulo 2^64, each half the key stream of a key of 16 bytes that the owner draws for this dataset alone.

**Leaks** to one of the three: the shape. A server together with the provider, or with the other server, has the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import Dataset
from protocols.errors import InputError, UnknownModel
from protocols.mpc.engine.values import Affine
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.parties.keystream import KeyStream, fresh_key

MaskKeys = tuple[bytes, bytes]
"""The keys of lambda_0 and lambda_1."""


def mask(values: Ring) -> tuple[Ring, MaskKeys]:
    """Return the values of a dataset under a fresh mask, and the keys of its halves."""
    keys = fresh_key(), fresh_key()
    return values + KeyStream(keys[0]).words(values.shape) + KeyStream(keys[1]).words(values.shape), keys


def halves(dataset: Dataset, keys: MaskKeys) -> tuple[Ring, Ring]:
    """Return both halves of the mask of a dataset, as the provider has them.

    Raises:
        TooLarge, InputError: see `Dataset.check`. Nothing was allocated.
    """
    dataset.check()
    return KeyStream(keys[0]).words(dataset.shape), KeyStream(keys[1]).words(dataset.shape)


@dataclass(frozen=True)
class MaskedDataset:
    """A dataset at a server: m = x + lambda, and this server's half of lambda."""

    dataset: Dataset
    masked: Ring = field(repr=False)
    mask: Ring = field(repr=False)

    @staticmethod
    def expanded(dataset: Dataset, masked: Ring, key: bytes) -> MaskedDataset:
        """Return what a server has of a dataset, from the masked values and the key of its half of the mask.

        Raises:
            InputError: the values have another shape than was announced.
        """
        if masked.shape != dataset.shape:
            raise InputError(f"an array of shape {masked.shape} arrived for {dataset.name!r} of shape {dataset.shape}")
        return MaskedDataset(dataset, masked, KeyStream(key).words(dataset.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Examples, columns."""
        return self.masked.shape

    def wire(self, helper: int | None, rows: npt.NDArray[np.int64]) -> Affine:
        """Return some of its examples as a server of a run has them.

        Raises:
            UnknownModel: the run is one of three equals.
        """
        if helper is not None:
            raise UnknownModel(
                f"{self.dataset.name!r} was stored with a crypto provider, and this cluster is of three equals: store it anew"
            )
        return Affine(self.masked[rows], {"R": self.mask[rows]})

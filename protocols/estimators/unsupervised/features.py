"""Features of a fit without targets, as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError
from protocols.estimators.arrays import table
from protocols.estimators.data import Scaling
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data


@dataclass(frozen=True)
class Features:
    """What is stored, and how it relates to the user's numbers.

    Attributes:
        array: x as it is stored.
        scale: see `Scaling`.
        here: what is stored, if x is here; else None.
    """

    array: SharedDataset
    scale: Scaling
    here: Array | None

    @classmethod
    async def stored(cls, run: Run, x: Data, *, reach: float, alike: bool) -> Features:
        """Check x and store it, centred and below `reach`, if it is here; all columns times the same factor if `alike`.

        Raises:
            InputError: x is no table of numbers, or has one example.
        """
        if isinstance(x, SharedDataset):
            if x.content != "numbers":
                raise InputError(f"{x.name!r} was stored as labels because it is one integer an example: features are stored as floats")
            found = cls(x, Scaling.none(x.shape[1]), None)
        else:
            rows = table("x", x)
            center = rows.mean(0)
            far = np.abs(rows - center).max(0)
            far[far <= 1e-12 * np.abs(rows).max(0)] = 0.0  # a constant column, but for how its mean is rounded
            largest = np.full(len(far), far.max()) if alike else far
            factor = np.where(largest > 0, reach / np.where(largest > 0, largest, 1.0), 1.0)
            scale = Scaling(center, factor)
            stored = np.where(far > 0, scale.stored(rows), 0.0)
            found = cls(await run.store("features", stored), scale, stored)
        if found.array.shape[0] < 2:
            raise InputError("there is one example: two at least are needed")
        return found

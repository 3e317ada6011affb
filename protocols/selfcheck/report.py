"""What a comparison of a program with its model has shown."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from protocols.errors import ModelError

TOLERANCE = 0.05
"""Of the largest output. Keras' own half precision errs by 1 to 7 % of it in deep networks."""


def check_tolerance(tolerance: float | None) -> None:
    """Refuse what is no tolerance.

    Raises:
        ModelError: it is neither None nor a finite number of at least 0.
    """
    if tolerance is None:
        return
    if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real) or not (math.isfinite(tolerance) and tolerance >= 0):
        raise ModelError(f"tolerance={tolerance!r}: a finite number of at least 0 is needed, or None to accept any error")


@dataclass(frozen=True)
class Check:
    """What a comparison has shown.

    Attributes:
        samples: how many examples were compared.
        source: where they are from: "calibration", "check" or "drawn" from the input range.
        error: the largest difference of an output on these examples. It is no bound: others may be off by several times as much.
        largest: the largest absolute output of Keras.
        labels: how many labels are other than Keras', or None where there are none.
        undefined: drawn inputs that were left out, since Keras' own outputs for them are NaN or infinite.
    """

    samples: int
    source: str
    error: float
    largest: float
    labels: int | None
    undefined: int = 0

    def __str__(self) -> str:
        kind = "drawn inputs" if self.source == "drawn" else "samples"
        labels = f", {self.labels} other labels" if self.labels else ""
        undefined = f", {self.undefined} more on which Keras' are NaN or infinite" if self.undefined else ""
        return f"largest error on {self.samples} {kind}: {self.error:.2g} of {self.largest:.2g}{labels}{undefined}"

"""What a comparison of a program with its model has shown."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 0.05
"""Of the largest output. Keras' own half precision errs by 1 to 7 % of it in deep networks."""


@dataclass(frozen=True)
class Check:
    """What a comparison has shown.

    Attributes:
        samples: how many examples were compared.
        source: where they are from: "calibration", "check" or "drawn" from the input range.
        error: the largest difference of an output.
        largest: the largest absolute output of Keras.
        labels: how many labels are other than Keras', or None where there are none.
    """

    samples: int
    source: str
    error: float
    largest: float
    labels: int | None

    def __str__(self) -> str:
        kind = "drawn inputs" if self.source == "drawn" else "samples"
        labels = f", {self.labels} other labels" if self.labels else ""
        return f"largest error on {self.samples} {kind}: {self.error:.2g} of {self.largest:.2g}{labels}"

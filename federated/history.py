"""All rounds of a federation so far."""

from __future__ import annotations

import csv
from os import PathLike

from federated.outcome import Outcome

COLUMNS = ("round", "sampled", "reported", "late", "dropped", "rejected", "examples", "seconds", "bytes", "failure")


class History(list[Outcome]):
    """The outcomes, first round first; failed rounds, too."""

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Writes one row a round: counts of owners, figures, and one column for each metric; empty where a round has no such metric.

        Raises:
            OSError: the file cannot be written.
        """
        metrics = list(dict.fromkeys(name for outcome in self for name in outcome.metrics))
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, *metrics])
            for outcome in self:
                writer.writerow([*map(_cell, (getattr(outcome, name) for name in COLUMNS)), *(outcome.metrics.get(m, "") for m in metrics)])


def _cell(value: object) -> object:
    """Owners are counted; None is empty."""
    return len(value) if isinstance(value, (tuple, dict)) else value

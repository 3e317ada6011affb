"""All rounds of a federation so far."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from federated.errors import SettingError
from federated.rounds.outcome import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("round", "sampled", "reported", "late", "dropped", "rejected", "examples", "seconds", "bytes", "epsilon", "failure")


class History(list[Outcome]):
    """The outcomes, first round first; failed rounds, too."""

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write one row a round: counts of owners, figures, and one column for each metric; empty where a round has no such metric.

        Raises:
            OSError: the file cannot be written.
        """
        metrics = list(dict.fromkeys(name for outcome in self for name in outcome.metrics))
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*COLUMNS, *metrics])
            for outcome in self:
                writer.writerow([*map(_cell, (getattr(outcome, name) for name in COLUMNS)), *(outcome.metrics.get(m, "") for m in metrics)])

    def plot(self, path: str | PathLike[str] | None = None, *, metrics: Sequence[str] | None = None) -> Figure:
        """Draw metrics over rounds: a panel for each, with local training (`loss`), the owners' evaluation (`val_loss`) and the
        aggregator's (`test_loss`); with differential privacy one more for epsilon. Failed rounds are marked.

        Args:
            path: where to write the picture; its ending says the format. None: nowhere.
            metrics: which, without `val_` or `test_`; None: all.

        Returns:
            The figure, to go on with; it belongs to no window.

        Raises:
            SettingError: matplotlib is not installed, no round has succeeded, or a metric is not there.
            OSError: the file cannot be written.
        """
        spent = [(outcome.round, outcome.epsilon) for outcome in self if outcome.epsilon is not None]
        known = list(dict.fromkeys(name.removeprefix("val_").removeprefix("test_") for outcome in self for name in outcome.metrics))
        names = known if metrics is None else list(metrics)
        missing = [name for name in names if name not in known]
        if missing or not (names or spent):
            raise SettingError(f"there is no {', '.join(missing) or 'metric'} to plot: the rounds so far have {', '.join(known) or 'none'}")
        figure = _figure(len(names) + bool(spent))
        for axes, name in zip(figure.axes, names, strict=False):
            self._draw(axes, name)
        if spent:
            figure.axes[-1].plot(*zip(*spent, strict=True), marker="." if len(spent) < 40 else None)
            figure.axes[-1].set(xlabel="round", ylabel="epsilon")
        if path is not None:
            figure.savefig(path)
        return figure

    def _draw(self, axes: Any, name: str) -> None:
        for key, label in [(name, "local training"), (f"val_{name}", "evaluation by owners"), (f"test_{name}", "evaluation here")]:
            points = [(outcome.round, outcome.metrics[key]) for outcome in self if key in outcome.metrics]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=label)
        for outcome in self:
            if outcome.failure is not None:
                axes.axvline(outcome.round, color="0.8", linewidth=1, zorder=0)
        axes.set(xlabel="round", ylabel=name)
        axes.legend()


def _figure(panels: int) -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra
    except ImportError:
        raise SettingError("plot() needs matplotlib: pip install 'confide[plot]'") from None
    figure = Figure(figsize=(5 * panels, 3.5), layout="constrained")
    figure.subplots(1, panels)
    return figure


def _cell(value: object) -> object:
    """Owners are counted; None is empty."""
    return len(value) if isinstance(value, (tuple, dict)) else value

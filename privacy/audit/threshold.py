"""Membership inference by a threshold: whoever has a loss below it is said to have been trained on. All thresholds at once."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.audit.scores import loss_scores
from privacy.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class MembershipAttack:
    """How well members are told from others, for every threshold.

    Attributes:
        fpr: (T,) ascending from 0 to 1: the part of the others that is taken for members.
        tpr: (T,) ascending from 0 to 1: the part of the members that is recognised.
        members: how many there were.
        others: how many there were.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    members: int
    others: int

    @property
    def auc(self) -> float:
        """The area under the curve: 0.5 for guessing, 1 if every member has a lower loss than every other. Ties count half."""
        return float(np.sum(np.diff(self.fpr) * (self.tpr[1:] + self.tpr[:-1]) / 2.0))

    @property
    def advantage(self) -> float:
        """Max over the thresholds of tpr - fpr (Yeom et al., 2018, arXiv:1709.01604, Definition 4, for the best threshold)."""
        return float(np.max(self.tpr - self.fpr))

    def tpr_at(self, fpr: float) -> float:
        """Return the best tpr of thresholds with at most this fpr; not interpolated (Carlini et al., 2022, arXiv:2112.03570, Section III).

        Args:
            fpr: from 0 to 1; below 1 / others it is that of 0.
        """
        if not 0.0 <= fpr <= 1.0:
            raise SettingError(f"fpr is {fpr}: from 0 to 1 is needed")
        return float(self.tpr[np.searchsorted(self.fpr, fpr, side="right") - 1])

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Draw tpr over fpr, both logarithmic: what counts is whether anybody is recognised for certain, not how many on average.

        Args:
            path: where to write the picture; its ending says the format. None: nowhere.

        Returns:
            The figure, to go on with; it belongs to no window.

        Raises:
            SettingError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        try:
            from matplotlib.figure import Figure  # noqa: PLC0415  an extra
        except ImportError:
            raise SettingError("plot() needs matplotlib: pip install 'confide[plot]'") from None
        figure = Figure(figsize=(4.5, 4), layout="constrained")
        axes = figure.subplots()
        least = 0.5 / max(self.members, self.others)  # zero is not on a logarithmic axis
        axes.plot(
            np.maximum(self.fpr, least), np.maximum(self.tpr, least), drawstyle="steps-post", label=f"loss threshold, AUC {self.auc:.3f}"
        )
        axes.plot([least, 1.0], [least, 1.0], linestyle="--", color="0.6", label="guessing")
        axes.set(
            xscale="log", yscale="log", xlim=(least, 1.0), ylim=(least, 1.0), xlabel="false positive rate", ylabel="true positive rate"
        )
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure

    def __str__(self) -> str:
        return (
            f"{self.members} members, {self.others} others: AUC {self.auc:.3f}, advantage {self.advantage:.3f}, "
            f"TPR {self.tpr_at(0.001):.2%} at 0.1 % FPR and {self.tpr_at(0.01):.2%} at 1 % FPR"
        )

    __repr__ = __str__

    @classmethod
    def of_scores(cls, members: ArrayLike, others: ArrayLike) -> MembershipAttack:
        """From any scores: of a stronger attack, or of a model that is not Keras'.

        Args:
            members: (n,), higher for what seems to have been trained on.
            others: (k,).

        Raises:
            SettingError: there are none, not one axis, or a score is not a number.
        """
        ours, theirs = np.asarray(members, np.float64), np.asarray(others, np.float64)
        if ours.ndim != 1 or theirs.ndim != 1 or not len(ours) or not len(theirs) or np.isnan(ours).any() or np.isnan(theirs).any():
            raise SettingError(
                f"scores have shapes {ours.shape} and {theirs.shape}: one axis, at least one score each, and numbers are needed"
            )
        thresholds = np.unique(np.concatenate([ours, theirs]))[::-1]
        fpr, tpr = (np.concatenate([[0.0], _at_least(scores, thresholds)]) for scores in (theirs, ours))
        return cls(fpr, tpr, len(ours), len(theirs))


def membership(model: Any, *, members: tuple[Any, Any], others: tuple[Any, Any], batch_size: int = 256) -> MembershipAttack:
    """Attack a trained model by a threshold of the loss: an example is a member if loss(x, y) <= threshold.

    It says what one weak attack finds, not what is safe: differential privacy bounds every attack (`PrivacyEngine.attack_bound`).

    Args:
        model: a compiled `keras.Model`.
        members: (x, y) it was trained on, or a sample of them.
        others: (x, y) of the same distribution that it was not trained on.
        batch_size: examples that are computed at once.

    Raises:
        SettingError: the model is not compiled with a loss, there are no examples, or a loss is not a number.
        SamplingRefused: x and y are not arrays, or of different lengths.

    Example:
        >>> print(membership(model, members=(x, y), others=(x_test, y_test)))

    References:
        Yeom et al., 2018, arXiv:1709.01604, Adversary 2. Carlini et al., 2022, arXiv:2112.03570, on how to report it.
    """
    found = [loss_scores(model, *examples, batch_size=batch_size) for examples in (members, others)]
    return MembershipAttack.of_scores(*found)


def _at_least(scores: NDArray[np.float64], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fraction of the scores that are at least each threshold."""
    above = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
    return np.asarray(above / len(scores), np.float64)

"""The audit in one training run: guess which canaries were included, and bound epsilon from below by how often that is right.

1. Each of m canaries is included with probability 1/2 (`Canaries`), and the model is trained once.
2. Each canary gets a score (`scores.py`), without a look at which were included.
3. The k+ highest are guessed to be included, the k- lowest to be left out; no guess about the rest.
4. `epsilon_bound` of the correct guesses.

Steinke, Nasr, Jagielski, 2023, arXiv:2305.08846, Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from privacy.audit.bounds import epsilon_bound
from privacy.audit.canaries import Canaries
from privacy.audit.scores import loss_scores
from privacy.errors import SettingError

Guesses = tuple[int, int]
"""(k+, k-): so many of the highest scores are guessed to be included, so many of the lowest to be left out."""


@dataclass(frozen=True)
class OneRunAudit:
    """What an audit found.

    Attributes:
        epsilon: the lower bound; 0.0 if the guesses refute nothing.
        delta: for which it holds.
        confidence: with which it holds.
        canaries: m.
        guesses: r = k+ + k-.
        correct: v.
    """

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    def __str__(self) -> str:
        return (
            f"epsilon is at least {self.epsilon:.2f} (delta {self.delta:g}, confidence {self.confidence:.4g}): "
            f"{self.correct} of {self.guesses} guesses about {self.canaries} canaries were right"
        )


def one_run(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
    guesses: Guesses | Sequence[Guesses] | None = None,
) -> OneRunAudit:
    """Return a lower bound of the epsilon of a training run, from the scores of its canaries.

    Args:
        scores: (m,), higher for what the model seems to know; computed without `included`. Of equal ones the first counts as higher.
        included: (m,) bool, each true with probability 1/2.
        delta: from 0, below 1: that of the claim which is audited.
        confidence: the bound is wrong with probability at most 1 - confidence.
        guesses: (k+, k-), by default (m / 8, m / 8), rounded down, at least 1 together. The choice has to be made before the scores are
            seen: many guesses (up to (m / 2, m / 2)) can prove a large epsilon, few at the ends are more often right where there is
            noise. Of a list of n choices the best bound counts, each at confidence 1 - (1 - confidence) / n (Bonferroni).

    Raises:
        SettingError: shapes differ, a score is not a number, or a setting is out of its range.

    Example:
        >>> one_run(scores, canaries.included, delta=1e-5, guesses=(100, 0)).epsilon
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(included)
    if values.ndim != 1 or not len(values) or truth.shape != values.shape or truth.dtype != np.bool_:
        raise SettingError(f"scores have shape {values.shape}, included is {truth.dtype}{truth.shape}: (m,) and bool (m,) are needed")
    if np.isnan(values).any():
        raise SettingError(f"{np.isnan(values).sum()} of {len(values)} scores are not numbers: did the training diverge?")
    if not 0.0 < confidence < 1.0:
        raise SettingError(f"confidence is {confidence}: between 0 and 1 is needed")
    choices = _choices(guesses, len(values))
    each = 1.0 - (1.0 - confidence) / len(choices)
    found = []
    for k in choices:
        correct = _correct(values, truth, k)
        bound = epsilon_bound(len(values), sum(k), correct, delta=delta, confidence=each)
        found.append(OneRunAudit(bound, delta, confidence, len(values), sum(k), correct))
    return max(found, key=lambda one: one.epsilon)


def audit_training(
    train: Callable[[Any, Any], Any],
    x: Any,
    y: Any,
    *,
    canaries: Canaries,
    score: Callable[[Any, Any, Any], ArrayLike] = loss_scores,
    delta: float,
    confidence: float = 0.95,
    guesses: Guesses | Sequence[Guesses] | None = None,
) -> OneRunAudit:
    """Train once with the included canaries among the data, and audit what came out.

    Args:
        train: gets training data like (x, y), of which the number of examples differs from run to run, and returns the model. Whatever
            depends on that number (steps, sampling probability, noise) should be computed in it, as a private `fit` does.
        x: inputs (N, ...), or a nest of such arrays.
        y: targets, likewise.
        canaries: shaped as the examples, and not among them.
        score: gets what `train` returned and the canaries' x and y; gives (m,), higher for what the model seems to know.
        delta: as for `one_run`.
        confidence: as for `one_run`.
        guesses: as for `one_run`.

    Raises:
        SettingError: the canaries do not have the shapes of the examples, or as for `one_run`.

    Example:
        >>> result = audit_training(train, x, y, canaries=Canaries.mislabelled(x_spare, y_spare), delta=1e-5)
        >>> assert result.epsilon <= engine.epsilon(delta=1e-5), result
    """
    _choices(guesses, len(canaries))  # before the training, not after it
    model = train(*canaries.mix(x, y))
    return one_run(score(model, canaries.x, canaries.y), canaries.included, delta=delta, confidence=confidence, guesses=guesses)


def _choices(guesses: Guesses | Sequence[Guesses] | None, m: int) -> list[Guesses]:
    """As a list; each in its range."""
    given: Any = [(max(1, m // 8), m // 8)] if guesses is None else guesses
    choices = [given] if isinstance(given, tuple) and all(isinstance(one, int) for one in given) else list(given)
    for k in choices:
        if len(k) != 2 or min(k) < 0 or not 1 <= sum(k) <= m:
            raise SettingError(f"guesses are {k} of {m} canaries: (k+, k-), neither below 0, and 1 to {m} together, are needed")
    if not choices:
        raise SettingError("guesses are an empty list: at least one (k+, k-) is needed")
    return choices


def _correct(scores: NDArray[np.float64], included: NDArray[np.bool_], k: Guesses) -> int:
    """v, for the k+ highest and the k- lowest scores."""
    order = np.argsort(-scores, kind="stable")
    return int(included[order[: k[0]]].sum() + (~included[order[len(order) - k[1] :]]).sum())

"""From a number of correct guesses to a lower bound of epsilon. Knows no models and no canaries."""

from __future__ import annotations

import math

import numpy as np

from privacy.errors import SettingError


def p_value(canaries: int, guesses: int, correct: int, *, epsilon: float, delta: float) -> float:
    """How probable so many correct guesses are at most, if the training is (epsilon, delta)-private.

    With m canaries, each included with probability 1/2, r guesses, v of them correct, q = 1 / (1 + exp(-epsilon)), W ~ Binomial(r, q):

        P[correct >= v] <= P[W >= v] + 2 m delta max_{1 <= i <= v} P[v - i <= W < v] / i

    Neighbours are data sets with and without one example, as everywhere in `privacy`.

    Args:
        canaries: m.
        guesses: r, at most m.
        correct: v, at most r.
        epsilon: at least 0, may be infinite.
        delta: from 0, below 1.

    Returns:
        The bound, at most 1.

    Raises:
        SettingError: a number is out of its range.

    References:
        Steinke, Nasr, Jagielski, 2023, arXiv:2305.08846, Theorem 5.2 and Appendix D.
    """
    _check(canaries, guesses, correct, delta)
    if not epsilon >= 0.0:
        raise SettingError(f"epsilon is {epsilon}: at least 0 is needed")
    from scipy.stats import binom  # noqa: PLC0415  takes a second

    q = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, q))
    if delta == 0.0 or correct == 0:
        return tail
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, q))  # P[v - i <= W < v] for i = 1 .. v
    return min(1.0, tail + 2.0 * canaries * delta * float(np.max(below / np.arange(1, correct + 1))))


def epsilon_bound(canaries: int, guesses: int, correct: int, *, delta: float, confidence: float) -> float:
    """Return the largest epsilon that so many correct guesses refute: the true one is above it with this confidence.

    By bisection of `p_value` = 1 - confidence, from below: the value that is returned is itself refuted, or 0. A training that is
    (epsilon, delta)-private for one epsilon is so for all larger ones, so any refuted epsilon is a valid bound.

    Args:
        canaries: m, each included with probability 1/2.
        guesses: r, chosen before the results were seen.
        correct: v.
        delta: from 0, below 1.
        confidence: between 0 and 1: over the choice of the canaries and the training.

    Raises:
        SettingError: a number is out of its range.
    """
    _check(canaries, guesses, correct, delta)
    if not 0.0 < confidence < 1.0:
        raise SettingError(f"confidence is {confidence}: between 0 and 1 is needed")

    def refuted(epsilon: float) -> bool:
        return p_value(canaries, guesses, correct, epsilon=epsilon, delta=delta) < 1.0 - confidence

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2.0 * high
    while high - low > 1e-5:
        middle = (low + high) / 2.0
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _check(canaries: int, guesses: int, correct: int, delta: float) -> None:
    if not 0 <= correct <= guesses <= canaries:
        raise SettingError(
            f"{correct} correct of {guesses} guesses about {canaries} canaries: each needs at least as many as the one before"
        )
    if not 0.0 <= delta < 1.0:
        raise SettingError(f"delta is {delta}: at least 0 and below 1 is needed")

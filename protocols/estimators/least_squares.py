"""Least squares from sums of products, in the clear: centred exactly, of smallest norm where columns depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protocols.estimators.settings import Array
from protocols.mpc.parties.exchange import Ring
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Moments

ROUNDING = 2.0 ** (-2 * FRACTION) / 12
"""The variance of rounding a number to `FRACTION` fractional bits."""

CAUTION = 1024.0
"""How many times what rounding adds to a direction must be there, for it to count: coefficients are right to about one part in that."""


UNEXPLAINED = 9.0
"""What is left of targets that are not known, over what is explained of them."""


@dataclass(frozen=True)
class Normal:
    """The normal equations A u = K of what is stored.

    Attributes:
        products: A, (columns, columns).
        right: K, (columns, targets).
        total: the sum of weights.
        means: of columns and of targets; zeros without an intercept.
    """

    products: Array
    right: Array
    total: float
    means: tuple[Array, Array]


@dataclass(frozen=True)
class Solution:
    """What solves them.

    Attributes:
        coefficients: (targets, columns).
        rank: how many directions of the columns are told apart from rounding.
        counted: in how many directions coefficients are found, by the columns or by the penalty.
        inverse: of A and its penalty, in the directions that count, (columns, columns).
    """

    coefficients: Array
    rank: int
    counted: int
    inverse: Array


def normal(plan: Moments, sums: dict[str, Ring], examples: int) -> Normal:
    """Return the normal equations, centred if the sums of columns are there: exactly, since all sums are integers.

    S A - s s^T for the sum S of weights and the sums s of columns, in Python's integers, divided once.
    """
    signed = {name: found.view(np.int64).astype(object) for name, found in sums.items()}
    gram, cross = signed["gram"] * 2**plan.drop, signed["cross"] * 2**plan.drop
    total = signed["weight"].item() if plan.weighted else examples << FRACTION
    if "features" not in signed:
        scale = 1 << (2 * FRACTION)
        return Normal(_real(gram, scale), _real(cross, scale), total / 2**FRACTION, (np.zeros(plan.inputs), np.zeros(plan.outputs)))
    features = signed["features"].reshape(-1)
    targets = signed["targets"].reshape(-1) * (1 if plan.weighted else 2**FRACTION)  # now with 2 `FRACTION` fractional bits
    scale = total << (2 * FRACTION)
    means = _real(features, total), _real(targets, total << FRACTION)
    products = _real(gram * total - np.outer(features, features) * 2**FRACTION, scale)
    return Normal(products, _real(cross * total - np.outer(features, targets), scale), total / 2**FRACTION, means)


def _real(integers: Array, scale: int) -> Array:
    """Divide integers of any size by another one, each rounded once."""
    return np.array([integer / scale for integer in integers.reshape(-1)], np.float64).reshape(integers.shape)


def solve(equations: Normal, back: Array, alpha: float) -> Solution:
    """Return the coefficients of what is stored.

    With alpha > 0 those that minimise |residuals|^2 + alpha |coefficients of the user's columns|^2, but for directions in which both the
    columns and the penalty are below what rounding explains: there they are as with alpha = 0. With alpha = 0 those that minimise the
    residuals, and among them, as `numpy.linalg.lstsq` does it, those whose coefficients of the user's columns have the smallest norm; a
    direction of the columns counts if there is more of it than rounding to `FRACTION` bits explains.

    Args:
        equations: of what is stored.
        back: (columns, stored columns), coefficients of the user's columns from those of what is stored.
        alpha: at least 0.
    """
    diagonal = np.diag(equations.products)
    width = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    products, right = equations.products / np.outer(width, width), equations.right / width[:, None]
    back = back / width
    noise = equations.total * ROUNDING / width**2
    values, vectors = np.linalg.eigh(products)
    there = values > CAUTION * (noise @ vectors**2) + 1e-13 * len(values)
    rank = int(there.sum())
    penalty = alpha * (back.T @ back)
    there |= alpha * ((back @ vectors) ** 2).sum(0) > CAUTION * (np.sqrt(noise @ vectors**2) + 1e-15 * len(values))
    # Where all count, columns stay as they are stored: beside a large penalty on one of them, others would be lost in eigenvectors.
    kept, lost = np.eye(len(values)) if there.all() else vectors[:, there], vectors[:, ~there]
    inverse = kept @ _inverse(kept.T @ (products + penalty) @ kept) @ kept.T
    found = inverse @ right
    if lost.size:
        found = found - lost @ np.linalg.lstsq(back @ lost, back @ found, rcond=None)[0]
    return Solution((found / width[:, None]).T, rank, kept.shape[1], inverse / np.outer(width, width))


def _inverse(positive: Array) -> Array:
    """Return the inverse of a positive semidefinite matrix whose rows may be of very different size; of what rounding left singular 0."""
    size = np.sqrt(np.where(np.diag(positive) > 0, np.diag(positive), 1.0))
    inverse: Array = np.linalg.pinv(positive / np.outer(size, size), hermitian=True) / np.outer(size, size)
    return inverse


def deviations(equations: Normal, solution: Solution, back: Array, *, step: Array, squares: Array) -> Array:
    """Return how far rounding may move the coefficients of the user's columns: one standard deviation and the bias, (targets, columns).

    What is stored is X + E and y + e for independent errors of variance `ROUNDING`, and with M the inverse of A and its penalty

        u' - u = M (E^T (y - X u) - X^T E u + X^T e - E^T E u)

    to first order in E and e, and E^T E is about n times `ROUNDING`.

    Args:
        equations: of what is stored.
        solution: of them.
        back: as for `solve`.
        step: (targets,) the variance of the error of a target.
        squares: (targets,) the sum of squares of the targets around their means, or NaN where they are not known: then the targets are
            taken to be explained to a tenth.
    """
    u, inverse = solution.coefficients.T, solution.inverse
    explained = np.einsum("it,ij,jt->t", u, equations.products, u)
    residual = np.where(np.isnan(squares), UNEXPLAINED * explained, np.maximum(squares - 2 * (u * equations.right).sum(0) + explained, 0.0))
    outer = back @ inverse
    from_features = (outer**2).sum(1)[:, None] * (ROUNDING * residual)
    from_targets = np.einsum("ci,ij,cj->c", outer, equations.products, outer)[:, None] * (step + ROUNDING * (u**2).sum(0))
    bias = equations.total * ROUNDING * (outer @ u)
    found: Array = np.sqrt(from_features + np.maximum(from_targets, 0.0)) + np.abs(bias)
    return found.T

"""Poisson and gamma regression: generalised linear models with a logarithmic link, by Newton's method."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import Diverged, InputError, PrecisionWarning
from protocols.estimators import arrays
from protocols.estimators import data as forms
from protocols.estimators.data import Scaling
from protocols.estimators.least_squares import CAUTION, ROUNDING
from protocols.estimators.run import Run
from protocols.estimators.settings import AffineEstimator, Array, Data, Regressor, convergence_warning, explained
from protocols.mpc.numbers.fixed_point import encode
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import LogLinear, Moments
from protocols.training.regression.loglinear import FAR, KERNEL
from protocols.training.regression.moments import BATCH, LARGEST_BITS, Asked

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

REACH, TOP = 3, 8
"""Features that are here are stored within +-2^REACH, targets below 2^TOP."""

NARROW = 2.0**-6
"""The smallest spread of a column as it is stored by which its gradient is measured: less is rounding."""

CUT, UNSURE = 1e-9, 8.0
"""A direction counts if its curvature is above `CUT` of the largest, and above `UNSURE` times what rounding products adds."""

SHIFT, SHIFTS = 1.0, 64
"""By how much, and how often, the largest score of features of others is looked for."""

HALVINGS = 20
"""How often a step is halved that makes the loss larger."""


class _LogLinear(Regressor, AffineEstimator):
    """What both models share."""

    _gamma: bool
    n_iter_: int

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        max_iter: int = 100,
        tol: float = 1e-4,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.alpha, self.fit_intercept, self.max_iter, self.tol = cluster, alpha, fit_intercept, max_iter, tol

    def _check(self) -> None:
        if not forms.is_number(self.alpha) or not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha!r}; a number of at least 0 is needed")
        self._check_intercept()
        if not forms.is_number(self.tol) or not 1e-6 <= self.tol <= 1:
            raise InputError(f"tol={self.tol!r}; from 1e-06, below which gradients are not known on shares, to 1 is needed")
        if not isinstance(self.max_iter, int | np.integer) or isinstance(self.max_iter, bool) or self.max_iter < 1:
            raise InputError(f"max_iter={self.max_iter!r}; a whole number of at least 1 is needed")

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = forms.as_many(x, y, sample_weight)
        async with Run(cluster, type(self).__name__) as run:
            newton = _Newton(run, examples, self)
            await newton.store(x, y, sample_weight)
            await newton.begin()
            theta, made, converged = await newton.converge()
        scale = newton.scale
        self.coef_ = theta[:-1] * scale.factor
        self.intercept_ = float(theta[-1] - self.coef_ @ scale.center - math.log(newton.factor)) if self.fit_intercept else 0.0
        self.n_features_in_, self.n_iter_ = len(self.coef_), made
        if newton.directions < newton.exact:
            warnings.warn(
                f"features, and the intercept, vary in {newton.exact} directions, of which fixed point tells {newton.directions} apart:"
                " coefficients may not be those that are expected; leave out features that nearly follow from others, have owners of data"
                " scale them to about 1 before they are stored, or use a larger alpha",
                PrecisionWarning,
                stacklevel=2,
            )
        if not converged:
            warnings.warn(
                f"{type(self).__name__} has not converged in {made} iterations: an element of the gradient is above tol={self.tol:g}; raise"
                " max_iter, or use a larger alpha",
                convergence_warning(),
                stacklevel=2,
            )
        return self

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the mean of the target of each row, (n,)."""
        found: Array = np.exp(self._affine(x)[:, 0])
        return found

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return D^2, the part of the deviance that is explained, as in scikit-learn."""
        found = self.predict(x)
        true, weights = arrays.true_numbers(y, found), arrays.weights_of_rows(sample_weight, len(found))
        self._possible(true[weights > 0])
        mean = np.full(len(true), np.average(true, weights=weights))
        some = weights > 0
        unexplained, total = (float(weights[some] @ self._deviance(true[some], one[some])) for one in (found, mean))
        return explained(unexplained, total)

    def _possible(self, targets: Array) -> None:
        """Refuse targets that have no deviance.

        Raises:
            InputError: there are some.
        """
        if (targets < 0).any() or (self._gamma and (targets == 0).any()) or not targets.any():
            bad = "below 0, or 0" if self._gamma else "below 0, or 0 only"
            raise InputError(f"y has values {bad}: {type(self).__name__} cannot have them")

    def _deviance(self, y: Array, mean: Array) -> Array:
        if self._gamma:
            return 2 * (np.log(mean / y) + y / mean - 1)
        return 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / mean), 0.0) - y + mean)


class PoissonRegressor(_LogLinear):
    """Poisson regression: the logarithm of the mean of a target of at least 0 is x coef_ + intercept_.

    It minimises what scikit-learn minimises, half the mean deviance and alpha / 2 |coef_|^2, by Newton's method, from scores 0. In each
    step the servers compute means and the products of features that they weigh on shares; gradient and Hessian are opened to this process,
    and weights that are tried go back as shares. It has converged when no element of the gradient is above `tol` times the mean of the
    targets (above `tol`, of `GammaRegressor`), by columns that spread over 1, else a `ConvergenceWarning` says so.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        alpha: strength of the penalty, at least 0.
        fit_intercept: whether there is an intercept.
        max_iter: steps.
        tol: from 10^-6 to 1.

    Attributes:
        coef_: (columns,).
        intercept_: a number.
        n_iter_: steps that were made.
        n_features_in_: columns of x.

    **Leaks** to this process, where data were shared by others: in each step, for weights that it knows, the sums of products of all
    columns weighted by the means of the examples (for `GammaRegressor` by targets over means); once, the sums of columns times targets.
    With about as few examples as columns, single records follow. To the workers: shapes, and how many steps are made.

    Example:
        >>> model = await PoissonRegressor(cluster, alpha=1e-3).fit(x, counts)
    """

    _gamma = False


class GammaRegressor(_LogLinear):
    """Gamma regression: the same for targets above 0 whose spread grows with their mean. See `PoissonRegressor`, which **leaks** alike."""

    _gamma = True


def newton_step(hessian: Array, gradient: Array, noise: Array) -> tuple[Array, int]:
    """Return H^-1 g in the directions that count, and how many these are, for parameters of any scale.

    Args:
        hessian: (parameters, parameters), positive semidefinite.
        gradient: (parameters,).
        noise: what rounding may have added to the diagonal of the Hessian.
    """
    diagonal = np.diag(hessian)
    width = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(hessian / np.outer(width, width))
    kept = values > CUT * values[-1] + (noise / width**2) @ vectors**2
    found = vectors[:, kept]
    step: Array = found @ ((found.T @ (gradient / width)) / values[kept]) / width
    return step, int(kept.sum())


def _spreads(gram: Array) -> Array:
    """Return by what the gradient of each parameter is measured: how far its column spreads as it is stored, at most 1."""
    spreads: Array = np.sqrt(np.clip(np.diag(gram) / max(gram[-1, -1], 1e-300), NARROW**2, 1.0))
    return spreads


class _Newton:
    """A fit on data as they are stored.

    Attributes:
        scale: how features are stored.
        factor: what targets are multiplied by.
        directions: in how many directions the last step was taken.
    """

    def __init__(self, run: Run, examples: int, model: _LogLinear) -> None:
        self._run, self._examples, self._model = run, examples, model
        self._here: Array | None = None
        self.factor, self.directions, self._checked = 1.0, 0, False

    async def store(self, x: Data, y: Data, weights: Data | None) -> None:
        """Check everything that is here, then store it."""
        gamma, stored = self._model._gamma, []
        own = None if weights is None or isinstance(weights, SharedDataset) else arrays.own_weights(weights)
        counts = np.ones(self._examples, bool) if own is None else own > 0
        rows = None if isinstance(x, SharedDataset) else arrays.table("x", x)
        for one in (x, y):
            if isinstance(one, SharedDataset) and one.content != "numbers":
                raise InputError(f"{one.name!r} was stored as labels because it is made of integers: store floats")
        targets = None
        if not isinstance(y, SharedDataset):
            targets = arrays.target(y)
            targets = np.where(counts[:, None], targets, 0.0)
            self._model._possible(targets[counts])
            self.factor = 2.0**TOP / float(targets.max()) * (1 - 2.0**-20)
            least = float(targets[counts].min())
            if gamma and least * self.factor < 2.0 ** (TOP - FRACTION):
                span = f"{least:g} to {targets.max():g}"
                raise InputError(f"y is from {span}: for gamma regression on shares at most a factor of 65,536")
        elif y.shape[1] != 1:
            raise InputError(f"{y.name!r} has {y.shape[1]} targets an example: one is needed")
        if isinstance(weights, SharedDataset):
            forms.shared_weights(weights)
            self._checked = True
        if rows is None:
            assert isinstance(x, SharedDataset)
            self.scale, self._reach = Scaling.none(x.shape[1]), LARGEST_BITS
            stored.append(x)
        else:
            self._reach = REACH
            self.scale, self._here = self._scaled(rows, counts)
            stored.append(await self._run.store("features", self._here))
        if targets is None:
            assert isinstance(y, SharedDataset)
            stored.append(y)
        else:
            stored.append(await self._run.store("targets", targets * self.factor))
        if isinstance(weights, SharedDataset):
            stored.append(weights)
        elif own is not None:
            stored.append(await self._run.store("weights", forms.storable(own)))
        self._arrays = tuple(stored)
        self._top = TOP if targets is not None else LARGEST_BITS

    def _scaled(self, rows: Array, counts: Array) -> tuple[Scaling, Array]:
        """Return how features that are here are stored, and what is: 0 where the weight of an example is, and in constant columns."""
        some = rows[counts]
        center = some.mean(0) if self._model.fit_intercept else np.zeros(rows.shape[1])
        far = np.abs(some - center).max(0)
        far[far <= 1e-12 * np.abs(some).max(0)] = 0.0  # a constant column, but for how its mean is rounded
        scale = Scaling(center, np.where(far > 0, 2.0**REACH / np.where(far > 0, far, 1.0) * (1 - 2.0**-20), 1.0))
        stored = np.zeros(rows.shape)
        stored[counts] = np.where(far > 0, scale.stored(some), 0.0)
        return scale, stored

    async def begin(self) -> None:
        """Find the sums that no step changes, and where to begin."""
        asks: list[Asked] = ["cross", "features", "targets"]
        columns, weighted = self._arrays[0].shape[1], len(self._arrays) > 2
        if weighted:
            asks.append("weight")
        bits = self._examples.bit_length() + self._reach + self._top + 2 * FRACTION
        moments = Moments(columns, 1, tuple(asks), max(0, bits - 63), weighted, self._checked)
        sums = await self._run.moments(moments, self._arrays, min(self._examples, BATCH))
        real = {name: found.view(np.int64) / 2.0 ** moments.bits(name) for name, found in sums.items()}  # type: ignore[arg-type]
        self._total = float(real["weight"][0]) if weighted else float(self._examples)
        mean = float(real["targets"].reshape(-1)[0]) / self._total if self._total > 0 else 0.0
        if mean <= 0:
            raise InputError("the weights, or the targets, of all examples are 0 or below: there is nothing to fit")
        y = np.append(real["cross"].reshape(-1), real["targets"].reshape(-1))
        self._linear = np.append(real["features"].reshape(-1), self._total) if self._model._gamma else -y
        self._mean = mean / self.factor
        self._start = math.log(mean) if self._model.fit_intercept else 0.0
        self._plan = LogLinear(columns, self._examples, self._model._gamma, self._reach, self._top, weighted)
        if self._plan.digits < 6:
            raise InputError(f"{self._examples:,} examples of others are too many for fixed point: give features here, or fewer")
        self._shift = (-1 if self._model._gamma else 1) * self._start + SHIFT

    async def _sums(self, theta: Array) -> Array:
        """Return the sum of v (x, 1)^T (x, 1) for some weights."""
        sign, columns = -1 if self._model._gamma else 1, self._plan.inputs
        if np.abs(theta[:-1]).sum() * 2.0**self._reach + abs(theta[-1]) + abs(self._shift) > 2.0 ** (FAR - 1):
            raise Diverged(1)
        scores = None if self._here is None else sign * (self._here @ theta[:-1] + theta[-1])
        for _ in range(SHIFTS):
            if scores is not None:
                self._shift = float(scores.max()) + 0.01
            placed = {
                "kernel": encode(sign * theta[:-1].reshape(-1, 1), 2.0**-KERNEL),
                "bias": encode([[sign * theta[-1] - self._shift]], 2.0**-KERNEL),
            }
            found = await self._run.opened(self._plan, self._arrays, placed, ("above", "gram"), min(self._examples, 4096))
            if not found["above"].any():
                gram = found["gram"].view(np.int64).reshape(columns + 1, columns + 1) / 2.0 ** (FRACTION + self._plan.digits)
                return (gram + gram.T) / 2 * math.exp(self._shift)
            self._shift += SHIFT
        raise Diverged(1)

    def _noise(self, gram: Array) -> Array:
        """Return what rounding may add to each diagonal element of `gram`: of products, and of features to `FRACTION` bits."""
        products = math.sqrt(self._examples * len(gram)) * 2.0**-self._plan.digits * math.exp(self._shift)
        return np.append(np.full(len(gram) - 1, max(gram[-1, -1], 0.0) * ROUNDING * CAUTION), 0.0) + UNSURE * products

    @property
    def exact(self) -> int:
        """In how many directions features vary, and the intercept, as numpy tells them apart; all of them where they are not here."""
        if self._here is None:
            return self._plan.inputs + bool(self._model.fit_intercept)
        return int(np.linalg.matrix_rank(self._here)) + bool(self._model.fit_intercept)  # they are centred

    async def converge(self) -> tuple[Array, int, bool]:
        """Step until the gradient is small."""
        model, columns = self._model, self._plan.inputs
        # In units of the user's targets the sums of a Poisson regression are 1 / factor times as large.
        unit = 1.0 if model._gamma else 1 / self.factor
        penalty = np.append(model.alpha * self.scale.factor**2, 0.0)
        limit = model.tol if model._gamma else model.tol * self._mean
        some = np.arange(columns + bool(model.fit_intercept))
        # Without an intercept, targets of another scale are those of another model: the offset stays in the scores.
        theta = np.append(np.zeros(columns), self._start if model.fit_intercept else math.log(self.factor))

        def loss(theta: Array, gram: Array) -> float:
            return float(unit * (gram[-1, -1] + self._linear @ theta) / self._total + penalty @ theta**2 / 2)

        gram, made = await self._sums(theta), 0
        while True:
            slope = gram[:, -1] * (-1 if model._gamma else 1) + self._linear
            gradient = (unit * slope / self._total + penalty * theta)[some]
            hessian = (unit * gram / self._total + np.diag(penalty))[np.ix_(some, some)]
            step, self.directions = newton_step(hessian, gradient, (unit * self._noise(gram) / self._total)[some])
            small = bool((np.abs(gradient) <= limit * _spreads(gram)[some]).all())
            if small or made == model.max_iter:
                return theta, made, small
            before = loss(theta, gram)
            for halving in range(HALVINGS):
                tried = theta.copy()
                tried[some] -= step / 2**halving
                new = await self._sums(tried)
                if loss(tried, new) <= before + 1e-6 * max(1.0, abs(before)):
                    break
            theta, gram, made = tried, new, made + 1

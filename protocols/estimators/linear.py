"""Linear and ridge regression by the normal equations: sums of products on shares, exact, and a small system solved here."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError, PrecisionWarning
from protocols.estimators import arrays
from protocols.estimators import data as forms
from protocols.estimators.data import Basis, Scaling, based
from protocols.estimators.least_squares import ROUNDING, Normal, Solution, deviations, normal, solve
from protocols.estimators.run import Run
from protocols.estimators.settings import AffineEstimator, Array, Data, Regressor
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Moments
from protocols.training.regression.moments import BATCH, LARGEST_BITS, Asked

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

CERTAIN = 2e-3
"""What rounding may move a coefficient by, over the largest, as a standard deviation: five of them are 1 %."""

CONDITION = 1e6
"""Of features: beyond, libraries differ in which directions they take for rounding."""

STEPS_LEFT = 256
"""A column that is stored by somebody else should spread over so many units of the last place."""

SMALL_BATCH = 65_536
"""Examples of a step where sums cannot wrap around."""


class _Linear(Regressor, AffineEstimator):
    """What both linear models share.

    Attributes:
        rank_: how many directions of the features are told apart from rounding to 2^-16.
    """

    fit_intercept: bool
    alpha: float
    rank_: int

    def _check(self) -> None:
        self._check_intercept()
        if not forms.is_number(self.alpha) or not 0 <= self.alpha < math.inf:
            raise InputError(f"alpha={self.alpha!r}; a number of at least 0 is needed, the same for all targets")

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = forms.as_many(x, y, sample_weight)
        single = (y.shape[1] == 1) if isinstance(y, SharedDataset) else np.ndim(y) == 1
        async with Run(cluster, type(self).__name__) as run:
            prepared = _Prepared(run, examples, centred=self.fit_intercept)
            arrays = await prepared.stored(x, y, sample_weight)
            plan = self._plan(prepared, arrays)
            sums = await run.moments(plan, arrays, prepared.batch)
        equations = normal(plan, sums, examples)
        if equations.total <= 0:
            raise InputError("all weights of examples are 0: there is nothing to fit")
        found = solve(equations, prepared.x.back, float(self.alpha) * prepared.largest_weight)
        self._keep(found, equations.means, prepared, single=single)
        self._tell(found, prepared, equations)
        return self

    def _plan(self, prepared: _Prepared, arrays: tuple[SharedDataset, ...]) -> Moments:
        asks: list[Asked] = ["gram", "cross"]
        weighted = len(arrays) > 2
        if self.fit_intercept and not prepared.complete:
            asks += ["features", "targets"]
        if weighted:
            asks.append("weight")
        return Moments(arrays[0].shape[1], arrays[1].shape[1], tuple(asks), prepared.drop, weighted, prepared.checked)

    def _keep(self, found: Solution, means: tuple[Array, Array], prepared: _Prepared, *, single: bool) -> None:
        x, y = prepared.x, prepared.y
        coef = found.coefficients @ x.back.T / y.factor[:, None]
        offset = (means[1] - found.coefficients @ means[0]) / y.factor
        intercept = y.center + offset - coef @ x.center if self.fit_intercept else np.zeros(len(coef))
        self.coef_ = coef[0] if single else coef
        self.intercept_ = (float(intercept[0]) if single else intercept) if self.fit_intercept else 0.0
        self.n_features_in_, self.rank_ = coef.shape[1], found.rank

    def _tell(self, found: Solution, prepared: _Prepared, equations: Normal) -> None:
        """Warn of what fixed point could not tell apart, and of what it may have moved."""
        columns, said = equations.products.shape[0], []
        variances = np.diag(equations.products) / equations.total
        exact = columns if prepared.x.rank is None else prepared.x.rank
        if prepared.x.rank is None:
            coarse = [int(column) for column in np.nonzero((variances > 0) & (variances < (STEPS_LEFT * 2.0**-FRACTION) ** 2))[0]]
            if coarse:
                said.append(f"columns {coarse} were stored with less than {STEPS_LEFT} steps of 2^-{FRACTION} in their spread")
        if found.counted < exact:
            said.append(f"{columns} features vary in {exact} directions, of which fixed point tells {found.rank} apart")
        moved = deviations(equations, found, prepared.x.back, step=prepared.target_errors, squares=prepared.squares)
        largest = np.abs(found.coefficients @ prepared.x.back.T).max(1)
        part = float((moved.max(1) / np.where(largest > 0, largest, np.inf)).max())
        if not said and part > CERTAIN:
            said.append(
                f"features nearly follow from each other, and rounding to 2^-{FRACTION} may have moved coefficients by {part:.1%} of the"
                " largest (one standard deviation)"
            )
        if not said and self.alpha == 0 and prepared.x.condition > CONDITION:
            said.append(
                f"features nearly follow from each other (their condition number is {prepared.x.condition:.0e}), coefficients are those of"
                " least squares and change with the last digits of the data, and scikit-learn leaves out directions beyond 10^6"
            )
        if said:
            warnings.warn(
                f"{' and '.join(said)}: coefficients may not be those that are expected; have owners of data scale them to about 1 before"
                " they are stored, leave out features that nearly follow from others, or use Ridge",
                PrecisionWarning,
                stacklevel=2,
            )

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the targets of each row, (n,) or (n, targets)."""
        targets = self._affine(x)
        return targets[:, 0] if self.coef_.ndim == 1 else targets


class _Prepared:
    """Data of a fit as they are stored: what is here is centred and scaled before, so that fixed point is fine enough and nothing wraps.

    Attributes:
        x: how the features are stored.
        y: how the targets are.
        target_errors: the variance of the error of each target as it is stored.
        squares: the sum of squares of each target as it is stored, around its mean; NaN where it is not here.
        complete: whether all data are here: then they are centred, and weights are in their rows already.
        largest_weight: what a weight of 1 of the user is stored as.
        checked: whether weights must be checked on shares.
        batch: examples of a step.
        drop: bits that sums lose.
    """

    def __init__(self, run: Run, examples: int, *, centred: bool) -> None:
        self._run, self._examples, self._centred = run, examples, centred
        self.complete = False
        self.largest_weight, self.checked = 1.0, False
        # Numbers below 2^bits have sums of `examples` products below 2^62; where those of somebody else may be larger sums are rounded.
        self._bits = min(LARGEST_BITS - 1, (62 - 2 * FRACTION - examples.bit_length()) // 2)
        self.batch, self.drop = min(examples, SMALL_BATCH), 0

    async def stored(self, x: Data, y: Data, weights: Data | None) -> tuple[SharedDataset, ...]:
        """Check everything that is here, then store it."""
        self.complete = not any(isinstance(one, SharedDataset) for one in (x, y, weights))
        own = None if weights is None or isinstance(weights, SharedDataset) else arrays.own_weights(weights)
        if own is not None:
            self.largest_weight = 1 / own.max()
        rows_weights = own if self.complete else None  # weights go into rows, which costs nothing
        features: SharedDataset | Array
        targets: SharedDataset | Array
        if isinstance(x, SharedDataset):
            self.x, features = Basis.none(self._numbers(x).shape[1]), x
        else:
            rows = arrays.table("x", x)
            scale, columns, moved = self._columns(rows, rows_weights, own)
            self.x, features = based(moved, scale, columns, self._bits)
        if isinstance(y, SharedDataset):
            self.y, targets = Scaling.none(self._numbers(y).shape[1]), y
            self.squares = np.full(y.shape[1], np.nan)
        else:
            self.y, targets, _ = self._columns(arrays.table("y", self._targets(y)), rows_weights, own)
            self.squares = ((targets - targets.mean(0) * self._centred) ** 2).sum(0)
        self.target_errors = np.full(len(self.squares), ROUNDING)
        column = None if own is None or self.complete else forms.storable(own)
        if isinstance(weights, SharedDataset):
            forms.shared_weights(weights)
            self.checked = True
        if isinstance(x, SharedDataset) or isinstance(y, SharedDataset):
            self._round()
        shared = [
            one if isinstance(one, SharedDataset) else await self._run.store(name, one)
            for name, one in (("features", features), ("targets", targets))
        ]
        if isinstance(weights, SharedDataset):
            shared.append(weights)
        elif column is not None:
            shared.append(await self._run.store("weights", column))
        return tuple(shared)

    def _targets(self, y: npt.ArrayLike) -> Array:
        found = arrays.numbers("y", y)
        if found.ndim not in (1, 2):
            raise InputError(f"y has shape {found.shape}: one or several targets an example are needed")
        return found.reshape(len(found), -1)

    def _numbers(self, data: SharedDataset) -> SharedDataset:
        if data.content != "numbers":
            raise InputError(f"{data.name!r} was stored as labels because it is made of integers: store floats")
        return data

    def _columns(self, rows: Array, weights: Array | None, own: Array | None) -> tuple[Scaling, Array, Array]:
        """Return how columns are stored, and what is, scaled and not: rows times roots of `weights`, zeros where a weight of `own` is 0."""
        counts = np.ones(len(rows), bool) if own is None else own > 0
        if not counts.any():  # the sums will tell
            return Scaling.none(rows.shape[1]), np.zeros_like(rows), np.zeros_like(rows)
        some, root = rows[counts], np.ones((len(rows), 1)) if weights is None else np.sqrt(weights * self.largest_weight).reshape(-1, 1)
        center = np.average(some, 0, None if weights is None else weights[counts]) if self._centred else np.zeros(rows.shape[1])
        reach = (np.abs(some - center) * root[counts]).max(0)
        reach[reach <= 1e-12 * (np.abs(some) * root[counts]).max(0)] = 0.0  # a constant column, but for how its mean is rounded
        scale = Scaling(center, np.where(reach > 0, 2.0**self._bits / np.where(reach > 0, reach, 1.0), 1.0))
        moved = np.zeros(rows.shape)
        moved[counts] = np.where(reach > 0, some - center, 0.0) * root[counts]
        return scale, moved * scale.factor, moved

    def _round(self) -> None:
        """Round numbers of somebody else, which may be up to 2^LARGEST_BITS."""
        bits = self._examples.bit_length() + 2 * LARGEST_BITS + 2 * FRACTION
        if bits > 63:
            self.batch, self.drop = min(self._examples, BATCH), bits - 63


class LinearRegression(_Linear):
    """Least squares: targets are x coef_^T + intercept_. With `alpha` above 0 it is ridge regression, see `Ridge`.

    The servers multiply X^T X and X^T y on shares: integers, exact, in one pass and without a round of their own. Both are opened to this
    process, which solves A u = K in float64, by eigenvalues; where features depend on each other the coefficients of smallest norm, as
    scikit-learn has them. An array that is given here is centred, and each of its columns is scaled so that it uses up to 24 bits, before
    it is stored; if its columns nearly follow from each other its left singular vectors are stored instead, so that the condition number
    does not count. Arrays that are stored already have 2^-16 as their last digit: how far that may have moved coefficients is estimated
    from the same sums, and a `PrecisionWarning` says so if it may be 1 % of the largest.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        fit_intercept: whether there is an intercept.
        alpha: alpha |coef_|^2 is added to the (weighted) sum of squares, as in scikit-learn's `Ridge`.

    Attributes:
        coef_: the coefficients, (columns,), or (targets, columns) for a table of targets.
        intercept_: a number, or (targets,).
        n_features_in_: columns of x.
        rank_: how many directions of the features are told apart from rounding.

    **Leaks** to this process, where x or y were shared by others: X^T X, X^T y, the sums of the columns of x and y (with an intercept), and
    of the weights. From that follow the coefficients, and besides means, variances and correlations of all columns; with about as few
    examples as columns, or with weights that single examples out, single records. To the workers: shapes, and which sums were asked for.

    Example:
        >>> model = await LinearRegression(cluster).fit(x, y)
        >>> model.coef_, model.score(x, y)
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        fit_intercept: bool = True,
        alpha: float = 0.0,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.fit_intercept, self.alpha = cluster, fit_intercept, alpha


class Ridge(_Linear):
    """Ridge regression (Hoerl and Kennard, 1970): least squares and alpha |coef_|^2, intercepts not counted, as in scikit-learn.

    It is solved as `LinearRegression` is, with the same accuracy, and **leaks** the same. See there for what is fitted.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        alpha: above or equal to 0, the same for all targets.
        fit_intercept: whether there is an intercept.
    """

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.alpha, self.fit_intercept = cluster, alpha, fit_intercept

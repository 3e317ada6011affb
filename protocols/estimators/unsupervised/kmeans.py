"""K-means: Lloyd's algorithm on shares, steered by its owner."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError
from protocols.estimators.arrays import table
from protocols.estimators.data import is_number
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data, Estimator, convergence_warning
from protocols.estimators.unsupervised.features import Features
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.parties.keystream import KEY_BYTES, KeyStream, fresh_key
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Clusters, Moments
from protocols.training.regression.clusters import COLUMNS, MANY
from protocols.training.regression.moments import LARGEST_BITS

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

REACH = 64.0
"""Features that are here are stored within +-REACH."""

TOGETHER = 1 << 18
"""Comparisons of a step, about."""


class KMeans(Estimator):
    """K-means clustering by Lloyd's algorithm: centres that are the means of the examples nearest to them.

    In each iteration the servers find the nearest centre of every example on shares, and sums over the examples of each centre, which are
    opened to this process; it divides them and shares the new centres. A centre without examples stays where it is.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        n_clusters: centres, at least 2.
        init: "random", or an array (n_clusters, columns) to begin with. At random, centres are drawn around the mean of the features with
            the spread of each column. No example is looked at, so that there is no k-means++.
        n_init: how often it is begun anew, if at random; the fit whose centres explain most of the spread is kept.
        max_iter: iterations.
        tol: converged when centres move by less, squared and summed, than `tol` times the mean variance of the columns, as in scikit-learn.
        random_state: of the random centres; None: fresh ones.

    Attributes:
        cluster_centers_: (n_clusters, columns).
        counts_: how many examples each centre has, in the last iteration.
        inertia_: the sum of squared distances of the examples to the centres of the last iteration.
        n_iter_: iterations that were made.
        n_features_in_: columns of x.

    There is no `labels_`: where an example is stays with the servers, on shares. `predict` works on rows that are here.

    **Leaks** to this process, where x was shared by others: in each iteration how many examples each centre has, and their sum, which of a
    centre with one example is that example; and the means and variances of all columns. To the workers: shapes, and how many iterations
    are made.

    Example:
        >>> model = await KMeans(cluster, n_clusters=3, random_state=0).fit(x)
        >>> model.predict(new_rows)
    """

    _estimator_type = "clusterer"
    cluster_centers_: Array
    counts_: Array
    inertia_: float
    n_iter_: int

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        n_clusters: int = 8,
        init: str | npt.ArrayLike = "random",
        n_init: int = 4,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | None = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.n_clusters, self.init, self.n_init = cluster, n_clusters, init, n_init
        self.max_iter, self.tol, self.random_state = max_iter, tol, random_state

    def fit(self, x: Data, y: Any = None, sample_weight: Any = None) -> Awaitable[Self]:
        """Fit on shares, see `Estimator.fit`. There are no targets and no weights."""
        if y is not None or sample_weight is not None:
            raise InputError("y or sample_weight was given: clusters on shares have no targets and no weights")
        return super().fit(x, x)

    def _check(self) -> None:
        for name, value, least, most in (
            ("n_clusters", self.n_clusters, 2, 64),
            ("n_init", self.n_init, 1, 1000),
            ("max_iter", self.max_iter, 1, 100_000),
        ):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or not least <= value <= most:
                raise InputError(f"{name}={value!r}; a whole number from {least} to {most:,} is needed")
        if not is_number(self.tol) or not 0 <= self.tol < math.inf:
            raise InputError(f"tol={self.tol!r}; a number of at least 0 is needed")
        if isinstance(self.init, str) and self.init != "random":
            raise InputError(f"init={self.init!r}; on shares there is 'random', or give an array of centres")
        if self.random_state is not None and (not isinstance(self.random_state, int | np.integer) or isinstance(self.random_state, bool)):
            raise InputError(f"random_state={self.random_state!r}; a whole number, or None for fresh randomness, is needed")

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        given = None if isinstance(self.init, str) else table("init", self.init)
        async with Run(cluster, type(self).__name__) as run:
            features = await Features.stored(run, x, reach=REACH, alike=True)
            count, columns = features.array.shape
            if columns > COLUMNS or count > MANY:
                raise InputError(
                    f"x has {count:,} examples of {columns} columns: at most {MANY:,} examples of {COLUMNS} columns are possible"
                )
            if self.n_clusters > count:
                raise InputError(
                    f"n_clusters={self.n_clusters}, and there are {count} examples: no more centres than examples are possible"
                )
            if given is not None:
                if given.shape != (self.n_clusters, columns):
                    raise InputError(f"init has shape {given.shape}; ({self.n_clusters}, {columns}) is needed")
                if (np.abs(features.scale.stored(given)) >= 2.0**LARGEST_BITS).any():
                    raise InputError(
                        "init has a centre that is further from the features than"
                        f" {'8 times their reach' if features.here is not None else 2**LARGEST_BITS}: begin with centres among them"
                    )
            lloyd = _Lloyd(run, features, int(self.n_clusters), float(self.tol), int(self.max_iter))
            await lloyd.measure()
            starts = [features.scale.stored(given)] if given is not None else list(self._starts(lloyd, columns))
            fits = [await lloyd.converge(start) for start in starts]
        best = min(fits, key=lambda fit: fit.inertia)
        scale = features.scale
        self.cluster_centers_, self.counts_ = best.centers / scale.factor + scale.center, best.counts
        self.inertia_ = float(best.inertia / scale.factor[0] ** 2)
        self.n_iter_, self.n_features_in_ = best.made, columns
        if not best.converged:
            warnings.warn(
                f"KMeans has not converged in {best.made} iterations: centres still move; raise max_iter or tol",
                convergence_warning(),
                stacklevel=2,
            )
        return self

    def _starts(self, lloyd: _Lloyd, columns: int) -> list[Array]:
        """Draw centres around the mean, uniformly within two deviations of each column."""
        seed = self.random_state
        key = fresh_key() if seed is None else hashlib.sha256(f"centres {int(seed)}".encode()).digest()[:KEY_BYTES]
        words = KeyStream(key).words((int(self.n_init), int(self.n_clusters), columns))
        return list(lloyd.mean + (words / 2.0**63 - 1) * 2 * np.sqrt(lloyd.variance))

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the nearest centre of each row, (n,)."""
        found: Array = self.transform(x).argmin(1)
        return found

    def transform(self, x: npt.ArrayLike) -> Array:
        """Return the distance of each row to each centre, (n, n_clusters)."""
        rows = self._rows(x)
        found: Array = np.sqrt(((rows[:, None] - self.cluster_centers_) ** 2).sum(2))
        return found


class _Found:
    """Of one start."""

    def __init__(self, centers: Array, counts: Array, inertia: float, made: int, *, converged: bool) -> None:
        self.centers, self.counts, self.inertia, self.made, self.converged = centers, counts, inertia, made, converged


class _Lloyd:
    """Iterations on features as they are stored."""

    def __init__(self, run: Run, features: Features, centers: int, tol: float, most: int) -> None:
        self._run, self._features, self._most, self._tol = run, features, most, tol
        self._count, columns = features.array.shape
        self._plan = Clusters(columns, centers)
        self._batch = max(1, min(self._count, TOGETHER // centers**2))

    async def measure(self) -> None:
        """Find means and variances of columns: opened, where features are not here."""
        columns, bits = self._plan.inputs, self._count.bit_length() + 2 * LARGEST_BITS + 2 * FRACTION
        if self._features.here is not None:
            self.mean, self.variance = self._features.here.mean(0), self._features.here.var(0)
        else:
            plan = Moments(columns, columns, ("gram", "features"), max(0, bits - 63))
            data = (self._features.array, self._features.array)
            sums = await self._run.moments(plan, data, min(self._count, 4096))
            self.mean = sums["features"].view(np.int64) / 2.0**FRACTION / self._count
            squares = np.diag(sums["gram"].view(np.int64)) / 2.0 ** plan.bits("gram") / self._count
            self.variance = np.maximum(squares - self.mean**2, 0.0)

    async def converge(self, centers: Array) -> _Found:
        """Iterate until centres stand still."""
        limit = 2.0**LARGEST_BITS - 2.0**-FRACTION
        made, converged = 0, False
        counts, means = np.zeros(len(centers)), centers
        while made < self._most and not converged:
            stored = encode(np.clip(centers, -limit, limit), 2.0**-FRACTION)
            whole = stored.view(np.int64)
            squares = (whole.astype(object) ** 2).sum(1).astype(np.int64).view(np.uint64).reshape(1, -1)
            placed = {"centers": stored, "squares": squares}
            data = (self._features.array, self._features.array)
            sums = await self._run.opened(self._plan, data, placed, ("counts", "sums"), self._batch)
            counts = sums["counts"].view(np.int64).astype(np.float64)
            some = counts > 0
            means = whole / 2.0**FRACTION
            means[some] = sums["sums"].view(np.int64)[some] / 2.0**FRACTION / counts[some][:, None]
            moved = float(((means - whole / 2.0**FRACTION) ** 2).sum())
            centers, made = means, made + 1
            converged = moved <= max(self._tol * float(self.variance.mean()), self._plan.inputs * len(centers) * 4.0**-FRACTION)
        total = float((self.variance + self.mean**2).sum()) * self._count
        inertia = total - float((counts * (means**2).sum(1)).sum())
        return _Found(centers, counts, max(inertia, 0.0), made, converged=converged)

"""Principal components from sums of products on shares."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError
from protocols.estimators import data as forms
from protocols.estimators.arrays import numbers
from protocols.estimators.least_squares import Normal, normal
from protocols.estimators.run import Run
from protocols.estimators.settings import Array, Data, Estimator
from protocols.estimators.unsupervised.features import Features
from protocols.training.networks.functions import FRACTION
from protocols.training.regression import Moments
from protocols.training.regression.moments import BATCH, LARGEST_BITS

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

TOGETHER = 65_536
"""Examples of a step where sums cannot wrap around."""


class PCA(Estimator):
    """Principal component analysis: the directions in which the examples vary most, by eigenvectors of their covariance.

    The servers multiply X^T X and sum the columns on shares: integers, exact unless features of many examples that others have stored might
    wrap around, which are rounded without bias. Both are opened to this process, which takes the eigenvectors.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        n_components: how many; None: as many as there are columns, or examples if they are fewer.

    Attributes:
        components_: (components, columns), orthonormal; the largest element of each is above 0, as in scikit-learn.
        explained_variance_, explained_variance_ratio_, singular_values_: (components,).
        mean_: (columns,).
        n_components_, n_features_in_, n_samples_: how many of each.

    **Leaks** to this process, where x was shared by others, the covariances of all columns and their means: all of them, whatever
    `n_components` is; with about as few examples as columns, single records. To the workers: shapes.

    Example:
        >>> model = await PCA(cluster, n_components=2).fit(x)
        >>> model.transform(new_rows)
    """

    components_: Array
    explained_variance_: Array
    explained_variance_ratio_: Array
    singular_values_: Array
    mean_: Array
    n_components_: int
    n_samples_: int

    def __init__(self, cluster: Cluster | keras_hook.Cluster | None = None, *, n_components: int | None = None, **unknown: Any) -> None:
        self._refuse(unknown)
        self.cluster, self.n_components = cluster, n_components

    def fit(self, x: Data, y: Any = None, sample_weight: Any = None) -> Awaitable[Self]:
        """Fit on shares, see `Estimator.fit`. There are no targets and no weights."""
        if y is not None or sample_weight is not None:
            raise InputError("y or sample_weight was given: principal components have no targets and no weights")
        return super().fit(x, x)

    def _check(self) -> None:
        wanted = self.n_components
        if wanted is not None and (not isinstance(wanted, int | np.integer) or isinstance(wanted, bool) or wanted < 1):
            raise InputError(f"n_components={wanted!r}; a whole number of at least 1, or None, is needed")

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        async with Run(cluster, type(self).__name__) as run:
            bits = min(LARGEST_BITS - 1, (62 - 2 * FRACTION - forms.as_many(x, x, None).bit_length()) // 2)
            features = await Features.stored(run, x, reach=2.0**bits * (1 - 2.0**-20), alike=False)
            count, columns = features.array.shape
            most = min(count, columns)
            wanted = most if self.n_components is None else int(self.n_components)
            if wanted > most:
                raise InputError(f"n_components={wanted}; at most {most} are possible with {count} examples of {columns} columns")
            over = count.bit_length() + 2 * LARGEST_BITS + 2 * FRACTION - 63 if features.here is None else 0
            plan = Moments(columns, columns, ("gram", "features"), max(0, over))
            sums = await run.moments(plan, (features.array, features.array), min(count, BATCH if over > 0 else TOGETHER))
        self._keep(normal(plan, sums | {"cross": sums["gram"], "targets": sums["features"]}, count), features, wanted)
        return self

    def _keep(self, found: Normal, features: Features, wanted: int) -> None:
        count = features.array.shape[0]
        factor = features.scale.factor
        covariance = found.products / (count - 1) / np.outer(factor, factor)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1].T
        signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(1)])
        self.components_ = (vectors * signs[:, None])[:wanted]
        self.explained_variance_ = values[:wanted]
        total = values.sum()
        self.explained_variance_ratio_ = values[:wanted] / total if total > 0 else np.full(wanted, np.nan)
        self.singular_values_ = np.sqrt(values[:wanted] * (count - 1))
        self.mean_ = features.scale.center + found.means[0] / factor
        self.n_components_, self.n_features_in_, self.n_samples_ = wanted, len(factor), count

    def transform(self, x: npt.ArrayLike) -> Array:
        """Return rows by components, (n, components)."""
        found: Array = (self._rows(x) - self.mean_) @ self.components_.T
        return found

    def inverse_transform(self, x: npt.ArrayLike) -> Array:
        """Return rows from their components, (n, columns)."""
        rows = numbers("x", x)
        if not hasattr(self, "components_") or rows.ndim != 2 or rows.shape[1] != self.n_components_:
            raise InputError(f"x has shape {rows.shape}; a table of {getattr(self, 'n_components_', 'fitted')} components is needed")
        found: Array = rows @ self.components_ + self.mean_
        return found

"""What all estimators share: settings by name as scikit-learn asks for them, and `fit`; what classifiers and affine functions share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError, ModelError
from protocols.estimators import arrays

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

Array = npt.NDArray[Any]
Data = SharedDataset | npt.ArrayLike


class ConvergenceWarning(UserWarning):
    """A fit that has not converged. What is warned is scikit-learn's class of that name as well, where scikit-learn is installed."""


def convergence_warning() -> type[Warning]:
    """Return the class of warnings."""
    try:
        from sklearn import exceptions  # noqa: PLC0415  takes a second, and is not needed
    except ImportError:
        return ConvergenceWarning
    return type("ConvergenceWarning", (ConvergenceWarning, exceptions.ConvergenceWarning), {})


class Estimator(ABC):
    """What is fitted on shares and used in the clear.

    Attributes:
        cluster: where it is fitted.
        n_features_in_: columns of x.
    """

    cluster: Cluster | keras_hook.Cluster | None
    n_features_in_: int

    @classmethod
    def _names(cls) -> list[str]:
        parameters = inspect.signature(cls).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]

    def _refuse(self, unknown: dict[str, Any]) -> None:
        """Refuse settings that there are not.

        Raises:
            TypeError: there is one.
        """
        if unknown:
            known = ", ".join(self._names())
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}; it has {known}")

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the settings by name, as scikit-learn asks for them; none of them has settings of its own."""
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **settings: Any) -> Self:
        """Change settings; what is fitted stays until `fit`.

        Raises:
            ValueError: there is no such setting.
        """
        known = self._names()
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> Self:
        """Return the same settings, not fitted: on the same cluster, which cannot be copied."""
        return type(self)(**self.get_params())

    def fit(self, x: Data, y: Data, sample_weight: Data | None = None) -> Awaitable[Self]:
        """Fit on shares. Awaitable; with a blocking cluster it is done when this returns, and gives the estimator itself.

        Args:
            x: features (n, columns): an array, or what `Cluster.store` or `Cluster.load` gave, between -512 and 512.
            y: labels or targets, as many.
            sample_weight: as many numbers of at least 0; shared ones must be from 0 to 1, which is found out on shares. None: all are 1.

        Raises:
            InputError: data that do not fit each other, or settings out of range. Nothing was done.
            Diverged: numbers have left fixed point; what was fitted before stays.
            WorkerLost: a worker went away.
        """
        from protocols import keras_hook  # noqa: PLC0415  only a blocking cluster needs it

        if self.cluster is None:
            raise InputError(f"{type(self).__name__} needs a cluster to be fitted: {type(self).__name__}(cluster)")
        self._check()
        if isinstance(self.cluster, keras_hook.Cluster):
            return cast("Awaitable[Self]", self.cluster.run(self._fit(self.cluster.cluster, x, y, sample_weight)))
        return self._fit(self.cluster, x, y, sample_weight)

    @abstractmethod
    def _check(self) -> None:
        """Refuse settings out of range.

        Raises:
            InputError: there is one.
        """

    @abstractmethod
    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        """Fit, see `fit`."""

    def _rows(self, x: npt.ArrayLike) -> Array:
        """Return new rows, (n, n_features_in_).

        Raises:
            ModelError: nothing is fitted yet.
            InputError: they have another number of columns, or are no finite numbers.
        """
        if not hasattr(self, "n_features_in_"):
            raise ModelError(f"this {type(self).__name__} is not fitted yet: await fit(x, y) first")
        rows = arrays.numbers("x", x)
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise InputError(f"x has shape {rows.shape}; a table of {self.n_features_in_} columns is needed, as in fit")
        return rows

    def __repr__(self) -> str:
        names = [name for name in self._names() if name != "cluster"]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


class AffineEstimator(Estimator):
    """A fitted affine function x coef_^T + intercept_, and how one comes to it.

    Attributes:
        coef_: the coefficients, in the shape that scikit-learn gives them.
        fit_intercept: whether there is an intercept.
        intercept_: the same of intercepts.
    """

    coef_: Array
    intercept_: Any
    fit_intercept: bool

    def _check_intercept(self) -> None:
        """Refuse what is no truth value.

        Raises:
            InputError: it is none.
        """
        if not isinstance(self.fit_intercept, bool | np.bool_):
            raise InputError(f"fit_intercept={self.fit_intercept!r}; True or False is needed")

    def _affine(self, x: npt.ArrayLike) -> Array:
        """Return x coef_^T + intercept_ for new rows, in the clear: (n, outputs)."""
        rows = self._rows(x)
        result: Array = rows @ np.atleast_2d(self.coef_).T + self.intercept_
        return result


class Classifier(Estimator):
    """A fitted probability of each class, and the labels that follow from it.

    Attributes:
        class_weight: label -> weight, "balanced", or None.
        classes_: the labels in order.
    """

    _estimator_type = "classifier"
    class_weight: Mapping[Any, float] | str | None
    classes_: Array

    def _check_classes(self) -> None:
        """Refuse weights of classes in another form.

        Raises:
            InputError: they have one.
        """
        if not (self.class_weight is None or self.class_weight == "balanced" or isinstance(self.class_weight, Mapping)):
            raise InputError(f"class_weight={self.class_weight!r}; None, 'balanced', or a dict from labels to weights is needed")

    @abstractmethod
    def predict_proba(self, x: npt.ArrayLike) -> Array:
        """Return the probability of each class, (n, classes)."""

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the likeliest label of each row."""
        likeliest = self.predict_proba(x).argmax(1)
        labels: Array = self.classes_[likeliest]
        return labels

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the part of rows whose label is predicted, by weight."""
        found = self.predict(x)
        right = found == arrays.true_labels(y, found)
        return float(np.average(right, weights=arrays.weights_of_rows(sample_weight, len(right))))


class Regressor(Estimator):
    """A fitted function with numbers as values."""

    _estimator_type = "regressor"

    @abstractmethod
    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the targets of each row, (n,) or (n, targets)."""

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return R^2, the part of the variance of the targets that is explained, the mean over targets."""
        found = self.predict(x)
        true, weights = arrays.true_numbers(y, found), arrays.weights_of_rows(sample_weight, len(found))
        mean = np.average(true, 0, weights)
        unexplained, total = (np.atleast_1d(weights @ (true - one) ** 2) for one in (found, mean))
        return float(np.mean([explained(*parts) for parts in zip(unexplained.tolist(), total.tolist(), strict=True)]))


def explained(unexplained: float, total: float) -> float:
    """Return what part of a total is explained; as in scikit-learn 1 if there is nothing to explain, 0 if there is too much."""
    return 1 - unexplained / total if total > 0 else float(unexplained <= 0)

"""Logistic and linear regression on data that nobody sees, with scikit-learn's interface.

    model = await LogisticRegression(cluster, epochs=50).fit(x, y)
    model.coef_, model.predict_proba(new_rows)

`x` and `y` are what `Cluster.store` gave, or arrays, which are stored first. Mini-batch gradient descent with momentum on shares (see
`SharedModel.fit`); the fitted coefficients are opened to this process and to nobody else, so that `predict` is plain arithmetic here.

`fit` is awaited like everything in this library. With the blocking cluster of `protocols.keras_hook` it blocks and returns the estimator,
as in scikit-learn. scikit-learn is not needed; `sklearn.base.clone` and `get_params` work.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, ModelError
from protocols.training.fitting import MEMORY, Epoch, Training
from protocols.training.terms import SharedArray

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.cluster import Cluster

Array = npt.NDArray[Any]


class _Regression(ABC):
    """What both estimators share.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        epochs: passes over the data.
        learning_rate: of gradient descent, or a schedule of `keras.optimizers.schedules`; features are best standardised.
        momentum: from 0 up to 1.
        batch_size: examples of a step.
        l2: l2 / 2 times the squared coefficients, without intercepts, is added to the mean loss. scikit-learn's C is 1 / (l2 n), its
            alpha for Ridge l2 n / 2 for the mean of squares that is minimised here.
        shuffle: a new order in each epoch; it is public.

    Attributes:
        coef_: the coefficients, in the shape that scikit-learn gives them.
        intercept_: the same of intercepts.
        n_features_in_: columns of x.
        history_: an `Epoch` for each pass.

    **Leaks** to the workers what `SharedModel.fit` leaks; to this process the coefficients.
    """

    coef_: Array
    intercept_: Any
    n_features_in_: int
    history_: list[Epoch]

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        epochs: int = 50,
        learning_rate: Any = 0.1,
        momentum: float = 0.9,
        batch_size: int = 128,
        l2: float = 0.0,
        shuffle: bool = True,
    ) -> None:
        self.cluster, self.epochs, self.learning_rate, self.momentum = cluster, epochs, learning_rate, momentum
        self.batch_size, self.l2, self.shuffle = batch_size, l2, shuffle

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name, as scikit-learn asks for them; none of them has settings of its own."""
        return {name: getattr(self, name) for name in inspect.signature(_Regression).parameters}

    def set_params(self, **settings: Any) -> Self:
        """Changes settings; what is fitted stays until `fit`.

        Raises:
            ValueError: there is no such setting.
        """
        known = self.get_params()
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def __sklearn_clone__(self) -> Self:
        """The same settings, not fitted: on the same cluster, which cannot be copied."""
        return type(self)(**self.get_params())

    def fit(self, x: SharedArray | npt.ArrayLike, y: SharedArray | npt.ArrayLike) -> Awaitable[Self]:
        """Fits on shares. Awaitable; with a blocking cluster it is done when this returns, and gives the estimator itself.

        Args:
            x: features (n, columns), between -512 and 512, best standardised: an array, or what `Cluster.store` gave.
            y: labels or targets, as many.

        Raises:
            InputError: data that do not fit each other, or settings out of range.
            ModelError: the learning rate vanishes in fixed point.
            Diverged: the learning rate is too large for these data; what was fitted before stays.
            WorkerLost: a worker went away.
        """
        from protocols import keras_hook  # noqa: PLC0415  only a blocking cluster needs it

        if self.cluster is None:
            raise InputError(f"{type(self).__name__} needs a cluster to be fitted: {type(self).__name__}(cluster)")
        if not (0 <= self.momentum < 1 and self.l2 >= 0):
            raise InputError(f"momentum={self.momentum}, l2={self.l2}; from 0 up to 1, and at least 0 are needed")
        if isinstance(self.cluster, keras_hook.Cluster):
            return cast("Awaitable[Self]", self.cluster.run(self._fit(self.cluster.cluster, x, y)))
        return self._fit(self.cluster, x, y)

    async def _fit(self, cluster: Cluster, x: SharedArray | npt.ArrayLike, y: SharedArray | npt.ArrayLike) -> Self:
        features = x if isinstance(x, SharedArray) else await cluster.store("features", _table(x))
        targets, labels = (y, None) if isinstance(y, SharedArray) else await self._stored(cluster, np.asarray(y))
        outputs, loss = self._task(targets)
        training = Training(self._network(features.shape[1], outputs, loss), cluster, type(self).__name__)
        try:
            made = training.fit(
                features, targets, epochs=self.epochs, batch_size=self.batch_size, shuffle=self.shuffle, metrics=True, memory=MEMORY
            )
            history = [epoch async for epoch in made]
            kernel, bias = (await training.reveal()).get_weights()
        finally:
            await training.forget()
        self._keep(labels, kernel.T.astype(np.float64), bias.astype(np.float64))
        self.history_, self.n_features_in_ = history, features.shape[1]
        return self

    def _network(self, inputs: int, outputs: int, loss: Any) -> Any:
        """One dense layer that begins at zero. Keras takes decay out of the velocity: momentum makes it 1 / (1 - momentum) times weaker."""
        import keras  # noqa: PLC0415  only the owner needs Keras

        layer = keras.layers.Dense(outputs, kernel_initializer="zeros")
        model = keras.Sequential([keras.layers.Input((inputs,)), layer], name=type(self).__name__.lower())
        optimizer = keras.optimizers.SGD(self.learning_rate, self.momentum, weight_decay=self.l2 / (1 - self.momentum) or None)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.compile(optimizer, loss)
        return model

    def _affine(self, x: npt.ArrayLike) -> Array:
        """x coef_^T + intercept_ for new rows, in the clear."""
        if not hasattr(self, "coef_"):
            raise ModelError(f"this {type(self).__name__} is not fitted yet: await fit(x, y) first")
        rows = _table(x)
        if rows.shape[1] != self.n_features_in_:
            raise InputError(f"x has {rows.shape[1]} columns, this {type(self).__name__} was fitted with {self.n_features_in_}")
        result: Array = rows @ np.atleast_2d(self.coef_).T + self.intercept_
        return result

    @abstractmethod
    async def _stored(self, cluster: Cluster, y: Array) -> tuple[SharedArray, Array | None]:
        """Shares an array of labels or targets; also gives which labels there are."""

    @abstractmethod
    def _task(self, targets: SharedArray) -> tuple[int, Any]:
        """How many outputs, and the Keras loss."""

    @abstractmethod
    def _keep(self, labels: Array | None, coef: Array, intercept: Array) -> None:
        """Takes over what was fitted: (outputs, columns) and (outputs,)."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(epochs={self.epochs}, learning_rate={self.learning_rate}, l2={self.l2})"


def _table(x: npt.ArrayLike) -> Array:
    rows = np.asarray(x, np.float64)
    if rows.ndim != 2:
        raise InputError(f"x has shape {rows.shape}: a table (examples, features) is needed")
    return rows


class LogisticRegression(_Regression):
    """The probability of each class is the softmax of x coef_^T + intercept_; with two classes the sigmoid for the second.

    Attributes:
        classes_: the labels in order; for stored labels 0, 1, ...
        coef_: (classes, columns), (1, columns) for two classes.
        intercept_: (classes,), or (1,).
    """

    _estimator_type = "classifier"
    classes_: Array

    async def _stored(self, cluster: Cluster, y: Array) -> tuple[SharedArray, Array | None]:
        if y.ndim != 1:
            raise InputError(f"y has shape {y.shape}: one label an example is needed")
        labels, numbers = np.unique(y, return_inverse=True)
        return await cluster.store("labels", numbers, classes=len(labels)), labels

    def _task(self, targets: SharedArray) -> tuple[int, Any]:
        import keras  # noqa: PLC0415  only the owner needs Keras

        classes = targets.shape[1]
        if targets.content != "labels" or classes < 2:
            raise InputError(f"{targets.name!r} is no array of labels of at least two classes: store one integer an example, from 0")
        if classes == 2:
            return 1, keras.losses.BinaryCrossentropy(from_logits=True)
        return classes, keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def _keep(self, labels: Array | None, coef: Array, intercept: Array) -> None:
        self.classes_ = np.arange(max(2, len(coef))) if labels is None else labels
        self.coef_, self.intercept_ = coef, intercept

    def decision_function(self, x: npt.ArrayLike) -> Array:
        """x coef_^T + intercept_: (n, classes), or (n,) for the second of two classes."""
        logits = self._affine(x)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_proba(self, x: npt.ArrayLike) -> Array:
        """The probability of each class, (n, classes)."""
        logits = self._affine(x)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: Array = powers / powers.sum(1, keepdims=True)
        return probabilities

    def predict(self, x: npt.ArrayLike) -> Array:
        """The likeliest label of each row."""
        likeliest = self.predict_proba(x).argmax(1)
        labels: Array = self.classes_[likeliest]
        return labels

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """The part of rows whose label is predicted."""
        return float(np.mean(self.predict(x) == np.asarray(y)))


class LinearRegression(_Regression):
    """Least squares: targets are x coef_^T + intercept_. With `l2` above 0, ridge regression.

    Attributes:
        coef_: (columns,), or (targets, columns) for several targets.
        intercept_: a number, or (targets,).
    """

    _estimator_type = "regressor"

    async def _stored(self, cluster: Cluster, y: Array) -> tuple[SharedArray, Array | None]:
        if y.ndim not in (1, 2):
            raise InputError(f"y has shape {y.shape}: one or several targets an example are needed")
        return await cluster.store("targets", y.astype(np.float64).reshape(len(y), -1)), None

    def _task(self, targets: SharedArray) -> tuple[int, Any]:
        if targets.content != "numbers":
            raise InputError(f"{targets.name!r} was stored as labels because it is made of integers: store floats")
        return targets.shape[1], "mean_squared_error"

    def _keep(self, labels: Array | None, coef: Array, intercept: Array) -> None:
        single = len(coef) == 1
        self.coef_, self.intercept_ = (coef[0], float(intercept[0])) if single else (coef, intercept)

    def predict(self, x: npt.ArrayLike) -> Array:
        """The targets of each row, (n,) or (n, targets)."""
        targets = self._affine(x)
        return targets[:, 0] if np.ndim(self.intercept_) == 0 else targets

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike) -> float:
        """R^2, the part of the variance of the targets that is explained, the mean over targets."""
        found, true = self.predict(x), np.asarray(y, np.float64)
        unexplained, total = ((true - found) ** 2).sum(0), ((true - true.mean(0)) ** 2).sum(0)
        return float(np.mean(1 - unexplained / total))

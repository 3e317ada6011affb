"""Owners that train with scikit-learn: linear models by stochastic gradient descent, and multi-layer perceptrons.

The only file that sets attributes of fitted estimators.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from federated.errors import DataError, SettingError
from federated.tasks.update import Array, Setting
from federated.trainers.trained import Remembered, Trained, passes

NO_STEP = 1e-300
"""A learning rate, which has to be above 0, that moves nothing."""
STEPS = "steps"
"""What is remembered of a linear model: how many steps it has made, on which its learning rate depends."""


class ScikitTrainer:
    """Trains an estimator of scikit-learn that learns by `partial_fit`: SGDClassifier, SGDRegressor, MLPClassifier or MLPRegressor.

    Calling it with an owner's data (x, y) gives the trainer of that owner: `simulated_owners(parts, trainer=ScikitTrainer(...))`. In a
    round it makes `epochs` passes over the examples in another order each. A linear model makes a step an example, whatever the
    strategy's `batch_size`, and its learning rate goes on over rounds; an MLP makes a step a batch, with an optimizer that is new in
    each round.

    Args:
        estimator: with its settings. It is copied, and need not be fitted.
        features: of an example.
        classes: all labels that any owner may have; None for regressors.

    Raises:
        SettingError: another estimator; or settings that need more than single passes (`early_stopping`, `average`, `solver="lbfgs"`,
            `learning_rate="adaptive"`, `class_weight="balanced"`); or classes that do not fit.

    Example:
        >>> trainer = ScikitTrainer(SGDClassifier(loss="log_loss"), features=30, classes=[0, 1])
        >>> federation = Federation(model=trainer.weights(), owners=simulated_owners(parts, trainer=trainer))
        >>> trainer.fitted(federation.weights).score(x_test, y_test)
    """

    def __init__(self, estimator: Any, *, features: int, classes: Any = None) -> None:
        self._kind = _kind(estimator)
        _check(estimator, features, classes)
        self.features, self.classes = features, None if classes is None else np.unique(classes)
        self._begun = self._as_begun(estimator)

    def weights(self) -> list[Array]:
        """Return initial weights, for `Federation(model=...)`: zeros of a linear model, those that an MLP draws from its `random_state`."""
        return [array.copy() for array in _weights(self._begun)]

    def fitted(self, weights: list[Array]) -> Any:
        """Return a copy of the estimator that has these weights, to predict with."""
        estimator = copy.deepcopy(self._begun)
        arrays = [np.array(array, np.float64) for array in weights]
        if [array.shape for array in arrays] != [array.shape for array in _weights(estimator)]:
            raise SettingError(f"weights of shapes {[array.shape for array in arrays]} are not those of this estimator")
        if _layered(estimator):
            half = len(arrays) // 2
            estimator.coefs_, estimator.intercepts_ = arrays[:half], arrays[half:]
        else:
            estimator.coef_, estimator.intercept_ = arrays
        return estimator

    def __call__(self, data: Any, evaluation: Any = None) -> _ScikitOwner:
        """Return the trainer of one owner.

        Raises:
            DataError: the data is no (x, y) of the features and classes that were said.
        """
        return _ScikitOwner(self, data, evaluation)

    def _as_begun(self, estimator: Any) -> Any:
        """Return a copy of the estimator with its initial weights."""
        from sklearn.base import clone  # noqa: PLC0415  takes a second, and only those who use it need it

        begun, rate = clone(estimator), estimator.get_params().get("learning_rate_init")
        begun.set_params(shuffle=False, **({} if rate is None else {"learning_rate_init": NO_STEP, "batch_size": 1}))
        y = np.zeros(1) if self.classes is None else self.classes
        self.learn(begun, np.zeros((len(y), self.features)), y)
        if self._kind == "linear":
            for array in _weights(begun):
                array[...] = 0.0
            begun.t_ = 1.0
        else:
            begun.set_params(learning_rate_init=rate)
            del vars(begun)["_optimizer"]  # made anew by the next pass
        return begun

    def learn(self, estimator: Any, x: Array, y: Array) -> None:
        """Make one pass of `partial_fit`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one pass does not converge
            estimator.partial_fit(x, y, **({} if self.classes is None else {"classes": self.classes}))


class _ScikitOwner:
    """The trainer of one owner."""

    def __init__(self, settings: ScikitTrainer, data: Any, evaluation: Any) -> None:
        self._settings = settings
        self._x, self._y = _examples(data, settings)
        if evaluation is not None:
            self._test = _examples(evaluation, settings)
            self.evaluate = self._evaluate

    def train(self, weights: list[Array], config: Mapping[str, Setting], state: Remembered) -> Trained:
        """Make `epochs` passes from the weights."""
        estimator, before = self._settings.fitted(weights), [array.copy() for array in weights]
        n, made = len(self._y), int(state.get(STEPS, 0))
        if _layered(estimator):
            estimator.set_params(batch_size=min(int(config["batch_size"] or n), n))
        else:
            estimator.t_ = 1.0 + made
        for batches in passes(config, n):
            order = np.concatenate(batches)
            self._settings.learn(estimator, self._x[order], self._y[order])
            made += n
        if not _layered(estimator):
            state[STEPS] = made
        delta = [after - old for after, old in zip(_weights(estimator), before, strict=True)]
        loss = {"loss": float(estimator.loss_)} if _layered(estimator) else {}
        return Trained(delta, n, loss | self._score(estimator, self._x, self._y))

    def _evaluate(self, weights: list[Array], config: Mapping[str, Setting], state: Remembered) -> tuple[dict[str, float], int]:
        return self._score(self._settings.fitted(weights), *self._test), len(self._test[1])

    def _score(self, estimator: Any, x: Array, y: Array) -> dict[str, float]:
        """Accuracy of classifiers; mean squared error of regressors, which, unlike R^2, may be averaged over owners."""
        predicted = estimator.predict(x)
        if self._settings.classes is None:
            return {"mse": float(np.mean((predicted - y) ** 2))}
        return {"accuracy": float(np.mean(predicted == y))}


def _kind(estimator: Any) -> str:
    """Whether an estimator is linear, or has layers.

    Raises:
        SettingError: it is neither.
    """
    name = type(estimator).__name__
    kinds = {"SGDClassifier": "linear", "SGDRegressor": "linear", "MLPClassifier": "layers", "MLPRegressor": "layers"}
    if name not in kinds or not type(estimator).__module__.startswith("sklearn."):
        raise SettingError(f"a {name} is not trained in rounds: {', '.join(kinds)} of scikit-learn are")
    return kinds[name]


def _check(estimator: Any, features: int, classes: Any) -> None:
    settings, name = estimator.get_params(), type(estimator).__name__
    odd = {"early_stopping": True, "solver": "lbfgs", "learning_rate": "adaptive", "class_weight": "balanced"}
    for setting, value in odd.items():
        if settings.get(setting) == value:
            raise SettingError(f"{name}({setting}={value!r}) needs more than single passes over the examples of one owner: leave it out")
    if settings.get("average"):
        raise SettingError(f"{name}(average={settings['average']!r}) gives other weights than it trains: leave it out")
    if features < 1:
        raise SettingError(f"features={features}: at least 1 is needed")
    if name.endswith("Classifier") != (classes is not None) or (classes is not None and len(np.unique(classes)) < 2):
        raise SettingError(f"classes={classes!r}: a classifier needs all labels, at least 2, that any owner may have; a regressor none")


def _layered(estimator: Any) -> bool:
    return hasattr(estimator, "coefs_")


def _weights(estimator: Any) -> list[Array]:
    return [*estimator.coefs_, *estimator.intercepts_] if _layered(estimator) else [estimator.coef_, estimator.intercept_]


def _examples(data: Any, settings: ScikitTrainer) -> tuple[Array, Array]:
    """Check an owner's data, and return it as x and y.

    Raises:
        DataError: it is no (x, y) of the features and classes that were said; without a value, or a name in it.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError("an owner's data is no pair (x, y)")
    try:
        x, y = np.asarray(data[0], np.float64), np.asarray(data[1])
    except (TypeError, ValueError):
        raise DataError("an owner's x makes no array of numbers") from None
    if x.ndim != 2 or x.shape[1] != settings.features or y.shape != x.shape[:1] or not len(x):
        raise DataError(f"an owner's data has shapes {x.shape} and {y.shape}; (n, {settings.features}) and (n,) are expected")
    if not np.isfinite(x).all():
        raise DataError("an owner's x has values that are not finite")
    if settings.classes is not None and not np.isin(y, settings.classes).all():
        raise DataError(f"an owner has labels that are none of the {len(settings.classes)} classes that were said")
    return x, y

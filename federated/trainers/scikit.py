"""Owners that train with scikit-learn: linear models by stochastic gradient descent, and multi-layer perceptrons."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from federated.errors import DataError, SettingError
from federated.tasks.update import Array, Setting
from federated.trainers.trained import Remembered, Trained

LINEAR, LAYERS = ("coef_", "intercept_"), ("coefs_", "intercepts_")


class ScikitTrainer:
    """Trains an estimator of scikit-learn that learns by `partial_fit`: SGDClassifier, SGDRegressor, MLPClassifier, MLPRegressor.

    Calling it with an owner's data (x, y) gives the trainer of that owner: `simulated_owners(parts, trainer=ScikitTrainer(...))`. A round
    is `epochs` calls of `partial_fit`, in batches of `batch_size`; the optimizer of an MLP begins anew in each.

    Args:
        estimator: with its settings, not fitted; each owner has a copy. `warm_start`, `early_stopping` and `average` are refused: they
            need more than one pass, or weights that are not those that are trained.
        features: of an example.
        classes: all labels that any owner may have, sorted; None for regressors.

    Raises:
        SettingError: another estimator, or settings that do nothing here; or classes that do not fit.

    Example:
        >>> trainer = ScikitTrainer(SGDClassifier(loss="log_loss"), features=30, classes=[0, 1])
        >>> federation = Federation(model=trainer.weights(), owners=simulated_owners(parts, trainer=trainer))
        >>> trainer.fitted(federation.weights).score(x_test, y_test)
    """

    def __init__(self, estimator: Any, *, features: int, classes: Any = None) -> None:
        _check(estimator, classes)
        if features < 1:
            raise SettingError(f"features={features}: at least 1 is needed")
        self._estimator, self._features = estimator, features
        self._classes = None if classes is None else np.unique(classes)

    def weights(self) -> list[Array]:
        """Return initial weights, for `Federation(model=...)`: those with which the estimator itself begins."""
        return _weights(self._begun())

    def fitted(self, weights: list[Array]) -> Any:
        """Return the estimator with weights, ready to predict."""
        estimator = self._begun()
        _set(estimator, weights)
        return estimator

    def __call__(self, data: Any, evaluation: Any = None) -> _OfOwner:
        """Return the trainer of one owner."""
        return _OfOwner(self, _examples(data, self._features, self._classes), evaluation)

    def _begun(self) -> Any:
        """A copy of the estimator that has its weights, as after no step."""
        from sklearn.base import clone  # noqa: PLC0415  not everybody has it

        estimator = clone(self._estimator)
        x = np.zeros((1 if self._classes is None else len(self._classes), self._features))
        y = np.zeros(1) if self._classes is None else self._classes
        before = estimator.get_params()
        settings = {"learning_rate_init": 0.0} if "learning_rate_init" in before else {"learning_rate": "constant", "eta0": 1e-300}
        estimator.set_params(**{name: value for name, value in settings.items() if name in before})
        self.learn(estimator, x, y)
        estimator.set_params(**{name: before[name] for name in settings if name in before})
        return estimator

    def learn(self, estimator: Any, x: Array, y: Array) -> None:
        """One call of `partial_fit`."""
        estimator.partial_fit(x, y, **({} if self._classes is None else {"classes": self._classes}))

"""Logistic regression: what scikit-learn's settings mean on shares, and when a fit has converged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError
from protocols.estimators import data as forms
from protocols.estimators.data import Scale
from protocols.estimators.run import Run, batch_within
from protocols.estimators.settings import Array, Data, Estimator, convergence_warning, weights_of_rows
from protocols.exchange import Ring
from protocols.training.functions import FRACTION
from protocols.training.regression import Logistic, Moments
from protocols.training.regression.moments import Asked
from protocols.training.terms import SharedArray

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.cluster import Cluster

LEAST_TOL = 1e-5
"""Gradients are not known more precisely."""

EVERY = 10
"""Iterations after which it is told whether the gradient is small."""

STRONGEST = 2.0**20
"""The largest strength of the penalty beside the sum of losses, 1 / C, that weights of 24 fractional bits can follow."""


class LogisticRegression(Estimator):
    """The probability of each class is the softmax of x coef_^T + intercept_; with two classes the sigmoid for the second.

    It minimises what scikit-learn minimises, |coef_|^2 / 2 + C sum_i w_i loss_i (intercepts are not penalised), by full gradients with
    Nesterov's momentum, see `protocols.training.regression.logistic`. It has converged when no element of the gradient of the mean loss
    and its penalty is above `tol`, as in scikit-learn; if that does not happen within `max_iter` iterations a `ConvergenceWarning` says
    so. On breast_cancer, standardised, coefficients are within 4 % of the largest of those of the exact minimum with the default `tol`, and
    within 1 % with `tol=1e-5`: a gradient of `tol` leaves an error of up to `tol` times C times the number of examples. The sigmoid itself
    is within 2^-10. Every fit begins at zero.

    Args:
        cluster: a running `protocols.Cluster`, or a started one of `protocols.keras_hook`.
        C: inverse strength of the penalty, from 10^-6 up to infinity, which is none.
        penalty: "l2", or None for none, whatever C is.
        l2: instead of C: l2 / 2 |coef_|^2 is added to the mean loss: 1 / (C sum_i w_i).
        tol: how large an element of the gradient may be, from 10^-5 to 1.
        fit_intercept: whether there is an intercept.
        class_weight: label -> weight, 1 for those that are missing; or "balanced": n / (classes * examples of the class). With labels that
            are shared the labels are 0, 1, ...
        max_iter: iterations, each over all examples.
        epochs: another name for `max_iter`.
        learning_rate: the step; None: 1 / L for the Lipschitz constant L of the gradient, with which it converges whatever the data are.
        batch_size: examples whose gradients are computed at a time, which changes nothing but memory; None: as many as fit.
        random_state: accepted for scikit-learn's sake; there is nothing random but the masks, which no seed may fix.

    Attributes:
        classes_: the labels in order; of labels that are shared 0, 1, ...
        coef_: (classes, columns), (1, columns) for two classes.
        intercept_: (classes,), or (1,).
        n_features_in_: columns of x.
        n_iter_: (1,), iterations made, a multiple of 10 or `max_iter`.
        converged_: whether the gradient is small.

    **Leaks** to this process, beside the coefficients, one bit every 10 iterations, whether the gradient is small yet. If x was shared by
    others, the mean of the squares of all its elements (for `learning_rate=None`); if weights were, their sum; if labels were and classes
    have weights, how many examples each class has. To the workers: shapes, settings (weights of classes that are given with shared labels
    among them), what follows from these sums, and how many iterations are made.

    Example:
        >>> model = await LogisticRegression(cluster, C=0.1, class_weight="balanced").fit(x, y)
        >>> model.n_iter_, model.score(x, y)
    """

    _estimator_type = "classifier"
    classes_: Array
    n_iter_: Array
    converged_: bool

    def __init__(
        self,
        cluster: Cluster | keras_hook.Cluster | None = None,
        *,
        C: float = 1.0,
        penalty: str | None = "l2",
        l2: float | None = None,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        class_weight: Mapping[Any, float] | str | None = None,
        max_iter: int = 1000,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        random_state: Any = None,
        **unknown: Any,
    ) -> None:
        self._refuse(unknown)
        self.cluster, self.C, self.penalty, self.l2, self.tol = cluster, C, penalty, l2, tol
        self.fit_intercept, self.class_weight, self.max_iter, self.epochs = fit_intercept, class_weight, max_iter, epochs
        self.learning_rate, self.batch_size, self.random_state = learning_rate, batch_size, random_state

    def _check(self) -> None:
        for name, count in (("max_iter", self.max_iter), ("epochs", self.epochs), ("batch_size", self.batch_size)):
            if count is not None and (not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1):
                raise InputError(f"{name}={count!r}; a whole number of at least 1 is needed")
        if self.penalty not in ("l2", None):
            raise InputError(f"penalty={self.penalty!r}; on shares there is 'l2', and None for none")
        if not _number(self.C) or not 1 / STRONGEST <= self.C:
            raise InputError(f"C={self.C!r}; a number of at least {1 / STRONGEST:.1e} is needed, infinity for no penalty")
        if self.l2 is not None and (not _number(self.l2) or not 0 <= self.l2 < math.inf):
            raise InputError(f"l2={self.l2!r}; a number of at least 0 is needed")
        if self.l2 is not None and self.C != 1.0:
            raise InputError(f"C={self.C} and l2={self.l2} were given: one of them says how strong the penalty is")
        if not _number(self.tol) or not LEAST_TOL <= self.tol <= 1:
            raise InputError(f"tol={self.tol!r}; from {LEAST_TOL:g}, below which gradients are not known on shares, to 1 is needed")
        if self.learning_rate is not None and (not _number(self.learning_rate) or not 0 < self.learning_rate < math.inf):
            raise InputError(
                f"learning_rate={self.learning_rate!r}; None or a number above 0 is needed; gradients are full: a schedule has no use"
            )
        if not (self.class_weight is None or self.class_weight == "balanced" or isinstance(self.class_weight, Mapping)):
            raise InputError(f"class_weight={self.class_weight!r}; None, 'balanced', or a dict from labels to weights is needed")

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = forms.as_many(x, y, sample_weight)
        async with Run(cluster, type(self).__name__) as run:
            prepared = _Prepared(self, run, examples)
            await prepared.store(x, y, sample_weight)
            plan = await self._plan(prepared)
            weights, made, converged = await run.minimised(plan, prepared.arrays, -(-examples // plan.batches))
        coef = weights[0].T.astype(np.float64)
        intercept = weights[1].astype(np.float64) if self.fit_intercept else np.zeros(len(coef))
        self.classes_ = prepared.labels
        self.coef_, self.intercept_ = coef, intercept - coef @ prepared.x.center
        self.n_features_in_, self.n_iter_, self.converged_ = coef.shape[1], np.array([made], np.int32), converged
        if not converged:
            warnings.warn(
                f"{type(self).__name__} has not converged in {made} iterations: an element of the gradient is above tol={self.tol:g}."
                " Raise max_iter, or standardise the features, or use a stronger penalty (a smaller C)",
                convergence_warning(),
                stacklevel=2,
            )
        return self

    async def _plan(self, prepared: _Prepared) -> Logistic:
        facts = await prepared.facts()
        total = facts.total  # of weights as the user has them
        penalty = 0.0 if self.penalty is None else self.l2 if self.l2 is not None else 1 / (self.C * total)
        if penalty * total > STRONGEST:
            raise InputError(f"l2={self.l2}; at most {STRONGEST / total:g} is possible with these data")
        outputs = len(prepared.labels) if len(prepared.labels) > 2 else 1
        lipschitz = (0.25 if outputs == 1 else 0.5) * facts.largest_eigenvalue + penalty
        stored = total * prepared.largest_weight
        rate = min(1 / max(lipschitz, 1e-12), stored) if self.learning_rate is None else float(self.learning_rate)
        if rate > stored:
            raise InputError(f"learning_rate={rate:g}; at most {stored:g}, the sum of weights, is possible")
        plan = Logistic(
            inputs=prepared.arrays[0].shape[1],
            outputs=outputs,
            intercept=self.fit_intercept,
            examples=prepared.examples,
            total=stored,
            penalty=penalty,
            rate=rate,
            tol=float(self.tol),
            every=EVERY,
            iterations=int(self.max_iter if self.epochs is None else self.epochs),
            weighted=len(prepared.arrays) > 2,
            classes=prepared.classes,
        )
        batch = batch_within(plan) if self.batch_size is None else min(int(self.batch_size), prepared.examples)
        return msgspec.structs.replace(plan, batches=-(-prepared.examples // batch))

    def decision_function(self, x: npt.ArrayLike) -> Array:
        """x coef_^T + intercept_: (n, classes), or (n,) for the second of two classes."""
        logits = self._affine(x)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict_log_proba(self, x: npt.ArrayLike) -> Array:
        """Return the logarithms of the probabilities of each class, (n, classes)."""
        logits = self._affine(x)
        if logits.shape[1] == 1:
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        below = logits - logits.max(1, keepdims=True)
        logarithms: Array = below - np.log(np.exp(below).sum(1, keepdims=True))
        return logarithms

    def predict_proba(self, x: npt.ArrayLike) -> Array:
        """Return the probability of each class, (n, classes)."""
        probabilities: Array = np.exp(self.predict_log_proba(x))
        return probabilities

    def predict(self, x: npt.ArrayLike) -> Array:
        """Return the likeliest label of each row."""
        likeliest = self.predict_log_proba(x).argmax(1)
        labels: Array = self.classes_[likeliest]
        return labels

    def score(self, x: npt.ArrayLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> float:
        """Return the part of rows whose label is predicted, by weight."""
        right = self.predict(x) == np.asarray(y)
        return float(np.average(right, weights=weights_of_rows(sample_weight, len(right))))


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and not math.isnan(value)


@dataclass(frozen=True)
class _Facts:
    """What a step follows from.

    Attributes:
        total: the sum of the weights of all examples, as the user has them.
        largest_eigenvalue: a bound of that of the weighted mean of (x, 1)^T (x, 1).
    """

    total: float
    largest_eigenvalue: float


class _Prepared:
    """Data of a fit as they are stored.

    Attributes:
        examples: how many.
        x: how the features are stored: centred, if they are here and there is an intercept.
        labels: of the user.
        arrays: x, y, and weights if there are any.
        classes: weights of classes that servers multiply by, over the largest; of labels that are shared.
        largest_weight: what a weight of 1 of the user is stored as.
    """

    def __init__(self, model: LogisticRegression, run: Run, examples: int) -> None:
        self._model, self._run, self.examples = model, run, examples
        self.classes: tuple[float, ...] = ()
        self.largest_weight, self._checked = 1.0, False
        self._here: Array | None = None
        self._weights: Array | None = None

    async def store(self, x: Data, y: Data, weights: Data | None) -> None:
        """Check everything that is here, then store it."""
        own = None if weights is None or isinstance(weights, SharedArray) else forms.own_weights(weights)
        numbers, self.labels = self._labels(y)
        if isinstance(weights, SharedArray):
            forms.shared_weights(weights)
            self._checked = True
        if self._model.class_weight is not None:
            own = self._with_classes(numbers, own, weights)
        self._weights = own
        column = None
        if own is not None:
            self.largest_weight = 1 / own.max()
            column = forms.storable(own)
        if isinstance(x, SharedArray):
            self.x, features = Scale.none(x.shape[1]), x
        else:
            rows = forms.table("x", x)
            center = rows.mean(0) if self._model.fit_intercept else np.zeros(rows.shape[1])
            self.x = Scale(center, np.ones(rows.shape[1]))
            self._here = self.x.stored(rows)
            features = await self._run.store("features", self._here)
        targets = y if isinstance(y, SharedArray) else await self._run.store("labels", numbers, classes=len(self.labels))
        if isinstance(weights, SharedArray):
            self.arrays: tuple[SharedArray, ...] = (features, targets, weights)
        elif column is not None:
            self.arrays = (features, targets, await self._run.store("weights", column))
        else:
            self.arrays = (features, targets)

    def _labels(self, y: Data) -> tuple[Array, Array]:
        """Numbers from 0 for labels that are here, and all labels.

        Raises:
            InputError: they are no labels, or of one class only.
        """
        if isinstance(y, SharedArray):
            if y.content != "labels" or y.shape[1] < 2:
                raise InputError(f"{y.name!r} is no array of labels of at least two classes: store one integer an example, from 0")
            return np.zeros(0, int), np.arange(y.shape[1])
        found = np.asarray(y)
        if found.ndim != 1:
            raise InputError(f"y has shape {found.shape}: one label an example is needed")
        if found.dtype.kind == "f" and not (np.isfinite(found).all() and (found == np.round(found)).all()):
            raise InputError("y has NaN, infinite or fractional values: labels are needed, LinearRegression fits numbers")
        labels, numbers = np.unique(found, return_inverse=True)
        if len(labels) < 2:
            raise InputError(f"y has one label only, {labels[0]!r}: labels of at least two classes are needed")
        return numbers, labels

    def _with_classes(self, numbers: Array, own: Array | None, weights: Data | None) -> Array | None:
        """Weights of examples by those of their classes, if both are here; else the servers do it."""
        if len(numbers):
            if isinstance(weights, SharedArray):
                raise InputError("class_weight with labels that are here and sample_weight that is shared: share the labels, too")
            counted = np.ones(len(numbers)) if own is None else own
            by_class = self._by_class(np.bincount(numbers, counted, len(self.labels)))
            product: Array = counted * by_class[numbers]
            return product
        if weights is not None:
            raise InputError("class_weight with sample_weight and labels that are shared: multiply the weights before they are shared")
        return None

    def _by_class(self, counts: Array) -> Array:
        """The weight of each class."""
        given = self._model.class_weight
        if isinstance(given, Mapping):
            known = {label.item() if hasattr(label, "item") else label: place for place, label in enumerate(self.labels)}
            strangers = [label for label in given if label not in known]
            if strangers:
                raise InputError(f"class_weight names {strangers}, and the labels are {list(known)}")
            found = np.ones(len(known))
            for label, weight in given.items():
                if not _number(weight) or not 0 <= weight < math.inf:
                    raise InputError(f"class_weight has {weight!r} for {label!r}; numbers of at least 0 are needed")
                found[known[label]] = weight
        else:
            if not (counts > 0).all():
                raise InputError("class_weight='balanced', and a class has no example of any weight: its weight would be infinite")
            found = counts.sum() / (len(counts) * counts)
        if not (found * counts > 0).any():
            raise InputError("class_weight leaves no example with a weight above 0")
        return found

    async def facts(self) -> _Facts:
        """Facts in the clear where the data are here, and opened sums of what is not."""
        asks: list[Asked] = []
        shared_labels = self._model.class_weight is not None and self._weights is None
        if self._checked:
            asks.append("weight")
        if shared_labels:
            asks.append("targets")
        if self._here is None and self._model.learning_rate is None:
            asks.append("squares")
        sums: dict[str, Ring] = {}
        plan = Moments(self.arrays[0].shape[1], len(self.labels), tuple(asks), 0, len(self.arrays) > 2, self._checked, labels=True)
        if asks:
            sums = await self._run.moments(plan, self.arrays, min(self.examples, 4096))
        real = {name: found.view(np.int64) / 2.0 ** plan.bits(name) for name, found in sums.items()}  # type: ignore[arg-type]
        total = float(self.examples)
        if self._weights is not None:
            total = float(self._weights.sum())
        elif "weight" in real:
            total = float(real["weight"][0])
        elif shared_labels:
            counts = np.round(real["targets"].reshape(-1))
            by_class = self._by_class(counts)
            total, self.largest_weight = float(by_class @ counts), 1 / by_class.max()
            self.classes = tuple((by_class * self.largest_weight).tolist())
        if total <= 0:
            raise InputError("all weights of examples are 0: there is nothing to fit")
        return _Facts(total, self._eigenvalue(real, total))

    def _eigenvalue(self, real: dict[str, Array], total: float) -> float:
        """A bound of the largest eigenvalue: exact where the features are here; else the trace, times what weights of classes can do."""
        one = 1.0 if self._model.fit_intercept else 0.0
        if self._here is not None:
            weights = np.ones(self.examples) if self._weights is None else self._weights
            rows = np.c_[self._here, np.ones(len(self._here))] if self._model.fit_intercept else self._here
            heaviest = 1.0 / self.largest_weight if self.classes else 1.0
            if len(self.arrays) > 2 and self._weights is None:  # shared weights, at most 1
                return float(np.linalg.norm(rows, 2) ** 2 / total)
            return float(np.linalg.norm(rows * np.sqrt(weights)[:, None], 2) ** 2 / total * heaviest)
        if "squares" not in real:
            return 0.0
        heaviest = 1 / (self.largest_weight * total) if self._weights is not None or self.classes else 1 / total
        rounding = math.sqrt(self.examples * self.arrays[0].shape[1]) * 2.0**-FRACTION
        return float((real["squares"][0] + rounding) * heaviest + one)

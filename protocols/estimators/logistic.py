"""Logistic regression: what scikit-learn's settings mean on shares, and when a fit has converged."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt

from protocols.errors import InputError, PrecisionWarning
from protocols.estimators import data as forms
from protocols.estimators.data import is_number
from protocols.estimators.logistic_data import DataSettings, LogisticData
from protocols.estimators.run import Run, batch_within
from protocols.estimators.settings import AffineEstimator, Array, Classifier, Data, convergence_warning
from protocols.training.regression import Columns, Logistic
from protocols.training.regression.logistic import RESOLVED, WEIGHT_BITS

if TYPE_CHECKING:
    from protocols import keras_hook
    from protocols.owner.cluster import Cluster

LEAST_TOL = 1e-5
"""Gradients are not known more precisely."""

EVERY = 10
"""Iterations after which it is told whether the gradient is small."""

COARSE = 0.02
"""What a coefficient may be known to, over the largest: four units of its last digit, of which rounding moves it by one or two."""

FAR = 0.1
"""What the tolerance may leave of an error in coefficients, over the largest, without a warning."""

STRONGEST = 2.0**20
"""The largest strength of the penalty beside the sum of losses, 1 / C, that weights of 24 fractional bits can follow."""

LIGHT = 2.0**10
"""How many times that it may be where weights of examples are less than 1: coefficients are a few units of their last digit then."""


class LogisticRegression(Classifier, AffineEstimator):
    """The probability of each class is the softmax of x coef_^T + intercept_; with two classes the sigmoid for the second.

    It minimises what scikit-learn minimises, |coef_|^2 / 2 + C sum_i w_i loss_i (intercepts are not penalised), by full gradients with
    Nesterov's momentum, see `protocols.training.regression.logistic`. It has converged when no element of the gradient of the mean loss
    and its penalty is above `tol`, as in scikit-learn; if that does not happen within `max_iter` iterations a `ConvergenceWarning` says
    so. On breast_cancer, standardised, coefficients are within 4 % of the largest of those of the exact minimum with the default `tol`, and
    within 1 % with `tol=1e-5`: a gradient of `tol` leaves an error of up to `tol` times C times the number of examples. Where that may be
    more than 10 % of the largest, a `PrecisionWarning` says so (with features of others only if there is a penalty). The sigmoid itself
    is within 2^-10. Every fit begins at zero. Features that are given here are centred (by their weighted mean, if there is an intercept,
    which takes it back) and multiplied by powers of two, so that columns of any scale are fitted; the penalty follows, and so the optimum
    is the same. The gradient that is compared with `tol` is that by the columns as they are stored.

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
    among them), by which power of two each column that is given here is multiplied (1 if it spreads over 0.5 to 2), what follows from
    these sums, and how many iterations are made.

    Example:
        >>> model = await LogisticRegression(cluster, C=0.1, class_weight="balanced").fit(x, y)
        >>> model.n_iter_, model.score(x, y)
    """

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
        if not is_number(self.C) or not 1 / STRONGEST <= self.C:
            raise InputError(f"C={self.C!r}; a number of at least {1 / STRONGEST:.1e} is needed, infinity for no penalty")
        if self.l2 is not None and (not is_number(self.l2) or not 0 <= self.l2 < math.inf):
            raise InputError(f"l2={self.l2!r}; a number of at least 0 is needed")
        if self.l2 is not None and self.C != 1.0:
            raise InputError(f"C={self.C} and l2={self.l2} were given: one of them says how strong the penalty is")
        if not is_number(self.tol) or not LEAST_TOL <= self.tol <= 1:
            raise InputError(f"tol={self.tol!r}; from {LEAST_TOL:g}, below which gradients are not known on shares, to 1 is needed")
        if self.learning_rate is not None and (not is_number(self.learning_rate) or not 0 < self.learning_rate < math.inf):
            raise InputError(
                f"learning_rate={self.learning_rate!r}; None or a number above 0 is needed; gradients are full: a schedule has no use"
            )
        self._check_intercept()
        self._check_classes()

    async def _fit(self, cluster: Cluster, x: Data, y: Data, sample_weight: Data | None) -> Self:
        examples = forms.as_many(x, y, sample_weight)
        async with Run(cluster, type(self).__name__) as run:
            asked = DataSettings(self.fit_intercept, self.class_weight, self.learning_rate is None, self._strength)
            prepared = LogisticData(asked, run, examples)
            await prepared.store(x, y, sample_weight)
            plan = await self._plan(prepared)
            weights, made, converged = await run.minimised(plan, prepared.arrays, -(-examples // plan.batches))
        coef = weights[0].T.astype(np.float64) * prepared.x.factor
        intercept = weights[1].astype(np.float64) if self.fit_intercept else np.zeros(len(coef))
        if len(coef) > 1:  # the softmax is the same, and at the optimum these means are 0: what rounding has added to all classes
            coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
        self.classes_ = prepared.labels
        self.coef_, self.intercept_ = coef, intercept - coef @ prepared.x.center
        self.n_features_in_, self.n_iter_, self.converged_ = coef.shape[1], np.array([made], np.int32), converged
        self._tell_resolution(prepared.x.factor)
        if converged:
            self._tell_tolerance(prepared, plan, weights[0].T, weights[1] if self.fit_intercept else np.zeros(len(coef)))
        if not converged:
            warnings.warn(
                f"{type(self).__name__} has not converged in {made} iterations: an element of the gradient is above tol={self.tol:g}."
                " Raise max_iter, or standardise the features, or use a stronger penalty (a smaller C)",
                convergence_warning(),
                stacklevel=2,
            )
        return self

    def _tell_resolution(self, factor: Array) -> None:
        """Warn of coefficients that are a few units of the last digit: the penalty leaves little of them."""
        largest = np.abs(self.coef_).max()
        unit = RESOLVED * 2.0**-WEIGHT_BITS * float(factor.max())
        if 0 < largest < unit / COARSE:
            warnings.warn(
                f"the largest coefficient is {largest:.1e}, and coefficients are known to {unit:.1e}: use a weaker penalty (a larger C), or"
                " scale the features to about 1",
                PrecisionWarning,
                stacklevel=2,
            )

    def _tell_tolerance(self, prepared: LogisticData, plan: Logistic, coef: Array, intercept: Array) -> None:
        """Warn of coefficients that a gradient of `tol` may leave far from the minimum: beyond `FAR` of the largest of them.

        A gradient g leaves an error of H^-1 g, of which tol over the smallest curvature is the largest that one direction may have.
        """
        penalties = np.zeros(plan.inputs)
        for group in plan.groups:
            penalties[list(group.places)] = group.penalty
        largest, least = np.abs(coef).max(), prepared.least_curvature(coef, intercept, penalties)
        if least is None or not largest > 0 or self.tol <= FAR * largest * least:
            return
        remedy = f"use tol={LEAST_TOL:g} (and a larger max_iter)" if self.tol > LEAST_TOL else "a stronger penalty (a smaller C) helps"
        warnings.warn(
            f"a gradient of tol={self.tol:g} may leave coefficients off by {self.tol / (largest * least):.0%} of the largest, in columns as"
            f" they are stored: the loss is that flat in a direction. If single coefficients count, {remedy}",
            PrecisionWarning,
            stacklevel=2,
        )

    def _strength(self, total: float) -> float:
        """Return the strength of the penalty beside the sum of losses, for a sum of weights: 1 / C."""
        return 0.0 if self.penalty is None else self.l2 * total if self.l2 is not None else 1 / self.C

    async def _plan(self, prepared: LogisticData) -> Logistic:
        facts = await prepared.facts()
        total = facts.total  # of weights as the user has them
        penalty = self._strength(total) / total
        if penalty * total > STRONGEST:
            raise InputError(f"l2={self.l2}; at most {STRONGEST / total:g} is possible with these data")
        if penalty * total * prepared.largest_weight > STRONGEST * LIGHT:
            raise InputError(
                f"weights of examples are at most {1 / prepared.largest_weight:g} beside a penalty of {penalty * total:g}: coefficients"
                " would be below what fixed point holds; use larger weights, or a weaker penalty (a larger C)"
            )
        outputs = len(prepared.labels) if len(prepared.labels) > 2 else 1
        stored = total * prepared.largest_weight
        slope = 0.25 if outputs == 1 else 0.5

        def rate(curvature: float) -> float:
            return min(1 / max(curvature, 1e-12), stored) if self.learning_rate is None else float(self.learning_rate)

        groups = tuple(
            Columns(places, penalty * factor**2, rate(slope * facts.columns + penalty * factor**2)) for factor, places in prepared.alike()
        )
        if self.learning_rate is not None and float(self.learning_rate) > stored:
            raise InputError(f"learning_rate={self.learning_rate:g}; at most {stored:g}, the sum of weights, is possible")
        plan = Logistic(
            inputs=prepared.arrays[0].shape[1],
            outputs=outputs,
            intercept=self.fit_intercept,
            examples=prepared.examples,
            total=stored,
            penalty=groups[0].penalty,
            rate=groups[0].rate,
            tol=float(self.tol),
            every=EVERY,
            iterations=int(self.max_iter if self.epochs is None else self.epochs),
            weighted=len(prepared.arrays) > 2,
            classes=prepared.classes,
            groups=groups,
            bias_rate=rate(slope * facts.intercept),
        )
        batch = batch_within(plan) if self.batch_size is None else min(int(self.batch_size), prepared.examples)
        return msgspec.structs.replace(plan, batches=-(-prepared.examples // batch))

    def decision_function(self, x: npt.ArrayLike) -> Array:
        """Return x coef_^T + intercept_: (n, classes), or (n,) for the second of two classes."""
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
        likeliest = self.predict_log_proba(x).argmax(1)  # probabilities may round to the same number
        labels: Array = self.classes_[likeliest]
        return labels

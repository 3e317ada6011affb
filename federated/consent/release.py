"""What leaves an owner for a task, and what that costs in privacy."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any

from federated.errors import DataError, UpdateHeldBack
from federated.metrics.layout import LARGEST_STATES
from federated.tasks.update import Bound, LocalTraining

MOST_EPOCHS = 1_000_000


MOST_ROUNDS, MOST_STEPS = 1 << 31, 1 << 62


LONGEST_RUN = 200
"""What settings may be at most; `LONGEST_RUN` in characters."""


COARSEST = 0.25
"""How far rounding to multiples of a step may move the norm of an update, as a share of the clip norm."""


class Work(enum.Enum):
    """How an update comes about."""

    FIT = "training"
    GRADIENT = "the gradient of the loss"
    DPSGD = "training by DP-SGD"


@dataclass(frozen=True)
class TaskRelease:
    """What leaves an owner for a task, beside numbers of examples.

    Attributes:
        work: how the update comes about.
        training: its settings.
        bound: what is done to it then.
        metrics: whether the metrics of training leave with it, which have no noise.
    """

    work: Work
    training: LocalTraining
    bound: Bound | None
    metrics: bool

    @property
    def noisy(self) -> bool:
        """Whether there is noise of this owner's own in all that leaves it."""
        return not self.metrics and (self.work is Work.DPSGD or (self.bound is not None and self.bound.stddev > 0))

    def event(self, unit: str, *, examples: int, values: int) -> tuple[Any, int] | None:
        """Return what is released about neighbours that differ in a unit, as a `dp_accounting.DpEvent`, and how often; None: more than any.

        DP-SGD about an example: an event a step, a Gaussian sum over a Poisson sample. Noise of standard deviation s on an update about the
        owner, of whom any two data sets are neighbours: two updates of length S, each value rounded to multiples of a step t, are up to
        2 S + t sqrt(values) apart.

        Args:
            unit: of the ledger, "example" or "owner".
            examples: that the owner has; both neighbours have as many.
            values: in an update.
        """
        import dp_accounting  # noqa: PLC0415  takes a second

        from privacy.plan import event  # noqa: PLC0415  takes a second
        from privacy.sampling import PoissonSampler  # noqa: PLC0415  as the one above

        if not self.noisy:
            return None
        if self.work is Work.DPSGD and unit == "example":
            batch, steps = private_steps(self.training, examples)
            return event(PoissonSampler(examples, batch).probability, self.training.noise_multiplier), steps * self.training.epochs
        if self.work is not Work.DPSGD and self.bound is not None and unit == "owner":
            return dp_accounting.GaussianDpEvent(self.bound.stddev / (2 * reach(self.bound, values))), 1
        return None


def reach(bound: Bound, values: int) -> float:
    """How long an update of so many values can be that was clipped, and then rounded if there is noise."""
    return bound.clip_norm * (1 + 1e-9) + bound.step * math.sqrt(values) / 2  # the norm is itself that of float64


def private_steps(training: LocalTraining, examples: int) -> tuple[int, int]:
    """Return the expected batch of DP-SGD, and its steps in an epoch.

    Raises:
        DataError: there are too few examples for the rate.
    """
    batch = int(training.rate * examples)
    if batch < 1:
        raise DataError(f"this owner has fewer than 1 / {training.rate} examples: DP-SGD at that rate would leave batches empty")
    return batch, math.ceil(1 / training.rate)


def released(training: LocalTraining) -> TaskRelease:
    """Return what leaves an owner that trains so.

    Raises:
        UpdateHeldBack: a setting is out of its range, or they mean nothing that is known together.
    """
    _check_ranges(training)
    bound, private = training.bound, training.noise_multiplier > 0
    if training.gradient and private:
        raise _unknown("a gradient with noise_multiplier", "DP-SGD is training: ask for one of both")
    if training.method and (training.gradient or private or training.proximal):
        raise _unknown("a method with a gradient, DP-SGD or proximal", "it is a way to train of its own: leave them out")
    if training.gradient and (training.proximal or training.epochs != 1):
        raise _unknown("a gradient with proximal or epochs", "a gradient is of one point: leave them out")
    if private and bound is not None:
        raise _unknown("DP-SGD with a bound", "its updates have their noise: leave the bound out")
    if not private and (training.max_grad_norm or training.rate):
        raise _unknown("max_grad_norm or rate without noise_multiplier", "they are settings of DP-SGD: give all three")
    if bound is not None and bound.stddev and bound.counts:
        raise _unknown("counts with noise", "whether an update was clipped would be told without: leave counts out")
    if training.states and (private or bound is not None):
        raise _unknown("states of metrics with DP-SGD or a bound", "they have no noise: leave them out")
    work = Work.DPSGD if private else Work.GRADIENT if training.gradient else Work.FIT
    return TaskRelease(work, training, bound, metrics=not private and (bound is None or bound.counts))


def _unknown(what: str, instead: str) -> UpdateHeldBack:
    return UpdateHeldBack(f"this owner was asked for {what}: {instead}")


def _check_ranges(training: LocalTraining) -> None:
    one = training
    _check("epochs", 1 <= one.epochs <= MOST_EPOCHS, f"from 1 to {MOST_EPOCHS}")
    _check("batch_size", one.batch_size is None or one.batch_size >= 1, "at least 1, or None")
    _check("learning_rate", one.learning_rate is None or 0.0 <= one.learning_rate < math.inf, "at least 0 and finite, or None")
    _check("seed", one.seed >= 0, "at least 0")
    for name in ("proximal", "noise_multiplier", "max_grad_norm"):
        _check(name, 0.0 <= getattr(one, name) < math.inf, "at least 0 and finite")
    _check("rate", 0.0 <= one.rate <= 1.0, "in [0, 1]")
    _check("states", all(size >= 0 for size in one.states) and sum(one.states) <= LARGEST_STATES, f"0 to {LARGEST_STATES} values in all")
    _check("rounds", 0 <= one.rounds < MOST_ROUNDS, f"from 0 to {MOST_ROUNDS - 1}")
    _check("begun", 0 <= one.begun < MOST_STEPS, f"from 0 to {MOST_STEPS - 1}")
    if one.noise_multiplier:
        _check("max_grad_norm", one.max_grad_norm > 0.0, "above 0 with noise_multiplier")
        _check("rate", one.rate > 0.0, "above 0 with noise_multiplier")
    if one.bound is not None:
        _check("clip_norm", 0.0 < one.bound.clip_norm < math.inf, "above 0 and finite")
        _check("stddev", 0.0 <= one.bound.stddev < math.inf, "at least 0 and finite")
        step, stddev = one.bound.step, one.bound.stddev
        fine = math.frexp(step)[0] == 0.5 and step <= stddev if stddev else step == 0.0
        _check("step", fine, "a power of two, not above stddev; 0 without noise")


def _check(name: str, holds: bool, expected: str) -> None:
    if not holds:
        raise UpdateHeldBack(f"this owner was asked to train with a {name} that is out of range: it has to be {expected}")

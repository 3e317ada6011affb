"""What the noise of a training was calibrated for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from privacy.errors import BudgetSpent, SamplingRefused
from privacy.sampling import PoissonSampler


@dataclass(frozen=True)
class SamplingPlan:
    """So many steps on batches of so many of so many examples.

    Args:
        examples: N.
        batch_size: the expected size of a batch.
        steps: in all.
    """

    examples: int
    batch_size: int
    steps: int

    def check(self, sampler: PoissonSampler, done: int, more: int) -> None:
        """Check that `more` steps with `sampler`, after `done`, are what was planned.

        Raises:
            SamplingRefused: another number of examples, or another batch size.
            BudgetSpent: more steps than were planned.
        """
        if (sampler.examples, sampler.batch_size) != (self.examples, self.batch_size):
            raise SamplingRefused(
                f"{sampler.examples} examples in batches of {sampler.batch_size} were given: the noise was calibrated for {self.examples} "
                f"in batches of {self.batch_size}"
            )
        if done + more > self.steps:
            raise BudgetSpent(f"{more} steps after {done} were asked for: the noise was calibrated for {self.steps} in all")


def event(probability: float, noise_multiplier: float) -> Any:
    """Return what one step releases, as a `dp_accounting.DpEvent`: a Gaussian sum over a Poisson sample."""
    import dp_accounting  # noqa: PLC0415  takes a second

    gaussian = dp_accounting.GaussianDpEvent(noise_multiplier)
    return gaussian if probability == 1.0 else dp_accounting.PoissonSampledDpEvent(probability, gaussian)

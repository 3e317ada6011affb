"""Optimizers that divide by the size of gradients: what they have in common, Adam and what came of it.

All weights are one long row, since the same is done to each element, whichever weight it belongs to. Gradients are real numbers with
`moments.MEAN` fractional bits, below 2^`moments.GRADIENT`, which is watched in each step (`window.py`). A quotient, which the rate
multiplies, is below 2^`QUOTIENTS`: of the means of squares this is proved by the settings, see `bound`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

from protocols.errors import ModelError
from protocols.mpc.circuit import Builder
from protocols.mpc.operations.sums import Combine
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.moments import QUOTIENT, divided, larger, moved, reduced, squared
from protocols.training.networks.optimizers.rates import Rated
from protocols.training.networks.window import Watched

ADAM_BITS = 14
"""Significant bits of the largest rate of Adam, whose corrections change from step to step."""

QUOTIENTS = 7
"""A quotient is below 2^QUOTIENTS: it has `QUOTIENT` fractional bits, a rate has `ADAM_BITS` and is rounded up to twice of that."""

LEAST_EPSILON = 2.0**-36
"""Below this the epsilon under a root is a few digits of fixed point."""

Row = Mapping[str, int]
"""States by kind, of all weights in one row."""


class Adaptive(Rated, frozen=True):
    """W <- W - rate Q, with a quotient Q."""

    def __post_init__(self) -> None:
        """Refuse settings of which no quotient can be had.

        Raises:
            ModelError: quotients can be too large, or are none.
        """
        try:
            fits = 0 < self.bound < 2**QUOTIENTS or self.bound == math.inf
        except (ValueError, ArithmeticError):
            fits = False
        if not fits or self.least < LEAST_EPSILON:
            raise ModelError(
                f"{type(self).__name__} cannot be trained on shares with these settings: gradients would be divided by what is too small in"
                f" fixed point; leave betas and rho between 0 and 0.999, each beta_1 below beta_2, and epsilon at least {LEAST_EPSILON:.1e}"
            )

    @property
    def exact(self) -> bool:
        """They need gradients as they are."""
        return True

    @property
    def significant(self) -> int:
        """As of Adam."""
        return ADAM_BITS

    @property
    def scaleless(self) -> bool:
        """Whether a gradient that is so many times as large moves weights by as much."""
        return False

    @property
    def least(self) -> float:
        """What is added to squares, at least; 1 where nothing has to be."""
        return 1.0

    @property
    @abstractmethod
    def bound(self) -> float:
        """What a quotient is below, by the settings; infinite if it is watched instead."""

    @abstractmethod
    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return Q, with `QUOTIENT` fractional bits, and the new states.

        Args:
            build: where operations go.
            gradient: affine.
            states: by kind.
            number: of updates before.
        """

    def change(self, build: Builder, quotient: int, states: Row, factor: tuple[int, int]) -> tuple[int, dict[str, int]]:
        """Return what is added to weights, with `FRACTION` fractional bits, and new states; `factor` is the rate as q 2^-s. Rounds: 1."""
        q, shift = factor
        return reduced(build, build(Combine((quotient,), (-q,))), shift + QUOTIENT - FRACTION), {}

    def watched(self, states: Mapping[str, list[int]]) -> list[list[Watched]]:
        """Return what of the states, by kind, must be watched: lists of what goes into one sum."""
        return []


class BiasCorrected(Adaptive, frozen=True):
    """What divides a mean of gradients by the size of those before: both begin at 0, for which the rate makes up.

    Attributes:
        beta_1: of each mean in the next, from 0 up to 1.
        beta_2: of what divides in the next, from 0 up to 1.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999

    @property
    def scaleless(self) -> bool:
        """It divides."""
        return True

    @property
    def corrects(self) -> bool:
        """By how much is the `correction` of each kind."""
        return True


class Adam(BiasCorrected, frozen=True):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1) as in Keras; AMSGrad (Reddi et al., 2018, arXiv:1904.09237).

    M <- M + (1 - beta_1)(dW - M), V <- V + (1 - beta_2)(dW^2 - V), W <- W - rate sqrt(1 - beta_2^t) / (1 - beta_1^t) M / sqrt(V), for
    AMSGrad with the largest V so far. `moments.py` has the ranges; where sqrt(V) is below 10^-6, about that takes its place, as epsilon
    does in Keras. But gradients by outputs are rounded to 2^-`FRACTION`, at random: where those by a weight are not well above that, M and
    V are made of rounding, and their quotient is a step as large as any other in a random direction, or 0. Rounds: 24, 27 for AMSGrad.

    Attributes:
        beta_1: of each M in the next; its square is below `beta_2`.
        beta_2: of each V in the next.
        amsgrad: whether the largest V divides.
    """

    amsgrad: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """M, V, and the largest V."""
        return ("mean", "square", "largest square") if self.amsgrad else ("mean", "square")

    def correction(self, number: int) -> float:
        """Return what makes up for moments that begin at 0."""
        return math.sqrt(1 - self.beta_2 ** (number + 1)) / (1 - self.beta_1 ** (number + 1))

    @property
    def bound(self) -> float:
        """That of M / sqrt(V)."""
        return _mean_over_root(self)

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return M / sqrt(V)."""
        mean = moved(build, states["mean"], gradient, 1 - self.beta_1)
        square = moved(build, states["square"], squared(build, gradient), 1 - self.beta_2)
        new = {"mean": mean, "square": square}
        if self.amsgrad:
            new["largest square"] = square = larger(build, square, states["largest square"])
        return divided(build, mean, square), new


class Nadam(BiasCorrected, frozen=True):
    """Adam with Nesterov's momentum (Dozat, 2016) as in Keras: the mean of the next step takes the place of that of this one.

    With u_t = beta_1 (1 - 0.96^t / 2) and U_t = u_1 ... u_t: Q = (u_{t+1} / (1 - U_{t+1}) M + (1 - u_t) / (1 - U_t) dW) / sqrt(V), and the
    rate is corrected by sqrt(1 - beta_2^t). Rounds: 25.

    Attributes:
        beta_1: as of `Adam`.
        beta_2: as of `Adam`.
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """M and V."""
        return ("mean", "square")

    def correction(self, number: int) -> float:
        """Return what makes up for squares that begin at 0."""
        return math.sqrt(1 - self.beta_2 ** (number + 1))

    @property
    def bound(self) -> float:
        """That of M / sqrt(V) times the largest factor of M, and of the last gradient alone times that of dW."""
        factors = [self._factors(number) for number in range(60)]
        return max(a for a, _ in factors) * _mean_over_root(self) + max(b for _, b in factors) / math.sqrt(1 - self.beta_2)

    def _factors(self, number: int) -> tuple[float, float]:
        """Of M and dW in a step."""
        each = [self.beta_1 * (1 - 0.5 * 0.96**t) for t in range(1, min(number, 2000) + 3)]
        now = math.prod(each[:-1])
        return each[-1] / (1 - now * each[-1]), (1 - each[-2]) / (1 - now)

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return the mean to come over the root; its factors have `FRACTION` fractional bits."""
        mean = moved(build, states["mean"], gradient, 1 - self.beta_1)
        square = moved(build, states["square"], squared(build, gradient), 1 - self.beta_2)
        factors = tuple(round(one * 2**FRACTION) for one in self._factors(number))
        ahead = reduced(build, build(Combine((mean, gradient), factors)), FRACTION)
        return divided(build, ahead, square), {"mean": mean, "square": square}


def _mean_over_root(moments: Adam | Nadam) -> float:
    """Bound M / sqrt(V), by Cauchy and Schwarz: (1 - beta_1) sum beta_1^k |g_k| over the root of (1 - beta_2) sum beta_2^k g_k^2."""
    return (1 - moments.beta_1) / math.sqrt((1 - moments.beta_2) * (1 - moments.beta_1**2 / moments.beta_2))


class Adamax(BiasCorrected, frozen=True):
    """Adam with the largest gradient in place of the root (Kingma and Ba, 2015, algorithm 2) as in Keras.

    U <- max(beta_2 U, |dW|), W <- W - rate / (1 - beta_1^t) M / U. Kept is U^2. Rounds: 28.

    Attributes:
        beta_1: as of `Adam`, below `beta_2`.
        beta_2: of each U in the next.
    """

    @property
    def kinds(self) -> tuple[str, ...]:
        """M and U^2."""
        return ("mean", "largest square")

    def correction(self, number: int) -> float:
        """Return what makes up for means that begin at 0."""
        return 1 / (1 - self.beta_1 ** (number + 1))

    @property
    def bound(self) -> float:
        """(1 - beta_1) sum beta_1^k |g_k| where no |g_k| is above U / beta_2^k; the correction is 1 / (1 - beta_1) at most."""
        return 1 / (1 - self.beta_1 / self.beta_2)

    def quotient(self, build: Builder, gradient: int, states: Row, number: int) -> tuple[int, dict[str, int]]:
        """Return M / U."""
        mean = moved(build, states["mean"], gradient, 1 - self.beta_1)
        faded = moved(build, states["largest square"], build(Combine((states["largest square"],), (0,))), 1 - self.beta_2**2)
        largest = larger(build, faded, squared(build, gradient))
        return divided(build, mean, largest), {"mean": mean, "largest square": largest}

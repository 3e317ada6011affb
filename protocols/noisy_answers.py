"""Noisy answers: what an owner asks for, and what its clients are told. The noise itself is `program.AddNoise`.

The mechanism: the n outputs of the model are clipped to [-B, B] inside the computation, then each server adds to its share independent
discrete Gaussian noise of standard deviation sigma = z 2 B sqrt(n). The client gets the noisy outputs, or the number of the largest noisy
output (report noisy max: post-processing of the former, same accounting). Two vectors in [-B, B]^n are at most 2 B sqrt(n) apart, so
each answer is a Gaussian mechanism of noise multiplier z, whatever the two models were that gave the two vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec

MOST_ANSWERS: Final = 1 << 32


@dataclass(frozen=True, kw_only=True)
class NoisyAnswers:
    """Differentially private answers: how much noise, and how much one client may learn.

    **Protected**: the training data behind the weights, from each client. Neighbours are any two training sets: whatever another one (any
    change of any number of records), hence other weights, all answers that one client ever gets from this shared model have nearly the same
    distribution: (epsilon, delta)-differential privacy with epsilon at most `max_epsilon`, by adaptive composition of Gaussian mechanisms
    in Rényi divergence (Mironov, 2017, arXiv:1702.07476), which holds for the discrete Gaussian, too (Canonne, Kamath and Steinke, 2020,
    arXiv:2004.00010, Theorem 4). Each example of a batch is one answer. The sampler is within 2^-48 of the law for each output of each
    answer (`mpc/parties/discrete_gaussian.py`), which comes on top of delta.

    Each of the servers adds the full noise. A client alone faces both, of variance 2 sigma^2; epsilon is computed from one of them, so that
    it also holds for a client that one server helps.

    This protects the whole training set at once, and so it costs a lot: with 10 classes at the ends of [-B, B] a label that is right nine
    times in ten needs z = 0.075, and epsilon is 150 an answer. If it is enough to protect single records, an ensemble is what helps: the
    mean of m networks trained on disjoint parts of the records, each with outputs in [-B, B] (a ReLU with max_value ends it, say), moves by
    at most 2 B sqrt(n) / m when one record is another (Dwork and Feldman, 2018, arXiv:1803.10266; Papernot et al., 2017, arXiv:1610.05755).
    Say so with `sensitivity`; **neighbours are then training sets that differ in one record, replaced by another**, and the owner's word is
    taken for the bound. 100 networks that agree and z = 7 give 120 labels, 93 % of them right, for an epsilon of 8.

    **Not protected**: the program (architecture, windows, scales: the same for all clients, and public), and the number of answers. Clients
    that join forces add up their epsilons; the same weights shared a second time begin a budget of their own. Clients may send what they
    like: the servers cut inputs into the input range (unless the model is shared with `clients="semi-honest"`), and give nothing if they
    were sent different things. Servers and provider are semi-honest, as everywhere here.

    Attributes:
        clip: B > 0, in units of the outputs. Outputs beyond are cut: choose what most of them stay below.
        noise_multiplier: z > 0, sigma in units of the sensitivity, which is 2 B sqrt(n) or as given.
        max_epsilon: > 0, the most that one client may cost.
        delta: in (0, 1); well below 1 / number of training records.
        sensitivity: > 0, how far (L2, in units of the outputs) another record can move the vector of outputs of any input; None: nothing is
            assumed, 2 B sqrt(n). It holds for whatever ring elements a client sends, since they are cut into the input range, where the
            windows of all layers are proved; `share` refuses it with `clients="semi-honest"`, and where a window is only calibrated.
            Roundings inside the model are not in it: leave some room.

    Raises:
        ValueError: a number is out of its range, or not even one answer costs as little as `max_epsilon`.

    Example:
        >>> NoisyAnswers(clip=4.0, noise_multiplier=2.0, max_epsilon=8.0).answers
        9
    """

    clip: float
    noise_multiplier: float
    max_epsilon: float
    delta: float = 1e-5
    sensitivity: float | None = None

    def __post_init__(self) -> None:
        for name in ("clip", "noise_multiplier", "max_epsilon", "sensitivity"):
            value = getattr(self, name)
            if not (0 < value < math.inf if value is not None else name == "sensitivity"):
                raise ValueError(f"{name}={value}; a positive, finite number is needed")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta={self.delta}; a number between 0 and 1 is needed")
        if self.epsilon(1) > self.max_epsilon:
            raise ValueError(
                f"one answer with noise_multiplier={self.noise_multiplier:g} costs epsilon={self.epsilon(1):.3g} at delta={self.delta:g}, "
                f"more than max_epsilon={self.max_epsilon:g}; give a larger noise_multiplier or max_epsilon"
            )

    def epsilon(self, answers: int) -> float:
        """Return what so many answers cost a client's budget, rounded up by the accountant: never less than the truth."""
        from dp_accounting import rdp  # noqa: PLC0415  takes a second

        return float(rdp.RdpAccountant(_orders()).compose(self.event(answers)).get_epsilon(self.delta))

    def event(self, answers: int | None = None) -> Any:
        """So many answers to one client as a `dp_accounting.DpEvent`, by default all that it can get: for a ledger of the training data.

        Example:
            >>> ledger.spend(noisy.event(), purpose="answers to one client")
        """
        import dp_accounting  # noqa: PLC0415  takes a second

        count = self.answers if answers is None else answers
        return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(self.noise_multiplier), count)

    @property
    def answers(self) -> int:
        """How many answers one client can get within `max_epsilon`, at most 2^32."""
        enough, too_many = 1, 2
        while too_many <= MOST_ANSWERS and self.epsilon(too_many) <= self.max_epsilon:
            enough, too_many = too_many, 2 * too_many
        while too_many - enough > 1 and enough < MOST_ANSWERS:
            middle = (enough + too_many) // 2
            enough, too_many = (middle, too_many) if self.epsilon(middle) <= self.max_epsilon else (enough, middle)
        return enough

    def steps_apart(self, outputs: int, clip: int, scale: float) -> float:
        """Return the sensitivity in steps of the fixed point: how far apart (L2) the clipped outputs of the two models can be.

        2 B' sqrt(n) at most; with `sensitivity` less, and sqrt(n) for the rounding of each output before the clip.

        Args:
            outputs: n.
            clip: B' in steps.
            scale: of a step.
        """
        most = 2 * clip * math.sqrt(outputs)
        return most if self.sensitivity is None else min(most, self.sensitivity / scale + math.sqrt(outputs))

    def guarantee(self, sigma: float) -> Guarantee:
        """Return what everybody is told about a model whose servers each add noise of this sigma, in units of the outputs."""
        answers = self.answers
        return Guarantee(self.clip, sigma, answers, self.epsilon(answers), self.delta)


def _orders() -> list[Any]:
    """Of the Rényi divergence: the best one is 1 + sqrt(2 ln(1 / delta) / answers) z or so, wherever that is."""
    return [1 + 2 ** (i / 8) for i in range(-40, 161)]


class Guarantee(msgspec.Struct, frozen=True):
    """What is public about noisy answers.

    Attributes:
        clip: outputs are cut to [-clip, clip].
        sigma: the standard deviation of the noise of each of the two servers, in units of the outputs; theirs together is sqrt(2) sigma.
        answers: how many answers one client gets in all.
        epsilon: what all of these cost.
        delta: the same for all.
    """

    clip: float
    sigma: float
    answers: int
    epsilon: float
    delta: float

"""What came of a round."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.observing.log_lines import event
from actors.observing.notes import Fact
from actors.observing.spans import past_span
from federated.rounds.rounds import RoundBook, Standing

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One round, as it ended.

    Attributes:
        round: from 1 on.
        sampled: names of the owners that were asked.
        reported: those whose update counts.
        late: those that did not answer before the deadline.
        dropped: name -> why it gave no update.
        rejected: name -> why its update does not count.
        faults: name -> what went wrong with an owner whose update counts all the same: its evaluation has failed and is not in the
            metrics, or it has altered what opens a sum.
        metrics: name -> value over all data of the owners together, computed from the states of their metrics; a metric whose states do
            not add is a mean over owners, weighted by examples, and its name ends with `_mean_of_owners`. Names as Keras has them:
            `loss` and others are from local training, `val_loss` and others of the new global model on the owners' evaluation data,
            `test_loss` and others on the aggregator's.
        examples: that the reported updates were trained on.
        seconds: that the round took.
        bytes: of weights and states of metrics, sent and received, for training and evaluation; what a connection adds is not counted.
        epsilon: spent so far, with differential privacy; None without.
        failure: why the global model did not change; None if it did.
        evaluators: the owners that reported and have evaluation data.
        evaluated: those of them whose evaluation counts. Why the others' do not is in `faults`.
        changes: what is another than in the rounds before, when a run was resumed with other owners, aggregation or quorum.

    Example:
        >>> print(outcome)  # doctest: +SKIP
        round 3: 19 of 20 owners, loss 0.412, accuracy 0.881, 1.9 s, 3.1 MB
    """

    round: int
    sampled: tuple[str, ...]
    reported: tuple[str, ...]
    late: tuple[str, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    examples: int = 0
    seconds: float = 0.0
    bytes: int = 0
    epsilon: float | None = None
    failure: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    evaluators: tuple[str, ...] = ()
    evaluated: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.failure is not None:
            middle = [f"failed, {self.failure}"]
        else:
            shown = [f"{name} {value:.3f}" for name, value in self.metrics.items()]
            middle = [
                f"{len(self.reported)} of {len(self.sampled)} owners",
                *([f"{len(self.faults)} at fault"] if self.faults else []),
                *([f"{len(self.evaluated)} of {len(self.evaluators)} evaluated"] if self.evaluated != self.evaluators else []),
                *shown,
            ]
        middle += [f"resumed with other {change}" for change in self.changes]
        if self.epsilon is not None:
            middle.append(f"epsilon {self.epsilon:.2f}")
        return f"round {self.round}: {', '.join([*middle, f'{self.seconds:.1f} s', f'{self.bytes / 1e6:.1f} MB'])}"


HOPELESS = ("DataError: ", "ModelRefused: ", "OwnerFailed: ")
"""Reasons that are in an owner's data or its model, and not in its connection: another round will not be better."""


def alike(outcomes: Sequence[Outcome]) -> str | None:
    """Return the reason for which nobody gave anything in these rounds, if all had one and the same, and will have it again."""
    reasons: set[str] = set()
    for outcome in outcomes:
        given = {**outcome.dropped, **outcome.rejected}
        if outcome.failure is None or outcome.reported or outcome.late or not given:
            return None
        reasons.update(given.values())
    (reason, *others) = reasons or {""}
    return None if others or not reason.startswith(HOPELESS) else reason


def concluded(
    book: RoundBook,
    metrics: Mapping[str, float],
    *,
    examples: int,
    seconds: float,
    size: int,
    epsilon: float | None,
    failure: str | None,
    evaluators: tuple[str, ...] = (),
    evaluated: tuple[str, ...] = (),
    changes: tuple[str, ...] = (),
) -> Outcome:
    """Conclude a round from its book."""
    having, reasons = book.having, book.reasons
    first = next((owner for owner in book.standing if owner in reasons), None)
    if failure is not None and failure == book.failure and first is not None:
        failure = f"{failure}; the first: {first}: {reasons[first]}"
    ended = Outcome(
        round=book.number,
        sampled=tuple(book.standing),
        reported=tuple(having(Standing.REPORTED)),
        late=tuple(having(Standing.LATE)),
        dropped={name: reasons[name] for name in having(Standing.DROPPED)},
        rejected={name: reasons[name] for name in having(Standing.REJECTED)},
        metrics=metrics,
        examples=examples,
        seconds=seconds,
        bytes=size,
        epsilon=epsilon,
        failure=failure,
        faults=dict(book.faults),
        evaluators=evaluators,
        evaluated=evaluated,
        changes=changes,
    )
    _tell(ended)
    return ended


def _tell(ended: Outcome) -> None:
    """Log what came of a round, and trace it."""
    facts: dict[str, Fact] = {"round": ended.round, "asked": len(ended.sampled), "reported": len(ended.reported), "bytes": ended.bytes}
    if ended.epsilon is not None:
        facts["epsilon"] = ended.epsilon
    if ended.failure is not None:
        facts["failure"] = ended.failure
    past_span("round", ended.seconds, **facts)
    level = logging.INFO if ended.failure is None else logging.WARNING
    event(log, level, "round", late=len(ended.late), seconds=round(ended.seconds, 6), **facts)
    for what, owners in (("owner dropped", ended.dropped), ("owner rejected", ended.rejected)):
        for owner, why in owners.items():
            event(log, logging.WARNING, what, round=ended.round, owner=owner, reason=why)

"""One round as a state machine: who was asked, who answered, and when it is over. It knows no network, no clock and no Keras.

    WAITING --report--> REPORTED | REJECTED      WAITING --drop--> DROPPED      WAITING --deadline--> LATE

A round is over when nobody is waited for, or enough have reported, or too many are lost for the quorum. It has failed if fewer than
the quorum have reported then.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence

import numpy as np

from federated.errors import SettingError, UpdateRejected
from federated.metrics.layout import StateLayout
from federated.tasks.update import Array, Update, Weights

MOST_EXAMPLES = 1 << 48
"""Of one owner: sums of many of them stay exact."""
LARGEST = 1e100
"""Values above this are refused, so that no sum can overflow in float64."""
LARGEST_VALUE = 1e30
"""Of a metric that is averaged, so that means of many are finite."""


class Standing(enum.Enum):
    """Where an owner stands in a round."""

    WAITING = "waiting"
    REPORTED = "reported"
    REJECTED = "rejected"
    DROPPED = "dropped"
    LATE = "late"


class RoundBook:
    """The book-keeping of one round.

    Args:
        number: from 1 on.
        sampled: names of the owners that are asked.
        quorum: how many have to report; 0 if nobody is asked.
        weights: the global ones, whose shapes and dtypes updates have to have.
        deadline: on the clock that the `now` of the other calls is from; infinite for none.
        enough: the round is over when so many have reported; None: all are waited for.
        layout: of the states of metrics that owners were asked for; none by default.

    Attributes:
        standing: name -> where the owner stands.
        reasons: name -> why it was dropped or rejected.
        refused: one line for each update that was refused: owner and reason. A second update of an owner is in here only.
        faults: name -> what went wrong with an owner beside its update, which may count.

    Raises:
        SettingError: an owner is named twice, or nobody is asked and somebody has to report.
    """

    def __init__(
        self,
        number: int,
        sampled: Sequence[str],
        *,
        quorum: int,
        weights: Weights,
        deadline: float = math.inf,
        enough: int | None = None,
        layout: StateLayout | None = None,
    ) -> None:
        if (quorum and not sampled) or len(set(sampled)) < len(sampled):
            raise SettingError(f"round {number} asks {list(sampled)}: at least one owner is needed, and each once")
        self.number, self.quorum, self.deadline = number, quorum, deadline
        self._enough = len(sampled) if enough is None else enough
        self.standing = dict.fromkeys(sampled, Standing.WAITING)
        self._count = dict.fromkeys(Standing, 0) | {Standing.WAITING: len(sampled)}
        self.reasons: dict[str, str] = {}
        self.refused: list[str] = []
        self.faults: dict[str, str] = {}
        self._failure: str | None = None
        self._forms = [(array.shape, array.dtype) for array in weights]
        self.layout = layout or StateLayout()

    # What happens.

    def report(self, owner: str, update: Update, *, now: float, of: int | None = None) -> None:
        """Take in an update; when this returns, it counts.

        Args:
            owner: who sent it.
            update: what it sent.
            now: the time.
            of: the round in which the owner was asked, which the update has to name; None: this one.

        Raises:
            UpdateRejected: it does not count, and why. The round goes on.
        """
        self.tick(now)
        standing = self.standing.get(owner)
        if standing is not Standing.WAITING:
            raise self._refuse(owner, _out_of_turn(self.number, standing))
        fault = self._fault(update, self.number if of is None else of)
        if fault is not None:
            self.reject(owner, fault)
            raise UpdateRejected(f"{owner}: {fault}")
        self._becomes(owner, Standing.REPORTED)

    def count(self, owner: str) -> None:
        """Count an update that nobody sees; when this returns, it counts.

        Raises:
            UpdateRejected: it does not count, and why. The round goes on.
        """
        standing = self.standing.get(owner)
        if standing is not Standing.WAITING:
            raise self._refuse(owner, _out_of_turn(self.number, standing))
        self._becomes(owner, Standing.REPORTED)

    def reject(self, owner: str, reason: str) -> None:
        """Reject what an awaited owner sent. Do nothing if it is not awaited (any more)."""
        if self.standing.get(owner) is Standing.WAITING:
            self._leave(owner, Standing.REJECTED, reason)
            self._refuse(owner, reason)

    def drop(self, owner: str, reason: str) -> None:
        """Drop an owner that will not answer. Do nothing if it is not awaited (any more)."""
        if self.standing.get(owner) is Standing.WAITING:
            self._leave(owner, Standing.DROPPED, reason)

    def late(self, owner: str) -> None:
        """Note that an owner will not answer in time. Do nothing if it is not awaited (any more)."""
        if self.standing.get(owner) is Standing.WAITING:
            self._becomes(owner, Standing.LATE)

    def fault(self, owner: str, reason: str) -> None:
        """Something went wrong with an owner that changes nothing about its update."""
        self.faults.setdefault(owner, reason)

    def tick(self, now: float) -> None:
        """Time has passed: at the deadline, all that are awaited are late."""
        if now >= self.deadline:
            for owner in self.having(Standing.WAITING):
                self.late(owner)

    def close(self) -> None:
        """End the round: who is still awaited is late."""
        if self._enough < len(self.standing) and self.over:
            for owner in self.having(Standing.WAITING):
                self.late(owner)

    @property
    def enough(self) -> int | None:
        """With how many updates the round is over; None: when all have answered."""
        return self._enough if self._enough < len(self.standing) else None

    # Where it stands.

    def having(self, standing: Standing) -> list[str]:
        """List the owners that stand so, in the order in which they were sampled."""
        return [owner for owner, one in self.standing.items() if one is standing]

    def awaits(self, owner: str) -> bool:
        """Whether nothing has become of an owner yet."""
        return self.standing.get(owner) is Standing.WAITING

    @property
    def waiting(self) -> int:
        """How many are awaited."""
        return self._count[Standing.WAITING]

    @property
    def summary(self) -> str:
        """Like `12 of 20 owners, 1 dropped`."""
        lost = [f"{self._count[one]} {one.value}" for one in list(Standing)[2:] if self._count[one]]
        return ", ".join([f"{self._count[Standing.REPORTED]} of {len(self.standing)} owners", *lost])

    @property
    def over(self) -> bool:
        """Whether nothing that may come can change the outcome."""
        waiting, reported = self._count[Standing.WAITING], self._count[Standing.REPORTED]
        return waiting == 0 or reported + waiting < self.quorum or reported >= self._enough

    def fail(self, reason: str) -> None:
        """Fail the round, whoever has reported."""
        self._failure = reason

    @property
    def failure(self) -> str | None:
        """Why the round failed; None if the quorum has reported."""
        if self._failure is not None:
            return self._failure
        reported = self._count[Standing.REPORTED]
        if reported >= self.quorum:
            return None
        lost = [f"{self._count[one]} {one.value}" for one in list(Standing)[2:] if self._count[one]]
        return f"{reported} of {len(self.standing)} owners reported and {self.quorum} are needed ({', '.join(lost) or 'so far'})"

    def _fault(self, update: Update, number: int) -> str | None:
        if update.round != number:
            return f"its update is of round {update.round}, and it was asked in round {number}"
        if not isinstance(update.examples, int) or update.examples > MOST_EXAMPLES:
            return f"it says that it trained on more than {MOST_EXAMPLES} examples, or on no whole number of them"
        if update.examples < 1:
            return f"it says that it trained on {update.examples} examples; at least 1 is needed"
        forms = [(array.shape, array.dtype) for array in update.delta]
        if forms != self._forms:
            return f"its arrays are {_shown(forms)}; expected {_shown(self._forms)}"
        for i, array in enumerate(update.delta):
            if not _moderate(array):
                return f"array {i} of its update is not finite, or larger than {LARGEST:g}"
        return fault_of_metrics(update.metrics, update.states, self.layout, update.examples)

    def _leave(self, owner: str, standing: Standing, reason: str) -> None:
        self._becomes(owner, standing)
        self.reasons[owner] = reason

    def _becomes(self, owner: str, standing: Standing) -> None:
        self._count[self.standing[owner]] -= 1
        self._count[standing] += 1
        self.standing[owner] = standing

    def _refuse(self, owner: str, reason: str) -> UpdateRejected:
        self.refused.append(f"{owner}: {reason}")
        return UpdateRejected(self.refused[-1])


def fault_of_metrics(metrics: Mapping[str, float], states: Array, layout: StateLayout, examples: int) -> str | None:
    """Say what is wrong with the metrics that an owner tells of so many examples; None if nothing is."""
    fault = layout.fault_of_names(metrics, states=states.size > 0)
    if fault is not None:
        return fault
    for name, value in metrics.items():
        if not abs(value) <= LARGEST_VALUE:
            return f"its {name} is not finite" if not math.isfinite(value) else f"its {name} is beyond {LARGEST_VALUE:g}"
    return layout.fault(states, examples)


def _out_of_turn(number: int, standing: Standing | None) -> str:
    match standing:
        case None:
            return f"it was not asked in round {number}"
        case Standing.LATE:
            return f"its update came after the deadline of round {number}"
        case _:
            return f"it has {standing.value} in round {number} already: one update an owner counts"


def _moderate(array: Array) -> bool:
    """Whether all values are finite and of a size that can be summed; NaN compares false."""
    return array.size == 0 or -LARGEST <= float(array.min()) <= float(array.max()) <= LARGEST


def _shown(forms: list[tuple[tuple[int, ...], np.dtype[np.generic]]]) -> str:
    return ", ".join(f"{dtype} {shape}" for shape, dtype in forms[:8]) + (f" and {len(forms) - 8} more" if len(forms) > 8 else "")

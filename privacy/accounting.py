"""How much has been spent: `dp-accounting` events, composed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from privacy.errors import SettingError


@dataclass(frozen=True)
class Held:
    """Releases that are paid for, to be made one by one.

    Attributes:
        use: takes one, before it is made.
    """

    use: Callable[[Any], None]


class Accountant:
    """Composes what was released and bounds its epsilon.

    Args:
        method: "pld" (tighter) or "rdp" (faster).
    """

    def __init__(self, method: str = "pld") -> None:
        _fresh(method)
        self.method = method
        self._events: list[tuple[Any, int]] = []

    @property
    def events(self) -> tuple[tuple[Any, int], ...]:
        """What was recorded, in order, equal neighbours together."""
        return tuple(self._events)

    def record(self, event: Any, count: int = 1) -> None:
        """Add `count` releases of `event`."""
        if self._events and self._events[-1][0] == event:
            event, before = self._events.pop()
            count += before
        self._events.append((event, count))

    @contextlib.contextmanager
    def holding(self, planned: Iterable[Any]) -> Iterator[Held]:
        """For a block that makes planned releases one by one: each is recorded as it is used. See `Ledger.holding`."""
        yield Held(self.record)

    def epsilon(self, delta: float) -> float:
        """An upper bound of epsilon at `delta`."""
        composed = _fresh(self.method)
        for event, count in self._events:
            composed.compose(event, count)
        return float(composed.get_epsilon(delta))


def calibrate(event: Callable[[float], Any], *, target_epsilon: float, target_delta: float, method: str = "pld") -> float:
    """The smallest noise multiplier whose `event` stays within the target."""
    import dp_accounting  # noqa: PLC0415  takes a second

    found = dp_accounting.calibrate_dp_mechanism(
        lambda: _fresh(method), event, target_epsilon, target_delta, dp_accounting.LowerEndpointAndGuess(0.0, 1.0)
    )
    return float(found)


def _fresh(method: str) -> Any:
    from dp_accounting import pld, rdp  # noqa: PLC0415  takes a second

    match method:
        case "pld":
            return pld.PLDAccountant(value_discretization_interval=1e-3)
        case "rdp":
            return rdp.RdpAccountant()
        case _:
            raise SettingError(f"the accounting method is {method!r}: 'pld' and 'rdp' are known")

"""How much has been spent: `dp-accounting` events, composed, in bounded time and memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from privacy.errors import SettingError

INTERVAL: Final = 1e-3
"""Between the values of the privacy loss that the accountant "pld" tells apart."""
WIDEST: Final = 1e3
"""Privacy losses up to here have that interval, and 10^6 values; beyond it is wider, so that they are never more."""
BEYOND: Final = 1e5
"""From here on, or with more than so many different events and losses beyond WIDEST, only Renyi divergences are composed."""
DISTINCT: Final = 64
_TAIL: Final = math.exp(-50)
"""Of the privacy loss, which the accountant "pld" cuts off."""
_MOST: Final = 1e5
"""Noise of samples, over their rate, from which float64 no longer holds their Renyi divergences above 0."""
_FEW_ORDERS: Final = (1.25, 2.0, 8.0, 32.0)


@dataclass(frozen=True)
class PaidReleases:
    """Releases that are paid for, to be made one by one.

    Attributes:
        use: takes one, before it is made.
    """

    use: Callable[[Any], None]


class Accountant:
    """Composes what was released and bounds its epsilon.

    Args:
        method: "pld" (tighter), whose composition is proved for events that do not depend on what was released before; or "rdp" (faster),
            which also holds where each event is chosen by what came before (Feldman and Zrnic, 2021, arXiv:2008.11193).

    Raises:
        SettingError: another method.
    """

    def __init__(self, method: str = "pld") -> None:
        check_method(method)
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
    def holding(self, planned: Iterable[Any]) -> Iterator[PaidReleases]:
        """For a block that makes planned releases one by one: each is recorded as it is used. See `Ledger.holding`."""
        yield PaidReleases(self.record)

    def epsilon(self, delta: float) -> float:
        """Return an upper bound of epsilon at `delta`; seconds and some 500 MB at most, so not for an event loop."""
        return epsilon(self._events, self.method, delta)


def check_method(method: str) -> None:
    """Refuse an unknown accounting method.

    Raises:
        SettingError: it is neither "pld" nor "rdp".
    """
    if method not in ("pld", "rdp"):
        raise SettingError(f"the accounting method is {method!r}: 'pld' and 'rdp' are known")


def epsilon(events: Sequence[tuple[Any, int]], method: str, delta: float) -> float:
    """Return an upper bound of epsilon for events, each with its count; 0.0 for none.

    "pld" keeps the distribution of the privacy loss on a grid whose size grows with the loss, as 1 / z^2 for little noise. Where it would
    be huge the grid is coarser, which makes the bound larger and never smaller, and the result is the smaller of that and the bound by
    Renyi divergences; where even that is beyond any use (losses of 10^5), it is the latter alone.

    Args:
        events: `dp_accounting.DpEvent`s, and how often each was released.
        method: "pld" or "rdp".
        delta: in (0, 1).
    """
    return epsilons(events, method, (delta,))[0]


def attack_bound(events: Sequence[tuple[Any, int]], method: str, fpr: float) -> float:
    """Return an upper bound of the true positive rate of every attack that tells neighbours apart, at a false positive rate of a.

        TPR(a) <= min over delta of min(exp(epsilon(delta)) a + delta, 1 - exp(-epsilon(delta)) (1 - a - delta))

    Args:
        events: as for `epsilon`.
        method: likewise.
        fpr: a, from 0 to 1.

    References:
        Kairouz, Oh, Viswanath, 2015, arXiv:1311.0776, Theorem 2.1, for each point of the profile.
    """
    deltas = [10.0 ** (-step / 8) for step in range(1, 97)]
    bounds = [1.0]
    for delta, most in zip(deltas, epsilons(events, method, deltas), strict=True):
        bounds.append(1.0 - math.exp(-most) * max(0.0, 1.0 - fpr - delta))
        if most < 700:  # beyond it float64 has no exp
            bounds.append(math.exp(most) * fpr + delta)
    return min(bounds)


def epsilons(events: Sequence[tuple[Any, int]], method: str, deltas: Sequence[float]) -> list[float]:
    """As `epsilon`, for several delta; what takes time is done once."""
    from dp_accounting import pld, privacy_accountant  # noqa: PLC0415  takes a second

    tamed = [(_tamed(event), count) for event, count in events if count]
    if not tamed:
        return [0.0] * len(deltas)
    if any(event is None for event, _ in tamed):
        return [math.inf] * len(deltas)
    if method == "rdp":
        return _renyi(tamed, None, deltas)
    try:
        reach = _renyi(tamed, _FEW_ORDERS, (_TAIL,))[0]
    except privacy_accountant.UnsupportedEventError:  # "pld" knows events that "rdp" does not
        reach = 0.0
    bounds = [_renyi(tamed, _orders(), deltas)] if reach > WIDEST else []
    if reach <= WIDEST or (reach <= BEYOND and len(tamed) <= DISTINCT):
        accountant = pld.PLDAccountant(value_discretization_interval=INTERVAL * max(1.0, reach / WIDEST))
        try:
            for event, count in tamed:
                accountant.compose(event, count)
            bounds.append([float(accountant.get_epsilon(delta)) for delta in deltas])
        except ValueError:  # where a loss is very steep float64 makes a grid that dp-accounting refuses
            bounds = bounds or [_renyi(tamed, _orders(), deltas)]
    return [min(several) for several in zip(*bounds, strict=True)]


def _renyi(events: Sequence[tuple[Any, int]], orders: Sequence[float] | None, deltas: Sequence[float]) -> list[float]:
    from dp_accounting import rdp  # noqa: PLC0415  takes a second

    accountant = rdp.RdpAccountant(orders)
    for event, count in events:
        accountant.compose(event, count)
    return [float(accountant.get_epsilon(delta)) for delta in deltas]


def _orders() -> list[float]:
    """Those of dp-accounting, and more near 1: the best one is about 1 + z sqrt(2 ln(1 / delta) / count)."""
    from dp_accounting.rdp import rdp_privacy_accountant  # noqa: PLC0415  takes a second

    return sorted({*rdp_privacy_accountant.DEFAULT_RDP_ORDERS, *(1 + 2.0 ** (-step / 2) for step in range(7, 41))})


def _tamed(event: Any) -> Any:
    """Return the event; without its sampling where the noise is so little that this no longer helps; None where nothing is left of it.

    A sample of a data set tells no more than all of it. Of noise below 10^-100 not even the epsilon of one release is a float64.
    """
    import dp_accounting as dp  # noqa: PLC0415  takes a second

    match event:
        case dp.GaussianDpEvent():
            return event if event.noise_multiplier > 1e-100 else None
        case dp.PoissonSampledDpEvent(event=dp.GaussianDpEvent()) if event.event.noise_multiplier < 1e-6:
            return _tamed(event.event)
        case dp.PoissonSampledDpEvent(sampling_probability=q, event=dp.GaussianDpEvent(noise_multiplier=z)) if z > max(10.0, q * _MOST):
            return dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(max(10.0, q * _MOST)))  # less noise is never less loss
        case dp.SelfComposedDpEvent():
            inner = _tamed(event.event)
            return None if inner is None else dp.SelfComposedDpEvent(inner, event.count)
        case dp.ComposedDpEvent():
            parts = [_tamed(one) for one in event.events]
            return None if any(one is None for one in parts) else dp.ComposedDpEvent(parts)
        case _:
            return event


def calibrate(event: Callable[[float], Any], *, target_epsilon: float, target_delta: float, method: str = "pld") -> float:
    """Return the smallest noise multiplier whose `event` stays within the target."""
    import dp_accounting  # noqa: PLC0415  takes a second

    low = 0.5
    while low > 2.0**-40 and epsilon([(event(low), 1)], method, target_delta) <= target_epsilon:
        low /= 2
    found = dp_accounting.calibrate_dp_mechanism(
        lambda: _Fresh(method), event, target_epsilon, target_delta, dp_accounting.LowerEndpointAndGuess(low, 1.0)
    )
    return float(found)


class _Fresh:
    """An accountant as dp-accounting's calibration asks for one, with the bounds of `epsilon`."""

    def __init__(self, method: str) -> None:
        import dp_accounting  # noqa: PLC0415  takes a second

        self.ledger, self._method = dp_accounting.NoOpDpEvent(), method
        self._events: list[tuple[Any, int]] = []

    def compose(self, event: Any, count: int = 1) -> _Fresh:
        """Add an event."""
        self._events.append((event, count))
        return self

    def get_epsilon(self, delta: float) -> float:
        """See `epsilon`."""
        return epsilon(self._events, self._method, delta)

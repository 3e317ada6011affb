"""Epsilon of little noise: bounded in time and memory by the size of the grid, and never below the truth."""

import math

import dp_accounting
import pytest
from dp_accounting import pld
from scipy.optimize import brentq
from scipy.stats import norm

from privacy import Accountant, Ledger, accounting, calibrate
from privacy.plan import event

DELTA = 1e-5
Z = [1.0, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-6, 1e-12, 1e-90, 1e-120, 1e-200, 5e-324]


def gaussian(z, count):
    """Epsilon of so many Gaussian mechanisms: Balle and Wang, 2018, arXiv:1805.06530, Theorem 8, in logarithms."""
    mu = math.sqrt(count) / z

    def gap(epsilon):
        first, second = norm.logcdf(mu / 2 - epsilon / mu), epsilon + norm.logcdf(-mu / 2 - epsilon / mu)
        return first + math.log1p(-math.exp(min(second - first, -1e-300))) - math.log(DELTA)

    return brentq(gap, mu * mu / 2 * (1 - 1e-6), mu * mu / 2 + 10 * mu)


@pytest.fixture
def grids(monkeypatch):
    """The intervals of the grids that are made."""
    made, right = [], pld.PLDAccountant

    def make(*args, **kwargs):
        made.append(kwargs["value_discretization_interval"])
        return right(*args, **kwargs)

    monkeypatch.setattr(pld, "PLDAccountant", make)
    return made


@pytest.mark.parametrize("count", [1, 10, 1000])
@pytest.mark.parametrize("z", [1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-5])
@pytest.mark.sample(4)
def test_a_bound_is_never_below_the_truth(z, count):
    found = accounting.epsilon([(event(1.0, z), count)], "pld", DELTA)
    true = gaussian(z, count)
    assert true * (1 - 1e-9) <= found <= 1.3 * true + 0.1


@pytest.mark.parametrize("probability", [1.0, 0.1, 1e-4])
@pytest.mark.parametrize("method", ["pld", "rdp"])
@pytest.mark.sample(2)
def test_any_noise_multiplier_has_an_epsilon(method, probability, grids):
    """Less noise never costs less, and a grid has at most a million values and a tail on each side of the loss."""
    found = [accounting.epsilon([(event(probability, z), 10)], method, DELTA) for z in Z]
    assert found == sorted(found)
    assert found[-1] == math.inf
    assert all(math.isfinite(one) for one in found[:-3])
    finite = [one for one in found if one <= accounting.BEYOND]
    assert all(interval >= accounting.INTERVAL for interval in grids)
    assert not grids or max(one / interval for one, interval in zip(finite, grids, strict=False)) <= accounting.WIDEST / accounting.INTERVAL


def test_usual_noise_is_accounted_for_as_finely_as_ever(grids):
    accountant = Accountant("pld")
    accountant.record(event(0.01, 1.1), 1000)
    found = accountant.epsilon(DELTA)
    assert grids == [accounting.INTERVAL]
    exact = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    assert found == exact.compose(event(0.01, 1.1), 1000).get_epsilon(DELTA)


@pytest.mark.long
def test_many_different_events_with_little_noise_make_no_grids(grids):
    """A schedule of noise down to next to nothing."""
    events = [(event(0.1, 0.02 + i * 1e-5), 1) for i in range(200)]
    found = accounting.epsilon(events, "pld", DELTA)
    assert not grids
    assert accounting.epsilon(events[:100], "pld", DELTA) <= found < math.inf


def test_nested_events_are_bounded_too(grids):
    inner = dp_accounting.SelfComposedDpEvent(event(0.1, 1e-9), 5)
    found = accounting.epsilon([(dp_accounting.ComposedDpEvent([inner, event(1.0, 1.0)]), 3)], "pld", DELTA)
    assert not grids
    assert 15 * 0.4e18 < found < math.inf
    nothing = dp_accounting.ComposedDpEvent([event(1.0, 1.0), dp_accounting.SelfComposedDpEvent(event(0.1, 1e-200), 2)])
    assert accounting.epsilon([(nothing, 1)], "pld", DELTA) == math.inf


@pytest.mark.long
@pytest.mark.parametrize("target", [50.0, 3000.0, 1e6])
def test_noise_for_a_large_epsilon_is_found(target):
    z = calibrate(lambda z: dp_accounting.SelfComposedDpEvent(event(0.1, z), 10), target_epsilon=target, target_delta=DELTA)
    assert accounting.epsilon([(event(0.1, z), 10)], "pld", DELTA) <= target


def test_a_ledger_prices_little_noise_and_can_be_opened_for_adaptive_releases(tmp_path):
    """The file is the same whichever way releases are composed, and the way that holds for adaptive ones costs no less."""
    ledger = Ledger(tmp_path / "ledger", data="x", max_epsilon=10.0, delta=DELTA)
    assert not ledger.affords(event(0.1, 1e-3))
    ledger.spend(event(0.1, 1.0), 5, purpose="first")
    adaptive = Ledger(tmp_path / "ledger", data="x", max_epsilon=10.0, delta=DELTA, method="rdp")
    assert adaptive.events == ledger.events
    assert ledger.epsilon() < adaptive.epsilon() < 10.0


@pytest.mark.parametrize("z", [1e5, 1e6, 1e8])
@pytest.mark.parametrize("q", [1e-4, 0.01, 0.5])
@pytest.mark.sample(2)
def test_samples_with_very_much_noise_have_an_epsilon_as_well(q, z):
    """Renyi divergences below 0 by rounding made an error of it."""
    from privacy.accounting import epsilon
    from privacy.plan import event

    assert all(0 <= epsilon([(event(q, z), 1000)], method, 1e-5) < 0.1 for method in ("pld", "rdp"))

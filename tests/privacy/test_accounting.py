"""The accountant against published values and closed forms; it never reports less than what it saw."""

import math

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from privacy import Accountant, CentralGaussian, SettingError, calibrate
from privacy.plan import event


def spent(method, *events, delta=1e-5):
    accountant = Accountant(method)
    for one, count in events:
        accountant.record(one, count)
    return accountant.epsilon(delta)


def gaussian_delta(z, epsilon):
    """Balle and Wang, 2018, arXiv:1805.06530, Theorem 8, exact for one Gaussian mechanism."""
    return norm.cdf(0.5 / z - epsilon * z) - math.exp(epsilon) * norm.cdf(-0.5 / z - epsilon * z)


@pytest.mark.parametrize("z", [0.5, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("count", [1, 10])
def test_the_gaussian_mechanism_in_closed_form(z, count):
    """n mechanisms of noise z are one of noise z / sqrt(n)."""
    epsilon = spent("pld", (dp_accounting.GaussianDpEvent(z), count))
    assert gaussian_delta(z / math.sqrt(count), epsilon) <= 1e-5
    assert gaussian_delta(z / math.sqrt(count), epsilon - 0.02) > 1e-5
    assert spent("rdp", (dp_accounting.GaussianDpEvent(z), count)) >= epsilon


def slow_rdp(q, z, order):
    """Mironov, Talwar and Zhang, 2019, arXiv:1908.10530, section 3.3, for whole orders."""
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + k * math.log(q) + (order - k) * math.log1p(-q) + k * (k - 1) / (2 * z**2)
        for k in range(order + 1)
    ]  # fmt: skip
    return (max(terms) + math.log(sum(math.exp(term - max(terms)) for term in terms))) / (order - 1)


@pytest.mark.parametrize(("z", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)])
def test_published_epsilons_of_the_tutorial(z, epochs, published):
    """tensorflow-privacy's tutorial on MNIST: 60,000 images, batches of 256; its conversion from RDP was looser than today's."""
    q, steps = 256 / 60000, epochs * 60000 // 256
    divergences = {order: steps * slow_rdp(q, z, order) for order in range(2, 64)}
    theirs = min(one + math.log(1e5) / (order - 1) for order, one in divergences.items())
    assert theirs == pytest.approx(published, rel=0.005)
    ours = min(
        one + math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1) for order, one in divergences.items()
    )  # Canonne, Kamath and Steinke, 2020, Proposition 12
    assert ours - 0.1 < spent("rdp", (event(q, z), steps)) <= ours + 1e-6 < theirs


@pytest.mark.parametrize(("method", "sigma"), [("rdp", 1.0140), ("pld", 0.9698)])
def test_published_noise_for_epsilon_three(method, sigma):
    """(3, 1e-5) for 60 epochs of 60,000 examples in batches of 256."""
    steps = math.ceil(60000 / 256) * 60
    found = calibrate(
        lambda z: dp_accounting.SelfComposedDpEvent(event(256 / 60000, z), steps), target_epsilon=3.0, target_delta=1e-5, method=method
    )
    assert found == pytest.approx(sigma, abs=0.002)
    assert spent(method, (event(256 / 60000, found), steps)) <= 3.0


def check_that_more_cost_more(z, q, n, more):
    before, after = spent("rdp", (event(q, z), n)), spent("rdp", (event(q, z), n), (event(q / 2, z), more))
    assert 0 <= before <= after


@pytest.mark.parametrize(("z", "q", "n", "more"), [(0.7, 0.01, 1, 1), (1.1, 0.3, 50, 1), (5.0, 1.0, 2, 50)])
def test_more_releases_never_cost_less(z, q, n, more):
    check_that_more_cost_more(z, q, n, more)


@pytest.mark.long
@settings(max_examples=30)
@given(st.floats(0.7, 5.0), st.floats(0.01, 1.0), st.integers(1, 50), st.integers(1, 50))
def test_more_of_any_releases_never_cost_less(z, q, n, more):
    """Each takes a second or more: Renyi divergences of samples at many orders."""
    check_that_more_cost_more(z, q, n, more)


def test_equal_events_are_counted_together_and_the_order_does_not_matter():
    a, b = event(0.1, 1.0), event(0.2, 2.0)
    assert spent("pld", (a, 3), (b, 4)) == pytest.approx(spent("pld", (b, 4), (a, 3)), rel=1e-9)
    assert spent("pld", (a, 3), (b, 4)) == spent("pld", (a, 2), (a, 1), (b, 4))
    accountant = Accountant()
    for one in (a, a, b):
        accountant.record(one)
    assert accountant.events == ((a, 2), (b, 1))


def test_rounds_of_a_federation_are_steps_of_the_same_accountant():
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.1)
    assert spent("pld", *privacy.events(0.2, 50)) == spent("pld", (event(0.2, 1.1), 50))


def test_a_method_that_is_not_known():
    with pytest.raises(SettingError, match="'pld' and 'rdp' are known"):
        Accountant("gdp")

"""The bound on attacks is that of the whole privacy profile."""

import math

import pytest
from scipy.stats import norm

from privacy import PrivacyEngine, SettingError
from privacy.accounting import attack_bound, epsilon, epsilons
from privacy.plan import event

CASES = [((512 / 8000, 1.44, 480), ("0.024", "0.11", "0.42")), ((256 / 60000, 1.1, 3516), ("0.003", "0.021", "0.16"))]


@pytest.mark.parametrize(("run", "wanted"), CASES)
def test_figures_of_the_profile(run, wanted):
    """At epsilon 5.2 and 1.14 for delta 1e-5: one point says 0.18 and 1 where 0.024 and 0.11 are proved."""
    q, z, steps = run
    events = [(event(q, z), steps)]
    at = epsilon(events, "pld", 1e-5)
    for fpr, most in zip((0.001, 0.01, 0.1), wanted, strict=True):
        found = attack_bound(events, "pld", fpr)
        assert f"{found:.{len(most) - 2}f}" == most
        assert fpr <= found <= math.exp(at) * fpr + 1e-5


@pytest.mark.parametrize("method", ["pld", "rdp"])
@pytest.mark.parametrize("z", [0.3, 1.0, 4.0])
def test_it_is_never_below_the_best_attack_on_one_gaussian_release(method, z):
    """Whose true positive rate is Phi(Phi^-1(a) + 1 / z), by the lemma of Neyman and Pearson; and near it by the tight accountant."""
    for fpr in (1e-4, 0.01, 0.3, 0.9):
        best = norm.cdf(norm.ppf(fpr) + 1 / z)
        found = attack_bound([(event(1.0, z), 1)], method, fpr)
        assert best <= found <= 1.0
        if method == "pld":
            assert found <= best + 0.06


def test_an_engine_that_has_released_nothing_helps_nobody():
    engine = PrivacyEngine("rdp")
    assert engine.attack_bound(fpr=0.01) == 0.01
    engine.accountant.record(event(1.0, 1.0))
    assert 0.01 < engine.attack_bound(fpr=0.01) < 1.0
    engine.accountant.record(event(1.0, 1e-200))  # next to no noise
    assert engine.attack_bound(fpr=0.01) == 1.0
    with pytest.raises(SettingError, match="fpr is 2"):
        engine.attack_bound(fpr=2.0)


@pytest.mark.parametrize("method", ["pld", "rdp"])
def test_several_deltas_at_once(method):
    events = [(event(0.01, 1.0), 100), (event(1.0, 5.0), 2)]
    deltas = (1e-3, 1e-5, 1e-7)
    assert epsilons(events, method, deltas) == [epsilon(events, method, delta) for delta in deltas]

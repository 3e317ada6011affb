"""The bound of the one-run audit, against slow oracles, closed forms and mechanisms of known epsilon."""

from fractions import Fraction
from math import comb, exp, log

import numpy as np
import pytest

from privacy import SettingError, audit


def slow_p_value(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke et al. by exact fractions, one term after the other; every i from 1 to m."""
    q = Fraction(1 / (1 + exp(-epsilon)))
    pmf = [comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    beta = sum(pmf[v:])
    alpha = max(Fraction(2, i) * sum(pmf[max(0, v - i) : v]) for i in range(1, m + 1))
    return float(min(Fraction(1), beta + alpha * m * Fraction(delta)))


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 3.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-2])
@pytest.mark.parametrize(("m", "r", "v"), [(20, 20, 17), (30, 8, 8), (12, 5, 1), (9, 9, 0), (40, 25, 20)])
def test_the_p_value_is_that_of_the_theorem(m, r, v, epsilon, delta):
    found = audit.p_value(m, r, v, epsilon=epsilon, delta=delta)
    assert found == pytest.approx(slow_p_value(m, r, v, epsilon, delta), rel=1e-9)


@pytest.mark.parametrize("r", [5, 30, 200, 1000])
def test_all_guesses_right_has_a_closed_form(r):
    q = 0.05 ** (1 / r)
    assert audit.epsilon_bound(1000, r, r, delta=0.0, confidence=0.95) == pytest.approx(max(0.0, log(q / (1 - q))), abs=2e-5)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_a_mechanism_that_leaks_with_probability_delta_is_within_the_p_value(epsilon):
    """Randomised response for each canary, that tells the truth with probability delta: exact tails by convolution."""
    m, delta = 60, 0.01
    right = delta + (1 - delta) / (1 + exp(-epsilon))
    for v in range(m + 1):
        tail = sum(comb(m, k) * right**k * (1 - right) ** (m - k) for k in range(v, m + 1))
        assert tail <= audit.p_value(m, m, v, epsilon=epsilon, delta=delta) + 1e-12


def test_a_mechanism_that_tells_everything_with_probability_delta_is_within_the_p_value():
    m, delta, epsilon = 60, 0.01, 1.0
    q = 1 / (1 + exp(-epsilon))
    for v in range(m + 1):
        tail = sum(comb(m, k) * q**k * (1 - q) ** (m - k) for k in range(v, m + 1))
        assert delta + (1 - delta) * tail <= audit.p_value(m, m, v, epsilon=epsilon, delta=delta) + 1e-12


def randomised_response(random, m, epsilon):
    """Scores of m canaries whose bit is told truly with probability e^epsilon / (1 + e^epsilon), in random order within a bit."""
    included = random.random(m) < 0.5
    told = included ^ (random.random(m) < 1 / (1 + exp(epsilon)))
    return told + 0.5 * random.random(m), included


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_bound_is_below_the_true_epsilon_with_the_confidence_and_near_it(epsilon):
    random = np.random.default_rng(7)
    runs = [randomised_response(random, 2000, epsilon) for _ in range(150)]
    found = np.array([audit.one_run(*run, delta=0.0, confidence=0.9, guesses=(500, 500)).epsilon for run in runs])
    wrong = np.mean(found > epsilon)
    assert 0.02 < wrong < 0.2  # 10 % by design; the standard error is 2.4 %
    assert 0.75 * epsilon < np.median(found) < epsilon


def test_more_canaries_prove_more():
    random = np.random.default_rng(3)
    found = [
        np.median([audit.one_run(*randomised_response(random, m, 2.0), delta=1e-6, guesses=(m // 4, m // 4)).epsilon for _ in range(9)])
        for m in (40, 400, 4000)
    ]
    assert found[0] < found[1] < found[2] < 2.0
    assert found[2] > 1.8


def test_the_bound_is_refuted_itself_and_delta_and_confidence_cost():
    plain = audit.epsilon_bound(500, 200, 170, delta=0.0, confidence=0.95)
    assert audit.p_value(500, 200, 170, epsilon=plain, delta=0.0) < 0.05
    assert audit.p_value(500, 200, 170, epsilon=plain + 1e-4, delta=0.0) > 0.05
    assert audit.epsilon_bound(500, 200, 170, delta=1e-4, confidence=0.95) < plain
    assert audit.epsilon_bound(500, 200, 170, delta=0.0, confidence=0.99) < plain
    assert audit.epsilon_bound(500, 200, 171, delta=0.0, confidence=0.95) > plain
    assert audit.epsilon_bound(500, 200, 170, delta=0.01, confidence=0.95) == 0.0  # 5 canaries may be told outright


def test_scores_that_know_nothing_prove_nothing_more_often_than_the_confidence_says():
    random = np.random.default_rng(11)
    found = [audit.one_run(random.random(200), random.random(200) < 0.5, delta=0.0, confidence=0.9).epsilon for _ in range(150)]
    assert np.mean(np.array(found) > 0) < 0.16


def test_the_guesses_are_the_ends_of_the_scores():
    scores = [5.0, 1.0, 4.0, 2.0, 3.0, 0.0]
    included = np.array([True, False, False, True, True, True])
    assert [audit.one_run(scores, included, delta=0.0, guesses=k).correct for k in [(1, 0), (2, 0), (0, 1), (0, 2), (3, 3)]] == [
        1,
        1,
        0,
        1,
        3,
    ]
    result = audit.one_run(scores, included, delta=1e-5, guesses=(2, 1))
    assert (result.canaries, result.guesses, result.correct, result.epsilon) == (6, 3, 1, 0.0)
    assert "at least 0.00" in str(result)
    assert "1 of 3 guesses about 6 canaries" in str(result)


def test_equal_scores_are_told_apart_by_place_and_not_by_truth():
    included = np.array([False, False, True, True])
    assert audit.one_run(np.zeros(4), included, delta=0.0, guesses=(2, 2)).correct == 0


def test_a_list_of_guesses_is_corrected_for_the_choice():
    random = np.random.default_rng(5)
    scores, included = randomised_response(random, 1000, 3.0)
    choices = [(250, 250), (100, 100), (20, 0)]
    alone = [audit.one_run(scores, included, delta=1e-6, confidence=1 - 0.05 / 3, guesses=k).epsilon for k in choices]
    assert audit.one_run(scores, included, delta=1e-6, guesses=choices).epsilon == pytest.approx(max(alone), abs=2e-5)
    assert audit.one_run(scores, included, delta=1e-6, guesses=choices).confidence == 0.95


def test_the_choice_of_the_best_of_many_guesses_keeps_the_confidence():
    random = np.random.default_rng(13)
    choices = [(k, 0) for k in range(5, 100, 5)]
    runs = [(random.random(200), random.random(200) < 0.5) for _ in range(60)]
    found = [audit.one_run(*run, delta=0.0, confidence=0.9, guesses=choices).epsilon for run in runs]
    assert np.mean(np.array(found) > 0) < 0.16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 1.0}, "delta is 1.0"),
        ({"delta": -0.1}, "delta is -0.1"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"confidence": 0.0}, "confidence is 0.0"),
        ({"guesses": (3, 2)}, r"\(3, 2\) of 4 canaries"),
        ({"guesses": (0, 0)}, "1 to 4 together"),
        ({"guesses": (-1, 2)}, "neither below 0"),
        ({"guesses": []}, "empty list"),
        ({"scores": [1.0, float("nan"), 2.0, 3.0]}, "1 of 4 scores are not numbers"),
        ({"scores": [1.0]}, "needed"),
        ({"included": np.array([1, 0, 1, 0])}, "bool"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(SettingError, match=message):
        audit.one_run(**{"scores": [1.0, 2.0, 3.0, 4.0], "included": np.array([True, False, True, True]), "delta": 1e-5, **options})


@pytest.mark.parametrize(("m", "r", "v"), [(3, 4, 1), (5, 2, 3), (5, 2, -1)])
def test_counts_that_make_no_sense(m, r, v):
    with pytest.raises(SettingError, match="canaries"):
        audit.p_value(m, r, v, epsilon=1.0, delta=0.0)


def test_an_epsilon_that_makes_no_sense():
    with pytest.raises(SettingError, match="epsilon is"):
        audit.p_value(5, 5, 5, epsilon=float("nan"), delta=0.0)
    assert audit.p_value(5, 5, 5, epsilon=float("inf"), delta=0.0) == 1.0

"""The sampler against the law itself, computed term by term."""

import numpy as np
import pytest

from deployment import key
from protocols.mpc.parties.discrete_gaussian import LARGEST_SIGMA, REACH, sample
from protocols.mpc.parties.keystream import KeyStream

DRAWS = 400_000


def draws(sigma: int, count: int = DRAWS, name: str = "gauss") -> np.ndarray:
    return sample(KeyStream(key(f"{name}{sigma}")), sigma, (count,)).view(np.int64)


def law(sigma: int) -> tuple[np.ndarray, np.ndarray]:
    """The integers up to 12 sigma, and their probabilities."""
    y = np.arange(-12 * sigma, 12 * sigma + 1)
    p = np.exp(-((y / sigma) ** 2) / 2)
    return y, p / p.sum()


@pytest.mark.parametrize("sigma", [1, 2, 3, 10])
def test_every_integer_is_as_likely_as_the_law_says(sigma):
    y, p = law(sigma)
    expected = p * DRAWS
    counted = np.bincount(draws(sigma) - y[0], minlength=len(y))
    often = expected > 10
    rest = np.array([counted[~often].sum()]), np.array([expected[~often].sum()])
    counted, expected = (np.append(a[often], b) for a, b in zip((counted, expected), rest, strict=True))
    freedom = len(counted) - 1
    chi = ((counted - expected) ** 2 / expected).sum()
    assert abs(chi - freedom) < 6 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("sigma", [1, 7, 1 << 20, LARGEST_SIGMA])
def test_moments_and_tails(sigma):
    y = draws(sigma) / sigma
    values, p = law(min(sigma, 10_000))
    values = values / min(sigma, 10_000)
    for power in (1, 2, 4):
        expected = (values**power * p).sum()
        deviation = np.sqrt(((values ** (2 * power)) * p).sum() / DRAWS)
        assert abs((y**power).mean() - expected) < 6 * deviation
    for bound in (1, 2, 3, 4):
        share = p[np.abs(values) > bound + 1e-9].sum()
        assert abs((np.abs(y) > bound + 1e-9).mean() - share) < 6 * np.sqrt(share / DRAWS) + 1e-5
    assert np.abs(y).max() < REACH


def test_the_low_bits_are_uniform_for_a_wide_law():
    low = draws(1 << 30) & 255
    counted = np.bincount(low, minlength=256)
    assert abs((((counted - DRAWS / 256) ** 2) / (DRAWS / 256)).sum() - 255) < 6 * np.sqrt(2 * 255)


def test_shape_and_seed():
    first, again = (sample(KeyStream(key("seed")), 100, (3, 5)) for _ in range(2))
    assert first.shape == (3, 5)
    assert first.dtype == np.uint64
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, sample(KeyStream(key("other")), 100, (3, 5)))
    assert sample(KeyStream(key("seed")), 100, (0, 5)).shape == (0, 5)


def test_draws_are_independent_of_each_other():
    y = draws(1000).reshape(-1, 2) / 1000
    assert abs((y[:, 0] * y[:, 1]).mean()) < 6 / np.sqrt(len(y))
    assert abs((np.sign(y[:, 0]) * np.abs(y[:, 0])).mean()) < 6 / np.sqrt(len(y))


@pytest.mark.parametrize("sigma", [0, -1, LARGEST_SIGMA + 1])
def test_sigma_out_of_range(sigma):
    with pytest.raises(ValueError, match=f"sigma={sigma}"):
        sample(KeyStream(key("x")), sigma, (1,))

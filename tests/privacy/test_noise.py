"""Secret noise: its distribution, exactly where it claims to be exact, and the grid that hides the low bits."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy import GaussianNoise, InsecureNoise
from privacy.randomness import rounded_normal
from privacy.randomness.ahead import NoiseAhead
from privacy.randomness.noise import Grid, noisy_sum


def probabilities(sigma, reach):
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x**2) / (2 * sigma**2))
    return weights / weights.sum()


def chi_square(found, expected):
    return float(((found - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("sigma", [1, 2, 3, 5, 7])
def test_the_discrete_gaussian_value_by_value(sigma):
    size, reach = 400_000, 4 * sigma
    values = GaussianNoise().discrete(size, sigma)
    inside = values[np.abs(values) <= reach]
    p = probabilities(sigma, 12 * sigma)[12 * sigma - reach : 12 * sigma + reach + 1]
    found = np.bincount(inside + reach, minlength=2 * reach + 1)
    degrees = len(p)
    assert chi_square(found, size * p) < degrees + 6 * math.sqrt(2 * degrees)  # six standard deviations
    assert abs(len(inside) / size - p.sum()) < 6 * math.sqrt(p.sum() * (1 - p.sum()) / size) + 1e-9


@pytest.mark.parametrize("sigma", [1000, 12345, 1 << 20, (1 << 33) + 5])
def test_wide_ones_are_normal_in_every_part(sigma):
    size = 300_000
    z = np.sort(GaussianNoise().discrete(size, sigma) / sigma)
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    assert np.abs(cdf - (np.arange(size) + 0.5) / size).max() < 2.2 / math.sqrt(size)  # Kolmogorov and Smirnov, p = 1e-4
    low = GaussianNoise().discrete(size, sigma) & 7
    assert chi_square(np.bincount(low, minlength=8), size / 8) < 45  # the low bits are uniform


@given(st.integers(1, 1 << 40), st.integers(0, 300))
def test_any_sigma_and_size(sigma, size):
    values = GaussianNoise().discrete((size,), sigma)
    assert values.shape == (size,)
    assert values.dtype == np.int64
    assert size == 0 or np.abs(values).max() <= 10 * sigma


@pytest.mark.parametrize("sigma", [0, -1, (1 << 40) + 1])
def test_a_sigma_that_cannot_be(sigma):
    with pytest.raises(ValueError, match="sigma is"):
        GaussianNoise().discrete(3, sigma)


def test_rounded_noise_is_normal_and_whole():
    size = 300_000
    noise = GaussianNoise().rounded((3, size // 3), 1000.0)
    assert noise.shape == (3, size // 3)
    assert (noise == np.rint(noise)).all()
    z = np.sort(noise.ravel() / 1000.0)
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    assert np.abs(cdf - (np.arange(size) + 0.5) / size).max() < 2.2 / math.sqrt(size) + 0.0005
    assert abs(np.corrcoef(noise.ravel()[:-1], noise.ravel()[1:])[0, 1]) < 0.011


def test_a_seed_is_loud_and_repeats_and_no_seed_never_does():
    with pytest.warns(InsecureNoise, match="no secret"):
        first = GaussianNoise(seed=3)
    with pytest.warns(InsecureNoise):
        second = GaussianNoise(seed=3)
    assert (first.discrete(50, 1000) == second.discrete(50, 1000)).all()
    assert (GaussianNoise().discrete(50, 1000) != GaussianNoise().discrete(50, 1000)).any()
    assert (first.discrete(50, 1000) != first.discrete(50, 1000)).any()


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.integers(1, 10**8))
def test_the_grid_pays_for_its_rounding(sensitivity, z, size):
    grid = Grid.of(sensitivity, z, size)
    assert math.frexp(grid.step)[0] == 0.5  # a power of two
    assert grid.step * grid.sigma >= z * (sensitivity + grid.step * math.sqrt(size)) * (1 - 1e-12)
    assert grid.step * grid.sigma <= z * sensitivity * (1 + 2.0**-12) * (1 + 1e-12) or grid.sigma >= 2.0**39
    coarse = Grid.of(sensitivity, z, size, fineness=20, most=20)
    assert coarse.sigma <= 2.0**20 + z * math.sqrt(size) + 1
    assert coarse.step * coarse.sigma >= z * sensitivity


def test_a_noisy_sum_has_the_noise_that_is_asked_for_and_nothing_in_its_low_bits():
    sums = [np.full((300, 200), 0.1, np.float32), np.full(40_000, -7.3)]
    noisy = noisy_sum(GaussianNoise(), sums, sensitivity=0.5, noise_multiplier=3.0)
    flat = np.concatenate([(after - before).ravel() for after, before in zip(noisy, sums, strict=True)])
    assert [array.shape for array in noisy] == [array.shape for array in sums]
    assert abs(flat.std() / 1.5 - 1) < 0.015
    assert abs(flat.mean()) < 0.03
    step = Grid.of(0.5, 3.0, 100_000).step
    assert all((array / step == np.rint(array / step)).all() for array in noisy)


def test_noise_needs_no_tensorflow():
    program = "import sys; from privacy import GaussianNoise; GaussianNoise().discrete(9, 5); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_noise_ahead_is_given_once_and_at_the_scale_that_is_asked_for():
    with NoiseAhead(GaussianNoise()) as ahead:
        found = [ahead.take(5000, sigma) for sigma in (1000.0, 1000.0, 1000.0, 50.0, 50.0, 1000.0)]
    assert [array.std() for array in found] == pytest.approx([1000, 1000, 1000, 50, 50, 1000], rel=0.08)
    assert all(not np.array_equal(a, b) for i, a in enumerate(found) for b in found[:i])
    assert all(array.dtype == np.float32 for array in found)


def test_what_cannot_be_made_ahead_is_an_error_of_its_step_only():
    class Tired(GaussianNoise):
        made = 0

        def rounded(self, shape, sigma):
            self.made += 1
            if self.made == 2:
                raise OSError("no randomness")
            return super().rounded(shape, sigma)

    with NoiseAhead(Tired()) as ahead:
        ahead.take(10, 5.0)
        with pytest.raises(OSError, match="no randomness"):
            ahead.take(10, 5.0)


def test_two_threads_never_get_the_same_words():
    noise = GaussianNoise()
    with ThreadPoolExecutor(4) as threads:
        words = np.concatenate(list(threads.map(lambda _: noise._words(20_000), range(40))))
    assert len(np.unique(words)) == len(words)


def test_a_forked_process_has_noise_of_its_own():
    noise, (reads, writes) = GaussianNoise(), os.pipe()
    noise._words(3)
    child = os.fork()
    if child == 0:
        os.write(writes, noise._words(100).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(reads, 800), np.uint64)
    os.close(reads)
    os.close(writes)
    assert len(theirs) == 100
    assert not np.isin(theirs, noise._words(100)).any()


WORD = (1 << 64) - 1


def word(sign, chosen, place, coin):
    return sign << 63 | chosen << 51 | place << 16 | coin


def filled(tries, more, sigma):
    """What the compiled sampler makes of each word alone: a value, None where it is not accepted, "open" where it cannot tell."""
    found = []
    for one in tries:
        words, values, accepted = np.array([one], np.uint64), np.empty(1), np.empty(1, np.uint8)
        open_, at = np.empty(2, np.int64), np.zeros(3, np.int64)
        tables = rounded_normal._GUIDE, rounded_normal._THRESHOLDS
        count = rounded_normal._clear(words, tables[0], sigma, values, accepted, open_)
        done = rounded_normal._closed(words, np.array(more, np.uint64), *tables, sigma, values, accepted, open_[:count], at)
        found.append("open" if not done else int(values[0]) if accepted[0] else None)
    return found


def edges(sigma):
    """Words whose t or u is where the answer changes, and around it."""
    found = []
    for chosen in (0, 40, 900, 2500, 3900, 4095):
        b = max(int(rounded_normal._GUIDE[chosen]), 0)
        for t in (0.0, 0.1, 0.5, 0.9, 1.0 - 2.0**-35, (round(sigma * (b + 0.5) / 16) + 0.5) * 16 / sigma - b):
            if 0.0 <= t < 1.0:
                coin = int(math.exp(-t * (2 * b + t) / 512) * 2**16)
                for place in (int(t * 2**35) + off for off in (-1, 0, 1)):
                    found += [word(1, chosen, min(max(place, 0), 2**35 - 1), min(max(coin + off, 0), 2**16 - 1)) for off in (-1, 0, 1)]
    return found


@pytest.mark.parametrize("sigma", [0.3, 1.0, 77.7, 2.0**20, 2.0**26 + 0.5])
def test_what_is_compiled_decides_as_numbers_of_any_length_do(sigma):
    """Wherever float64 decides it decides right, also at the edges of blocks, values and acceptance."""
    random = np.random.default_rng(0)
    tries = [*map(int, random.integers(0, WORD, 3000, np.uint64, endpoint=True)), *edges(sigma)]
    assert filled(tries[:3000], list(map(int, random.integers(0, WORD, 4, np.uint64))), sigma).count("open") < 3
    for more in ([0, 0, 0, 0], [WORD] * 4, list(map(int, random.integers(0, WORD, 4, np.uint64, endpoint=True)))):
        for one, value in zip(tries, filled(tries, more, sigma), strict=True):
            given = iter([*more, *map(int, random.integers(0, WORD, 8, np.uint64, endpoint=True))])
            right = rounded_normal.exact(one, given.__next__, sigma)
            assert value in ("open", right), hex(one)


def test_words_at_the_very_edges_are_left_to_numbers_of_any_length():
    """Where it depends on bits that were not made yet, what is compiled does not guess."""
    chosen = 4095  # several blocks begin with these bits
    threshold = next(one for one in rounded_normal.cumulative(64) if one >> 52 == chosen)
    second = (threshold & (1 << 52) - 1) << 12
    assert filled([word(0, chosen, 0, 0)], [second, 0, 0, 0], 100.0) == ["open"]
    half = 0.5 * 16 / 100.0 * 2**52  # t at which 100 t / 16 is one half, in 52 bits
    assert filled([word(0, 0, int(half) >> 17, 0)], [(int(half) & 0x1FFFF) << 47, 0, 0, 0], 100.0) == ["open"]
    beyond = filled([word(0, chosen, 0, 0)], [WORD] * 4, 100.0)
    assert beyond == ["open"]
    source = iter([WORD, 0, 0, 0, 0, 0])
    assert abs(rounded_normal.exact(word(0, chosen, 0, 0), lambda: next(source), 100.0)) > 900  # sqrt(2 ln 2^64) = 9.4 sigma


def test_no_word_is_used_for_two_values():
    """Where float64 leaves it open, those behind go on from the words that it has looked at for this value, and then from new ones."""
    threshold = next(one for one in rounded_normal.cumulative(64) if one >> 52 == 4095)
    edge, other = (threshold & (1 << 52) - 1) << 12, (threshold + 999 & (1 << 52) - 1) << 12
    hard = word(0, 4095, 1 << 34, 0)  # takes a word more to tell its block
    given, asked = [[other, edge, other, other, 0, 0, 0, 0], [5]], []

    def words(count):
        asked.append(count)
        return np.array(given[len(asked) - 1], np.uint64)[:count]

    values, accepted = rounded_normal.decided(
        words, np.array([hard, hard, word(0, 0, 1 << 30, 0), hard, hard], np.uint64), 1000.0, rounded_normal.Scratch(5)
    )
    assert asked == [8, 1]  # two each, and one to tell the block of the second
    assert accepted.all()
    assert values[0] == values[3] == values[4]
    block = int(16 * values[1] / 1000.0)
    assert abs(block - int(16 * values[0] / 1000.0)) <= 1
    assert values[2] < 10


@pytest.mark.parametrize("bits", [64, 128])
def test_blocks_have_the_probabilities_of_a_discrete_gaussian(bits):
    ends = [0, *rounded_normal.cumulative(bits)]
    found = np.array([float(after - before) for before, after in pairwise(ends)]) / 2.0**bits
    weights = np.exp(-((np.arange(400) / 16) ** 2) / 2)
    np.testing.assert_allclose(found[:100], (weights / weights.sum())[:100], rtol=1e-12, atol=2.0**-62)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 2.5, 6.0])
def test_rounded_noise_value_by_value(sigma):
    """P(n) = Phi((n + 1/2) / sigma) - Phi((n - 1/2) / sigma), for noise below a step, too."""
    size, reach = 400_000, max(2, math.ceil(4 * sigma))
    values = GaussianNoise().rounded(size, sigma).astype(int)
    cdf = [0.5 * math.erfc(-(n + 0.5) / sigma / math.sqrt(2)) for n in range(-reach - 1, reach + 1)]
    p = np.diff(cdf)
    kept = p * size > 5
    found = np.bincount(values[np.abs(values) <= reach] + reach, minlength=2 * reach + 1)
    assert chi_square(found[kept], size * p[kept]) < kept.sum() + 6 * math.sqrt(2 * kept.sum())


def test_the_part_of_the_noise_that_is_odd():
    assert GaussianNoise().rounded((3, 5), 10.0).shape == (3, 5)

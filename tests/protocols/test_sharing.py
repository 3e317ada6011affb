"""Sharing: what comes back, what is refused, and that missing shares leave nothing to see."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocols import sharing
from protocols.errors import SharingError
from protocols.sharing import reconstruct, split

PRIMES = [2, 3, 65_537, 2**61 - 1, 2**255 - 19]
ARRAY_PRIMES = [2, 3, 65_537, 2**61 - 1, 2**63 - 25]
parties = st.integers(2, 7)
signed = st.integers(-(2**63), 2**63 - 1)


def test_the_tutorial():
    shares = split(77777, parties=3)
    assert len(shares) == 3
    assert reconstruct(shares) == 77777
    assert reconstruct([a + b for a, b in zip(split(11, 3), split(122, 3), strict=True)]) == 133


@given(signed, parties)
def test_integers_come_back(secret, n):
    shares = split(secret, n)
    assert len(shares) == n
    assert all(0 <= share < 2**64 for share in shares)
    assert reconstruct(shares) == reconstruct(reversed(shares)) == secret


@given(st.integers(2**63, 2**64 - 1))
def test_integers_from_2_to_63_come_back_as_their_signed_twins(secret):
    assert reconstruct(split(secret)) == secret - 2**64


@given(st.lists(signed, min_size=2, max_size=5), st.integers(-1000, 1000), parties)
def test_shares_add_and_multiply_modulo_2_to_64(secrets, factor, n):
    shares = [sum(column) * factor for column in zip(*(split(secret, n) for secret in secrets), strict=True)]
    assert (reconstruct(shares) - sum(secrets) * factor) % 2**64 == 0


@given(st.sampled_from(PRIMES), st.data(), parties)
def test_field_elements_come_back_and_add(q, data, n):
    a, b = data.draw(st.integers(1 - q, q - 1)), data.draw(st.integers(1 - q, q - 1))
    one, other = split(a, n, modulus=q), split(b, n, modulus=q)
    assert all(0 <= share < q for share in (*one, *other))
    assert reconstruct(one, modulus=q) == a % q
    assert reconstruct([x + y for x, y in zip(one, other, strict=True)], modulus=q) == (a + b) % q


integer_arrays = st.sampled_from([np.int8, np.uint16, np.int32, np.int64, np.uint64]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_side=0))
)


@given(integer_arrays, parties)
def test_arrays_come_back(secret, n):
    shares = split(secret, n)
    expected = np.uint64 if secret.dtype == np.uint64 else np.int64
    assert [share.dtype for share in shares] == [expected] * n
    np.testing.assert_array_equal(reconstruct(shares), secret, strict=secret.dtype == expected)


@given(npst.arrays(np.int64, 5), npst.arrays(np.int64, 5))
def test_shares_of_arrays_wrap_by_themselves(a, b):
    np.testing.assert_array_equal(reconstruct([x + y for x, y in zip(split(a), split(b), strict=True)]), a + b)


@given(st.sampled_from(ARRAY_PRIMES), st.data(), parties)
def test_arrays_over_a_field_come_back_and_add(q, data, n):
    elements = st.integers(1 - q, q - 1)
    a, b = (data.draw(npst.arrays(np.int64, (2, 3), elements=elements)) for _ in range(2))
    one, other = split(a, n, modulus=q), split(b, n, modulus=q)
    assert all(share.dtype == np.uint64 and (share < q).all() for share in (*one, *other))
    np.testing.assert_array_equal(reconstruct(one, modulus=q).astype(object), a.astype(object) % q)
    total = reconstruct([x + y for x, y in zip(one, other, strict=True)], modulus=q)
    np.testing.assert_array_equal(total.astype(object), (a.astype(object) + b.astype(object)) % q)


def test_unsigned_arrays_over_a_field_come_back():
    secret = np.array([0, 1, 2**61 - 2], np.uint64)
    np.testing.assert_array_equal(reconstruct(split(secret, modulus=2**61 - 1), modulus=2**61 - 1), secret)


def test_numpy_scalars_are_shared_as_integers():
    assert reconstruct(split(np.int64(-5))) == reconstruct(split(np.array(-5))) == -5


@pytest.mark.parametrize("secret", [5, np.array([5, 6])])
def test_the_secret_is_left_as_it_was_and_sharing_is_never_the_same_twice(secret):
    before = np.copy(secret)
    one, other = split(secret), split(secret)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(secret, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split(1, 1), "1 parties were asked for: a secret is shared by at least 2"),
        (lambda: split(1.5), "a float was given: an integer"),
        (lambda: split([[1, 2]]), "a list of lists or arrays was given"),
        (lambda: split(np.array([1.5])), "an array of float64 was given: integers are needed"),
        (lambda: split(np.array([True])), "an array of bool was given"),
        (lambda: split(2**64), "the secret is out of range: from -9223372036854775808 to 18446744073709551615"),
        (lambda: split(-(2**63) - 1), "out of range"),
        (lambda: split(7, modulus=7), "out of range: from -6 to 6"),
        (lambda: split(np.array([1, 7, -7]), modulus=7), "2 of 3 secrets are out of range: from -6 to 6"),
        (lambda: split(1, modulus=2**61), "the modulus 2305843009213693952 is not prime"),
        (lambda: split(1, modulus=561), "the modulus 561 is not prime"),
        (lambda: split(1, modulus=0), "the modulus 0 is not prime"),
        (lambda: split(np.array([1]), modulus=2**255 - 19), "the modulus has 255 bits: arrays need one below 2"),
        (lambda: reconstruct([1]), "there are 1 shares"),
        (lambda: reconstruct([1, 2], modulus=9), "the modulus 9 is not prime"),
        (lambda: reconstruct([1, np.array([2])]), "1 of 2 shares are arrays"),
        (lambda: reconstruct([1, 2.0]), "a float was given"),
        (lambda: reconstruct([np.array([1]), np.array([2, 3])]), r"int64 of shape \(1,\) and int64 of shape \(2,\)"),
        (lambda: reconstruct([np.array([1]), np.array([2], np.uint64)]), "all must match"),
        (lambda: reconstruct([np.array([1.0])] * 2), "the shares are float64: int64 or uint64 is needed"),
        (lambda: reconstruct([np.array([1])] * 2, modulus=7), "the shares are int64: uint64 is needed"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(SharingError, match=message):
        call()


def test_refusals_do_not_show_the_secret():
    for secret in (2**64 + 12345, np.array([2**62 + 12345])):
        with pytest.raises(SharingError) as refused:
            split(secret, modulus=65_537)
        assert str(secret if isinstance(secret, int) else secret[0]) not in str(refused.value)


def sieve(limit: int) -> set[int]:
    return {n for n in range(2, limit) if all(n % d for d in range(2, int(n**0.5) + 1))}


def test_primes_are_told_from_composites():
    assert {n for n in range(-5, 5000) if sharing._is_prime(n)} == sieve(5000)
    assert all(map(sharing._is_prime, [2**127 - 1, 2**255 - 19, 2**521 - 1, 2**64 - 59]))
    strong_pseudoprimes = [3215031751, 3825123056546413051, 318665857834031151167461, 3317044064679887385961981]
    products = [(2**127 - 1) * (2**89 - 1), (2**61 - 1) ** 2]
    assert not any(map(sharing._is_prime, strong_pseudoprimes + products))


@pytest.mark.parametrize("q", [2, 5])
def test_any_shares_but_all_say_exactly_nothing(q, monkeypatch):
    """Over all outcomes of the randomness, any two of three shares take every pair of values once, whatever the secret."""
    for secret in range(q):
        seen = {pair: Counter() for pair in itertools.combinations(range(3), 2)}
        for drawn in itertools.product(range(q), repeat=2):
            source = iter(drawn)
            monkeypatch.setattr(sharing.secrets, "randbelow", lambda order, source=source: next(source))
            shares = sharing._split_integer(secret, 3, q)
            for (i, j), counts in seen.items():
                counts[shares[i], shares[j]] += 1
        assert all(counts == Counter(itertools.product(range(q), repeat=2)) for counts in seen.values())


# Statistics of real randomness. Each statistic below exceeds its limit by chance with probability about 10^-12 (7 standard
# deviations, Wilson and Hilferty's approximation of chi-square), and there are fewer than a hundred: a false alarm is rarer than
# 10^-9.
SAMPLES = 1 << 16


def limit(freedom: int) -> float:
    return freedom * (1 - 2 / (9 * freedom) + 7 * (2 / (9 * freedom)) ** 0.5) ** 3


def assert_uniform(values: np.ndarray, bins: int) -> None:
    counts = np.bincount(values.astype(np.int64), minlength=bins)
    expected = values.size / bins
    assert ((counts - expected) ** 2).sum() / expected < limit(bins - 1)


def assert_alike(one: np.ndarray, other: np.ndarray, bins: int) -> None:
    a, b = (np.bincount(values.astype(np.int64), minlength=bins) for values in (one, other))
    assert ((a - b) ** 2 / np.maximum(a + b, 1)).sum() < limit(bins - 1)


def low_and_high(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    words = share.view(np.uint64)
    return words & np.uint64(255), words >> np.uint64(56)


@pytest.mark.parametrize("secret", [0, -1, 2**62])
def test_low_and_high_bits_of_shares_are_uniform(secret):
    arrays = split(np.full(SAMPLES, secret))
    integers = [np.array(column, np.uint64) for column in zip(*(split(secret) for _ in range(SAMPLES // 4)), strict=True)]
    for share in (*arrays, *integers):
        for byte in low_and_high(share):
            assert_uniform(byte, 256)


def test_shares_of_two_secrets_look_alike():
    for one, other in zip(split(np.full(SAMPLES, 3)), split(np.full(SAMPLES, -(2**63))), strict=True):
        for a, b in zip(low_and_high(one), low_and_high(other), strict=True):
            assert_alike(a, b, 256)


def test_two_shares_are_independent_of_each_other():
    first, second, _ = split(np.zeros(SAMPLES, np.int64))
    pairs = (low_and_high(first)[0] & np.uint64(15)) * np.uint64(16) + (low_and_high(second)[0] & np.uint64(15))
    assert_uniform(pairs, 256)


@pytest.mark.parametrize("q", [2, 3, 257, next(q for q in itertools.count(3 * 2**61 + 1, 2) if sharing._is_prime(q))])
def test_field_shares_are_uniform(q):
    """The last modulus is three quarters of a power of two: reducing a word modulo it would be visible."""
    bins = min(q, 257)
    for share in split(np.full(SAMPLES, q - 1), modulus=q):
        assert_uniform(share if q == bins else share // np.uint64(q // bins + 1), bins)


@settings(max_examples=20)
@given(st.sampled_from(ARRAY_PRIMES), st.integers(0, 20))
def test_uniform_field_elements_are_below_the_modulus(q, n):
    stream = sharing.KeyStream(bytes(16))
    assert (sharing._uniform(stream, (n,), q) < q).all()

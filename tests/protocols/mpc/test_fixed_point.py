"""Fixed point against exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protocols.errors import EncodingError
from protocols.mpc import kernels
from protocols.mpc.kernels import reference
from protocols.mpc.numbers.fixed_point import decode, encode

bits = st.integers(0, 40)
largest = math.nextafter(2.0**62, 0)


def reals(limit: float, **shape) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float64, npst.array_shapes(min_side=0, **shape), elements=st.floats(-limit, limit))


@given(reals(2.0**20), bits)
def test_encode_rounds_half_to_even(x, f):
    expected = [round(Fraction(float(value)) * 2**f) % 2**64 for value in x.ravel()]
    encoded = encode(x, 2.0**-f)
    assert encoded.shape == x.shape
    assert encoded.dtype == np.uint64
    assert encoded.ravel().tolist() == expected


@given(reals(2.0**20), bits)
def test_decode_gives_back_the_value_to_half_a_unit(x, f):
    back = decode(encode(x, 2.0**-f), 2.0**-f)
    assert back.shape == x.shape
    assert (np.abs(back - x) <= 2.0**-f / 2).all()


@given(st.integers(-(2**53), 2**53), bits)
def test_decode_is_exact_up_to_53_bits(z, f):
    assert decode(np.array([z % 2**64], np.uint64), 2.0**-f)[0] == Fraction(z, 2**f)


@given(reals(100.0, max_dims=1))
def test_encodings_add_as_the_numbers_do(x):
    total = encode(x, 2.0**-16) + encode(-x / 4, 2.0**-16)
    np.testing.assert_allclose(decode(total, 2.0**-16), x * 0.75, atol=2.0**-16)


def test_scales_need_not_be_powers_of_two():
    np.testing.assert_array_equal(encode([0.1, -0.3, 0.25], 0.1).view(np.int64), [1, -3, 2])


def test_any_real_numbers_can_be_encoded():
    assert encode(3, 0.5).tolist() == 6
    assert encode([True, False], 0.5).tolist() == [2, 0]
    np.testing.assert_array_equal(encode(np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], 1.0), [[0, 2], [3, 5]])
    np.testing.assert_array_equal(decode(encode(np.arange(6.0), 1.0)[::2], 1.0), [0, 2, 4])


def test_the_ends_of_the_range():
    assert encode([largest, -largest], 1.0).tolist() == [int(largest), 2**64 - int(largest)]
    assert encode(largest * 2.0**-16, 2.0**-16).tolist() == int(largest)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2.0**62, -(2.0**62), 1e300])
@pytest.mark.parametrize("position", [(0, 0), (1, 2)])
def test_what_does_not_fit_is_refused_by_position_and_not_shown(value, position):
    x = np.full((2, 3), 0.123)
    x[position] = value
    with pytest.raises(EncodingError) as refused:
        encode(x, 1.0)
    message = str(refused.value)
    assert f"1 of 6 values cannot be held in fixed point, the first at position {position}" in message
    assert "between -4.61169e+18 and 4.61169e+18" in message
    assert not any(shown in message for shown in ("nan", "inf,", "0.123", "1e+300"))


def test_quotients_that_overflow_are_refused():
    with pytest.raises(EncodingError, match="2 of 2 values"):
        encode([1e300, -1e300], 1e-300)


@pytest.mark.parametrize("x", [["1"], [1j], [None]])
def test_what_is_not_real_is_refused(x):
    with pytest.raises(EncodingError, match="real numbers are needed"):
        encode(x, 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scales_are_positive_and_finite(scale):
    with pytest.raises(EncodingError, match="a finite number above 0 is needed"):
        encode([1.0], scale)
    with pytest.raises(EncodingError, match="a finite number above 0 is needed"):
        decode(np.ones(1, np.uint64), scale)


def test_only_ring_elements_are_decoded():
    with pytest.raises(EncodingError, match="the ring elements are int64: uint64 is needed"):
        decode(np.ones(1, np.int64), 1.0)


@given(npst.arrays(np.float64, st.integers(0, 40)), st.sampled_from([1.0, 2.0**-16, 0.1, 1e-300]))
def test_the_plain_encode_agrees(x, scale):
    fast, plain = np.empty(x.shape, np.int64), np.empty(x.shape, np.int64)
    fits = kernels.encode(x, scale, 2.0**62, fast)
    assert fits == reference.encode(x, scale, 2.0**62, plain)
    if fits:
        np.testing.assert_array_equal(fast, plain)


@given(npst.arrays(np.int64, st.integers(0, 40)), st.sampled_from([1.0, 2.0**-16, 0.1]))
def test_the_plain_decode_agrees(z, scale):
    fast, plain = np.empty(z.shape), np.empty(z.shape)
    kernels.decode(z, scale, fast)
    reference.decode(z, scale, plain)
    np.testing.assert_array_equal(fast, plain)

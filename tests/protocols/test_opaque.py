"""Whole numbers that R keeps: they count like integers, and are nothing that reticulate converts."""

from __future__ import annotations

import operator
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.blocking.shapes import check_shape
from protocols.errors import InputError, SharingError
from protocols.opaque import Whole, WholeArray, to_caller, whole_array, whole_number
from protocols.sharing import reconstruct, split

any_integer = st.integers(-(2**70), 2**70)
ARITHMETIC = [operator.add, operator.sub, operator.mul]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
CONVERTED = (bool, int, float, complex, str, bytes, list, tuple, dict, np.ndarray, np.generic)
"""What reticulate turns into values of R; since its version 1.29 subclasses of most of these, too."""


@pytest.mark.parametrize("secret", [5, 5.0, np.array([5, 6]), [5.0, 6.0]])
def test_shares_and_what_becomes_of_them_are_nothing_that_r_converts(secret):
    a, b, _ = split(secret)
    for share in (a, a + b, a - b, a * 3, 3 * a, 3.0 * a, a + 1, 1 - a, -a, a % 7, sum([a, b])):
        assert not isinstance(share, CONVERTED)
        assert not callable(share)
        assert not hasattr(share, "__next__")


def test_arrays_have_the_form_of_those_of_numpy_and_stay_whole():
    array = np.arange(6).reshape(2, 3)
    ours = WholeArray(array.copy())
    for changed in (ours.reshape(3, 2), ours.transpose(), ours.flatten(), ours.view(np.uint64), ours.copy()):
        assert isinstance(changed, WholeArray)
    total = np.zeros((2, 3), np.int64)
    total += ours
    ours += 1
    np.testing.assert_array_equal(total, array)
    np.testing.assert_array_equal(ours, array + 1)
    for lossy in (lambda: ours.astype(float), lambda: ours.tolist(), lambda: ours.item(0), lambda: ours.sum()):
        with pytest.raises((SharingError, AttributeError), match=r"lose digits|numpy\.asarray"):
            lossy()


def test_elements_of_shares_are_nothing_that_r_converts():
    share = split(np.arange(6).reshape(2, 3))[0]
    for part in (share[0], share[0, 0], *share, share[:, 1]):
        assert isinstance(part, Whole | WholeArray)
    assert [int(number) for number in share[0]] == np.asarray(share)[0].tolist()


@given(any_integer, any_integer)
def test_whole_numbers_count_and_compare_like_integers(a, b):
    for operation in ARITHMETIC:
        for one, other in ((Whole(a), b), (a, Whole(b)), (Whole(a), Whole(b))):
            result = operation(one, other)
            assert isinstance(result, Whole)
            assert result == operation(a, b)
    for operation in COMPARISONS:
        assert operation(Whole(a), b) is operation(a, Whole(b)) is operation(Whole(a), Whole(b)) is operation(a, b)
    assert int(Whole(a)) == a == operator.index(Whole(a))
    assert hash(Whole(a)) == hash(a)
    assert (repr(Whole(a)), f"{Whole(a):x}", bool(Whole(a))) == (repr(a), f"{a:x}", bool(a))
    assert pickle.loads(pickle.dumps(Whole(a))) == a


@given(st.integers(-(2**53) + 1, 2**53 - 1))
def test_whole_floats_stand_for_integers_in_both_directions(a):
    assert whole_number(float(a)) == whole_number(np.float64(a)) == a == float(Whole(a))
    assert Whole(2**60) * float(a) == 2**60 * a
    np.testing.assert_array_equal(whole_array([float(a), a]), [a, a])
    assert reconstruct(split(float(a))) == reconstruct(split(np.array([float(a)])))[0] == a


def test_numbers_that_are_not_whole_do_not_compare_equal_or_count():
    assert Whole(5) != 5.5
    assert Whole(5) < 5.5
    assert Whole(5) != "5"
    assert Whole(2**53 + 1) != float(2**53)
    for other in (0.5, 2.0**53, float("nan"), float("inf"), True, np.float32(0.5)):
        with pytest.raises(SharingError):
            Whole(5) * other
    with pytest.raises(TypeError):
        Whole(5) / 2
    with pytest.raises(SharingError, match=r"beyond 2\^53 is no double"):
        float(Whole(2**53 + 1))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4), st.integers(-1000, 1000))
def test_arrays_count_like_those_of_numpy(numbers, factor):
    array = np.array(numbers, np.int64)
    ours = WholeArray(array)
    for public in (
        factor,
        np.int64(factor),
        float(factor),
        np.full(len(numbers), factor),
        np.full(len(numbers), float(factor)),
        Whole(factor),
    ):
        for operation in ARITHMETIC:
            for result, expected in (
                (operation(ours, public), operation(array, factor)),
                (operation(public, ours), operation(factor, array)),
            ):
                assert isinstance(result, WholeArray)
                np.testing.assert_array_equal(result, expected, strict=False)
    np.testing.assert_array_equal(ours == factor, array == factor)
    assert (ours.shape, ours.dtype, len(ours), repr(ours)) == (array.shape, array.dtype, len(array), repr(array))


def test_arrays_over_a_field_take_what_is_not_negative():
    share = split(np.array([1, 2]), modulus=2**61 - 1)[0]
    assert share.dtype == np.uint64
    expected = np.asarray(share) * np.uint64(3)
    for factor in (3, 3.0, np.int64(3), np.array([3, 3]), [3.0, 3.0]):
        np.testing.assert_array_equal(share * factor, expected)
    with pytest.raises(SharingError, match=r"multiply .* would be float64 and lose digits.* add the modulus"):
        share * -3


@pytest.mark.parametrize(
    "operation", [lambda a: a / 2, lambda a: np.sqrt(a), lambda a: a * 0.5, lambda a: a * np.array([1.0, 0.5]), lambda a: a + 2**70]
)
def test_arrays_refuse_what_would_lose_digits(operation):
    with pytest.raises(SharingError):
        operation(WholeArray(np.array([1, 2])))


@pytest.fixture
def in_r(monkeypatch):
    """A Python that reticulate has started."""
    monkeypatch.setattr(sys, "builtin_module_names", (*sys.builtin_module_names, "rpycall"))


@pytest.mark.parametrize("secret", [-(2**31), [1, -(2**31)], np.array([1, -(2**31)], np.int32)], ids=["number", "vector", "matrix"])
def test_in_r_a_missing_integer_is_no_number(in_r, secret):
    with pytest.raises(SharingError, match="NA"):
        split(secret)
    assert int(reconstruct(split(-(2.0**31)))) == -(2**31)  # the number itself is a double there


EDGES = [0, 5, 2**31 - 1, 1 - 2**31, -(2.0**31), 2**31, 2**53 - 1, 2**53, 1 - 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("number", EDGES)
def test_in_r_a_result_is_an_integer_a_double_or_an_object_and_always_exact(in_r, number):
    result = reconstruct(split(number))
    kind = int if abs(number) < 2**31 else float if abs(number) <= 2**53 else Whole
    assert type(result) is kind
    assert int(result) == number


@pytest.mark.parametrize("number", EDGES)
def test_in_python_a_result_is_an_int(number):
    assert type(reconstruct(split(number))) is int
    assert type(reconstruct(split(np.array([number])))) is np.ndarray


def test_in_r_an_array_that_doubles_do_not_hold_is_an_object(in_r):
    assert type(reconstruct(split(np.array([2**53, -(2**53)])))) is np.ndarray
    for beyond in ([2**53 + 1, 1], [1, -(2**53) - 1]):
        result = reconstruct(split(np.array(beyond)))
        assert type(result) is WholeArray
        np.testing.assert_array_equal(result, beyond)
    assert type(to_caller(np.array([2**63], np.uint64))) is WholeArray


@pytest.mark.parametrize(
    ("secret", "match"),
    [
        ([1, True], "a bool was given"),
        ([1, "2"], "a str was given"),
        ([1, None], "a NoneType was given"),
        ([-1, 2**63], "numbers in a list are out of range"),
        ([2**64], "numbers in a list are out of range"),
        ([[1], [2]], "a list of lists or arrays"),
        ([np.array([1])], "a list of lists or arrays"),
        (np.array([1.0, np.nan]), "1 of 2 values are no whole numbers"),
        (np.array([2.0**53, -(2.0**53), 1e300]), "3 of 3 values are no whole numbers"),
        (np.array([1 + 0j]), "an array of complex128"),
        ({"a": 1}, "a dict was given"),
    ],
)
def test_what_is_no_whole_number_is_refused_and_not_shown(secret, match):
    with pytest.raises(SharingError, match=match):
        split(secret)


def test_empty_and_unsigned_lists():
    assert reconstruct(split([])).shape == (0,)
    assert reconstruct(split([2**63])).tolist() == [2**63]


SHAPE = (None, 28, 28, 1)


@pytest.mark.parametrize(
    "given",
    [(None, 28, 28, 1), [1.0, 28.0, 28.0, 1.0], (5, 28, 28, 1), np.array([1, 28, 28, 1]), [float("nan"), 28, 28, 1], [-(2**31), 28, 28, 1]],
)
def test_shapes_of_batches_of_any_size_are_the_same(given):
    check_shape("batch_input_shape", given, SHAPE, "mnist")


OTHERS = [(28, 28, 1), (1, 28, 28, 3), (1, 28, 28), (0, 28, 28, 1), (-1, 28, 28, 1), (1, None, 28, 1), (1.5, 28, 28, 1), (), 28, "28", None]


@pytest.mark.parametrize("given", OTHERS)
def test_other_shapes_are_refused(given):
    with pytest.raises(InputError, match=r"batch_input_shape.*\(None, 28, 28, 1\)"):
        check_shape("batch_input_shape", given, SHAPE, "mnist")

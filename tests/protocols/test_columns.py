"""Columns that fixed point holds too coarsely, or not at all, are named before they are shared."""

import warnings

import numpy as np
import pytest

from protocols import PrecisionWarning
from protocols.datasets.joined import joined
from protocols.errors import InputError
from protocols.mpc.numbers.fixed_point import decode
from protocols.owner.stored import described, encoded

STEP = 2.0**-16
RANDOM = np.random.default_rng(0)
Y = RANDOM.normal(size=200)
X = RANDOM.normal(size=(200, 4))


@pytest.mark.parametrize("scale", [1e-5, 1e-6, 1e-9, 1e-30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_column_of_which_nothing_is_left_is_refused(scale, dtype):
    with pytest.raises(InputError, match=r"'y': its column spreads over .*e-.* only.* in steps of 1.5e-05: nothing.*\(by 2\^\d+\)"):
        encoded("y", (Y * scale).astype(dtype), None)


@pytest.mark.parametrize("scale", [1e-3, 1e-4])
def test_a_coarse_column_is_warned_of(scale):
    with pytest.warns(PrecisionWarning, match="'y': its column spreads over .*, less than 256 of the steps"):
        encoded("y", Y * scale, None)


@pytest.mark.parametrize(
    ("scales", "named"),
    [([1, 1e-3, 1, 1], "column 1 of 4"), ([1e-6, 1, 1, 1e-4], "columns 0, 3 of 4"), ([1, 1e-9, 1, 1], "column 1 of 4")],
)
def test_columns_are_looked_at_one_by_one(scales, named):
    with pytest.warns(PrecisionWarning, match=named):
        encoded("x", X * scales, None)
    with pytest.raises(InputError, match="columns 0, 1, 2, 3 of 4"):
        encoded("x", X * np.asarray(scales) * 1e-6, None)


@pytest.mark.parametrize(
    "array",
    [
        Y * 5e-3,
        X + 100,
        X * [1, 0, 1, 1] + [0, 7, 0, 0],
        X * [1, 0, 1, 1] + [0, 1e-17, 0, 0],
        X * [1, 0, 1, 1] + [0, 100, 0, 0] + 1e-7 * Y[:, None] * [0, 1, 0, 0],
        np.full(5, 0.1),
        (RANDOM.random((500, 20)) < 2e-3) / 255.0,
        np.round(Y) * STEP,
        np.zeros((3, 2)),
    ],
    ids=["small", "far from 0", "constant", "constant but for float64", "constant but for float32", "one value", "rare", "steps", "zeros"],
)
def test_what_fixed_point_holds_well_says_nothing(array):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values, _ = encoded("x", array, None)
    np.testing.assert_allclose(decode(values, STEP), np.reshape(array, (len(array), -1)), atol=STEP / 2)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (Y * 1e6, "'x' has values beyond .*: its column reaches 2"),
        (X * [1, 1e3, 1, 1e9], "columns 1, 3 of 4 reach"),
        (np.where(np.eye(200, 4) > 0, np.nan, X), "columns 0, 1, 2, 3 of 4 with NaN"),
        (np.where(np.eye(200, 4) > 0, -np.inf, X), "columns 0, 1, 2, 3 of 4 with NaN or infinite"),
    ],
)
def test_what_is_too_large_is_refused_by_column(array, match):
    with pytest.raises(InputError, match=match):
        encoded("x", array, None)


def test_the_scale_that_is_proposed_is_enough():
    with pytest.raises(InputError) as refused:
        encoded("y", Y * 3e-7, None)
    power = int(str(refused.value).partition("(by 2^")[2].partition(")")[0])
    encoded("y", Y * 3e-7 * 2.0**power, None)


@pytest.mark.parametrize(
    ("array", "binary", "summing"),
    [
        (np.eye(3)[[0, 2, 1, 1]], True, True),
        (0.9 * np.eye(3)[[0, 2]] + 0.1 / 3, False, True),
        (np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), True, False),
        (np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.5]]), False, False),
        (np.array([[1], [0]]), True, False),
        (np.array([-1.0, 1.0]), False, False),
    ],
)
def test_what_workers_are_told_of_numbers(array, binary, summing):
    values, content = encoded("y", array, None)
    column = described("y", values, content, handle=b"")
    assert (column.content, column.binary, column.summing) == ("numbers", binary, summing)


def test_what_workers_are_told_of_arrays_of_several_owners():
    """Below each other all of it holds that holds of each; rows that are put beside each other sum to more than 1."""
    hot, soft, many = (
        described("y", encoded("y", array, None)[0], "numbers", handle=b"")
        for array in (np.eye(3), np.full((3, 3), 1 / 3), np.ones((3, 3)))
    )
    for pair, below, beside in (((hot, hot), (True, True), True), ((hot, soft), (False, True), False), ((many, hot), (True, False), True)):
        found = joined(pair, 0, b""), joined(pair, 1, b"")
        assert (found[0].binary, found[0].summing) == below
        assert (found[1].binary, found[1].summing) == (beside, False)

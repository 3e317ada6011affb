"""Tables of rows by private indices, and input ranges that are smaller, larger or elsewhere: right, or told which range to give."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from protocols.errors import WindowError
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.plaintext import evaluate


def table(rows, dtype="int32"):
    return keras.Sequential([keras.Input((6,), dtype=dtype), layers.Embedding(rows, 4)])


def one_hot(rows):
    x = keras.Input((6,))
    return keras.Model(x, ops.one_hot(ops.cast(x, "int32"), rows))


@pytest.mark.parametrize("build", [table, one_hot], ids=["Embedding", "one_hot"])
@pytest.mark.parametrize("rows", [3, 16, 17, 20, 100])
def test_a_table_larger_than_the_range_says_which_range_to_give(build, rows):
    advice = rf"it has {rows} rows, and its inputs are from 0 to .*; give input_range=\(0, {rows - 1}\)"
    for settings in ({}, {"input_range": (0, rows - 2)}, {"input_range": (0, rows // 2)}):
        with pytest.raises(WindowError, match=advice):
            lower(build(rows), **settings)


@pytest.mark.parametrize("input_range", [(-1, 19), (0, 20), (0, 40), (-5, -1), (0, 1e6)])
def test_a_range_beyond_the_table_says_so_too(input_range):
    with pytest.raises(WindowError, match=r"indices from 0 to 19 are needed; give input_range=\(0, 19\)"):
        lower(table(20), input_range=input_range)


@pytest.mark.parametrize(("rows", "input_range"), [(2, (0, 1)), (20, (0, 19)), (20, (5, 19)), (20, (0, 19.5)), (1, (0, 0.5))])
def test_the_range_that_is_asked_for_works(rows, input_range):
    model = table(rows, "float32")
    lowered = lower(model, input_range=input_range)
    x = np.resize(np.arange(np.ceil(input_range[0]), int(input_range[1]) + 1), (7, 6))
    y = decode(evaluate(lowered.program, lowered.weights, encode(x, lowered.program.input_scale)), lowered.program.output_scale)
    np.testing.assert_allclose(y, np.asarray(model(x)), atol=1e-5)


def test_the_only_row_of_a_table_has_a_range_as_well():
    with pytest.raises(WindowError, match=r"give input_range=\(0, 0.5\)"):
        lower(table(1))

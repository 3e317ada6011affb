"""Whole numbers and truths: what Keras takes for a truth, where integers wrap around, and what is refused, in the simulator."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.errors import InputError, ModelError, UnsupportedLayer, WindowError
from protocols.lowering import lower
from protocols.mpc.encoding import check_inside, encoded, rows
from protocols.mpc.numbers.fixed_point import decode

STEPS = 6
IDS = np.array([[0, 1, 2, 3, 4, 5], [5, 0, 0, 1, 3, 0], [1, 1, 1, 1, 1, 1]])


def built(build, dtype="int32", shape=(STEPS,)):
    keras.utils.set_random_seed(0)
    start = keras.Input(shape, dtype=dtype)
    return keras.Model(start, build(start))


def answers(model, x, input_range=(0, 5)):
    lowered = lower(model, input_range=input_range)
    transcript = Deployment(lowered.program, lowered.weights).run(encoded(lowered.program, x.astype(np.float64)))
    return decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)


def assert_same(model, x=IDS, input_range=(0, 5)):
    expected = np.asarray(model(ops.cast(x, model.inputs[0].dtype), training=False), np.float64)
    np.testing.assert_allclose(answers(model, x, input_range).reshape(expected.shape), expected, atol=0.004)


def floats(x):
    return ops.cast(x, "float32")


def vectors(x):
    return layers.Embedding(6, 4)(x)


def attention(x, **masks):
    y = vectors(x)
    return layers.MultiHeadAttention(2, 3)(y, y, **masks)


TRUTHS = {
    "where": lambda x: ops.where(x, 1.0, 0.0),
    "where, of values": lambda x: ops.where(x - 1, floats(x), -floats(x)),
    "cast": lambda x: floats(ops.cast(x, "bool")),
    "cast, and a mean": lambda x: ops.mean(floats(ops.cast(x, "bool")), 1),
    "cast twice": lambda x: floats(ops.cast(ops.cast(x, "bool"), "int8")),
    "not": lambda x: floats(ops.logical_not(x)),
    "and": lambda x: floats(ops.logical_and(x, x - 1)),
    "or": lambda x: floats(ops.logical_or(x, x > 3)),
    "a number of truths": lambda x: ops.where(ops.cast(x > 1, "int32") + ops.cast(x > 3, "int32"), 2.0, 1.0),
    "bits of truths": lambda x: floats(ops.bitwise_or(ops.cast(x > 3, "int32"), ops.cast(x < 1, "int32"))),
    "both bits of truths": lambda x: floats(ops.bitwise_and(ops.cast(x > 1, "int32"), ops.cast(x < 4, "int32"))),
    "attention": lambda x: attention(x, attention_mask=x[:, None, :]),
    "attention of some": lambda x: attention(x, value_mask=ops.cast(x, "bool")),
    "LSTM": lambda x: layers.LSTM(3)(vectors(x), mask=ops.cast(x, "bool")),
    "GRU": lambda x: layers.GRU(3)(vectors(x), mask=ops.not_equal(x, 3)),
    "softmax": lambda x: layers.Softmax()(floats(x), mask=x - 1),
    "softmax of a half": lambda x: layers.Softmax()(floats(x), mask=floats(x) / 4),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_what_is_not_zero_is_true(name):
    assert_same(built(TRUTHS[name]))


@pytest.mark.parametrize("name", ["where", "cast", "not", "and", "or"])
def test_so_it_is_for_floating_point(name):
    assert_same(built(TRUTHS[name], "float32"), IDS - 2, (-2, 3))


def test_a_truth_costs_no_comparison_more():
    plain, twice = (
        lower(built(lambda x, n=n: ops.where(ops.cast(x > 2, "bool") if n else x > 2, 1.0, floats(x))), input_range=(0, 5)).program
        for n in (0, 1)
    )
    assert plain.ops == twice.ops


REFUSED = {
    "bits of both": (lambda x: ops.bitwise_and(x, x + 1), "numbers of several bits"),
    "bits of one": (lambda x: ops.bitwise_or(x, np.full((STEPS,), 3, np.int32)), "numbers of several bits"),
    "bits of a constant": (lambda x: ops.bitwise_and(ops.cast(x > 1, "int32"), np.full((STEPS,), 3, np.int32)), "numbers of several bits"),
    "bounds of a table": (lambda x: ops.clip(floats(x), np.zeros(STEPS, np.float32), 1.0), r"bounds have shapes \(6,\) and \(\)"),
    "bounds turned round": (lambda x: ops.clip(floats(x), 0.5, -0.5), "bounds are 0.5 and -0.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_by_name(name):
    build, message = REFUSED[name]
    with pytest.raises(UnsupportedLayer, match=message):
        lower(built(build), input_range=(0, 5))


LEAVES = {
    "below 0": (lambda x: x - 5, "uint8", "uint8 holds those from 0 to 255"),
    "a square": (ops.square, "int8", "int8 holds those from -128 to 127"),
    "a difference": (lambda x: 5 - x, "uint16", "uint16 holds"),
    "a cast": (lambda x: ops.cast(x * 50, "int8"), "int32", "from 0 to 2000, and int8 holds"),
    "a saturating cast": (lambda x: ops.saturate_cast(x * 50, "int8"), "int32", "from 0 to 2000, and int8 holds"),
    "a product": (lambda x: x * 100_000_000, "int32", "int32 holds"),
    "a sum": (lambda x: ops.sum(x, 1) * 100_000_000, "int32", "int32 holds"),
    "added": (lambda x: x + x * 50, "uint8", "uint8 holds"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_integers_that_may_leave_their_type_are_refused(name):
    build, dtype, message = LEAVES[name]
    with pytest.raises(WindowError, match=f"{message}.*cast to int32 or float32 before"):
        lower(built(lambda x: floats(build(x)), dtype), input_range=(0, 40))


STAYS = {
    "a difference": (lambda x: x - 5, "int32"),
    "a narrow sum": (lambda x: x + 7, "uint8"),
    "a narrow square": (ops.square, "int8"),
    "a narrow cast": (lambda x: ops.cast(x * 14, "int8"), "int32"),
    "moved": (lambda x: ops.flip(ops.concatenate([x, x], 1), 1), "uint8"),
    "the larger": (lambda x: ops.maximum(x, 3), "uint8"),
}


@pytest.mark.parametrize("ends", [(0, 5), (np.zeros(STEPS), np.array([5, 5, 5, 5, 5, 9]))], ids=["one range", "ranges"])
@pytest.mark.parametrize("name", STAYS)
def test_those_that_are_proved_to_stay_are_computed(name, ends):
    build, dtype = STAYS[name]
    assert_same(built(lambda x: floats(build(x)), dtype), IDS, ends)


def of_two(integers="int32"):
    ids, facts = keras.Input((2,), dtype=integers, name="ids"), keras.Input((2, 2), name="facts")
    joined = ops.concatenate([floats(ids), ops.reshape(facts, (-1, 4))], -1)
    return keras.Model({"facts": facts, "ids": ids}, layers.Dense(2)(joined))


def checked(model, x, input_range=(0, 5)):
    program = lower(model, input_range=input_range).program
    check_inside(program, rows(program, x), "shop")
    return program


def test_a_client_gives_whole_numbers_where_the_model_takes_integers():
    model = built(lambda x: floats(x) * 0.5)
    checked(model, IDS.astype(np.float64))
    with pytest.raises(InputError, match=rf"1 of 6 values are no whole numbers, and input {model.inputs[0].name!r} of model 'shop'"):
        checked(model, np.array([[0, 1, 2, 3, 4, 3.5]]))
    assert "integers" not in msgspec.to_builtins(checked(built(lambda x: x * 2.0, "float32"), np.array([[0, 1, 2, 3, 4, 3.5]])))


def test_so_does_one_whose_model_casts_its_input_to_integers():
    model = built(lambda x: floats(ops.cast(x, "int32")) * 0.5, "float32")
    checked(model, IDS.astype(np.float64))
    with pytest.raises(InputError, match="1 of 6 values are no whole numbers"):
        checked(model, np.array([[0, 1, 2, 3, 4, 0.6]]))


def test_of_several_inputs_only_those_that_are_integers():
    fine = {"ids": np.array([[1.0, 2.0]]), "facts": np.full((1, 2, 2), 0.5)}
    checked(of_two(), fine)
    checked(of_two("float32"), fine | {"ids": np.array([[1.0, 2.5]])})
    with pytest.raises(InputError, match="1 of 2 values are no whole numbers, and input 'ids' of model 'shop'"):
        checked(of_two(), fine | {"ids": np.array([[1.0, 2.5]])})


def test_what_lies_outside_is_told_with_the_name_of_its_input():
    ends = {"ids": (0, 5), "facts": (np.zeros((2, 2)), np.array([[1, 1], [0.25, 1]]))}
    with pytest.raises(InputError, match=r"in feature \(1, 0\) of input 'facts', for which"):
        checked(of_two(), {"ids": np.array([[1, 2]]), "facts": np.full((1, 2, 2), 0.5)}, ends)


@pytest.mark.parametrize("given", [5, None, (1, 2, 3)])
def test_a_range_of_several_inputs_that_is_no_pair_is_refused(given):
    with pytest.raises(ModelError, match=r"a pair \(low, high\), or one by name"):
        lower(of_two(), input_range=given)

"""Operations whose weights or randomness are larger than their memory are cut: the same answers and rounds, nothing larger at once."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.lowering import lower
from protocols.lowering.scales import draft
from protocols.lowering.scales.draft import MOST_PARTS
from protocols.mpc import inference
from protocols.mpc.engine import loops
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.program import infer
from protocols.serving.streams import largest_operation

LEAST = 3000


def sequential(shape, *stack):
    return keras.Sequential([layers.Input(shape), *stack])


def attended(shape):
    x = start = layers.Input(shape)
    x = x + layers.MultiHeadAttention(2, 4)(x, x)
    return keras.Model(start, layers.Multiply()([layers.Dense(8, activation="gelu")(x), layers.Dense(8, activation="tanh")(x)]))


def broadcast(shape):
    start = layers.Input(shape)
    x = layers.Dense(24, activation="relu")(start)
    return keras.Model(start, layers.Dense(2)(x * ops.mean(x, axis=-1, keepdims=True) * ops.max(x, axis=1, keepdims=True)))


MODELS = {
    "a dense layer": lambda: sequential((30,), layers.Dense(40, activation="relu"), layers.Dense(3)),
    "one without a bias": lambda: sequential((30,), layers.Dense(40, use_bias=False), layers.Dense(3, activation="softmax")),
    "a kernel larger than its bound": lambda: sequential((400,), layers.Dense(3)),
    "convolutions": lambda: sequential(
        (10, 10, 3),
        layers.Conv2D(8, 3, padding="same", activation="relu"),
        layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation="swish"),
        layers.Conv2D(8, 2, groups=4, activation="leaky_relu"),
        layers.MaxPooling2D(2),
        layers.Flatten(),
        layers.Dense(3),
    ),
    "one long axis": lambda: sequential((2, 300), layers.BatchNormalization(), layers.ReLU(), layers.Dense(2)),
    "attention and products": lambda: attended((12, 8)),
    "factors that are repeated": lambda: broadcast((12, 6)),
}


def answers(lowered, x):
    transcript = Deployment(lowered.program, lowered.weights).run(encode(x, lowered.program.input_scale))
    return decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "checked"])
@pytest.mark.parametrize("name", MODELS)
def test_answers_are_those_of_the_whole(name, checked):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    samples = np.random.default_rng(0).uniform(size=(12, *model.input_shape[1:]))
    settings = {"calibration": samples, "checked": checked}
    whole = lower(model, **settings)
    parts = lower(model, **settings, memory=LEAST)
    x = samples[:3]
    expected = model.predict(x, verbose=0).reshape(3, -1)
    found = [answers(each, x)[:, : expected.shape[1]] for each in (whole, parts)]
    np.testing.assert_allclose(found[1], expected, atol=0.01)
    np.testing.assert_allclose(found[1], found[0], atol=0.01)

    def largest(program):
        sizes = inference.layout(program).sizes(1)
        elementwise = {at: size for at, size in sizes.items() if program.ops[at].elementwise}
        return max([*elementwise.values(), *(8 * int(np.prod(shape)) for shape in program.weights)])

    assert largest(whole.program) > LEAST
    least = max(8 * max(shape[-2] for shape in whole.program.weights if len(shape) > 1), 700)  # a column is not cut, nor one element
    assert largest(parts.program) <= max(1.5 * LEAST, least)
    first, second = (loops.costs(each.program.ops, infer(each.program)) for each in (whole, parts))
    # A rounding in parts is opened for a product.
    assert second.rounds <= first.rounds + (1 if "product" in name or "factors" in name else 0)
    assert sum(np.prod(shape) for shape in parts.program.weights) == sum(np.prod(shape) for shape in whole.program.weights)


def test_what_fits_is_as_it_was():
    model = MODELS["convolutions"]()
    samples = np.random.default_rng(0).uniform(size=(4, 10, 10, 3))
    program = lower(model, calibration=samples).program
    assert lower(model, calibration=samples, memory=1 << 40).program == program


def test_the_more_memory_the_fewer_parts():
    model = MODELS["convolutions"]()
    programs = [lower(model, memory=memory).program for memory in (LEAST, 4 * LEAST, 16 * LEAST, 1 << 40)]
    ops, weights = ([len(getattr(program, name)) for program in programs] for name in ("ops", "weights"))
    assert ops[0] > ops[1] > ops[2] > ops[3]
    assert weights[0] > weights[1] >= weights[2] >= weights[3]


@pytest.mark.parametrize("most", [8, MOST_PARTS])
@pytest.mark.parametrize("name", ["a dense layer", "convolutions"])
def test_of_the_smallest_parts_the_largest_is_the_smallest_memory(name, most, monkeypatch):
    """What is refused names a number that works, and no smaller one does; what is cut that far is still no list of single elements."""
    monkeypatch.setattr(draft, "MOST_PARTS", most)
    model = MODELS[name]()
    samples = np.random.default_rng(0).uniform(size=(4, *model.input_shape[1:]))

    def needed(memory):
        return largest_operation(lower(model, calibration=samples, memory=memory).program)

    least = needed(1)
    assert needed(least) <= least
    assert needed(least - 1) == least
    assert needed(2 * least) <= 2 * least
    elementwise = sum(op.elementwise for op in lower(model, calibration=samples).program.ops)
    assert sum(op.elementwise for op in lower(model, calibration=samples, memory=1).program.ops) <= 4 * most * elementwise


def test_a_kernel_that_several_steps_use_has_its_parts_once():
    model = sequential((4, 3), layers.SimpleRNN(30, activation="relu"))
    whole = lower(model, calibration=np.random.default_rng(0).uniform(size=(4, 4, 3)))
    parts = lower(model, calibration=np.random.default_rng(0).uniform(size=(4, 4, 3)), memory=LEAST)
    words = [sum(np.prod(shape) for shape in each.program.weights) for each in (whole, parts)]
    assert words[0] == words[1]
    assert len(parts.program.weights) > len(whole.program.weights)

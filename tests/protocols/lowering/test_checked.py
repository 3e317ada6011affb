"""Programs that say of each answer whether its input has left what was calibrated on samples."""

import math
from dataclasses import replace

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, ops

from deployment import Deployment
from protocols.errors import Inaccurate, ModelError, ProgramError, WindowError
from protocols.lowering import lower
from protocols.lowering.nodes import network as net
from protocols.lowering.scales.checking import SLACK, CheckedWriter
from protocols.lowering.scales.emission import Writer
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import hold
from protocols.mpc.encoding import encoded
from protocols.mpc.inference import layout
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.operations.clamp import ClampedInput
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import AsShare, Input, Open
from protocols.mpc.parties.material import packed
from protocols.mpc.program import Program, infer
from protocols.noisy_answers import NoisyAnswers
from protocols.selfcheck.comparison import compare
from protocols.serving.hosting import fingerprint

SCALES = (1.0, 0.01, 1.7, 2.5, 6.0, 50.0, -50.0)
"""Of the samples, which lie in [-0.02, 0.02]; the input range is [-1, 1]."""
TOLERANCE = 0.02


def dense(units, *args, deviation=1.0, **settings):
    return layers.Dense(units, *args, kernel_initializer=keras.initializers.RandomNormal(0, deviation), **settings)


def chain(*parts, shape=(6,)):
    return keras.Sequential([layers.Input(shape), *parts])


def deep(*last, depth=6):
    return chain(*[dense(24, "relu", use_bias=False) for _ in range(depth)], *(last or (dense(3, deviation=0.1),)))


def image():
    many = [layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="ones") for _ in range(4)]
    return chain(*many, layers.MaxPooling2D(2), layers.Flatten(), dense(3, deviation=0.1), shape=(6, 6, 2))


def residual():
    x = start = layers.Input((6,))
    for _ in range(4):
        x = dense(16, "relu", use_bias=False)(x)
        x = layers.Add()([x, dense(16, use_bias=False)(x)])
    return keras.Model(start, dense(3, deviation=0.1)(x))


def quotient():
    start = layers.Input((6,))
    x = dense(8, use_bias=False)(start)
    return keras.Model(start, ops.divide(x, 0.001 + ops.sum(ops.square(x), axis=-1, keepdims=True)))


def squares():
    x = start = layers.Input((6,))
    for _ in range(3):
        x = dense(6, use_bias=False)(ops.square(x))
    return keras.Model(start, x)


def attention():
    start = layers.Input((5, 4))
    x = layers.MultiHeadAttention(2, 4)(start * 20.0, start * 20.0)
    return keras.Model(start, dense(3)(layers.Flatten()(x)))


MODELS = {
    "deep": deep,
    "softmax": lambda: deep(dense(4), layers.Softmax()),
    "capped": lambda: chain(*[dense(24, layers.ReLU(), use_bias=False) for _ in range(5)], dense(8), layers.ReLU(6.0), dense(3)),
    "leaky": lambda: chain(*[layer for _ in range(5) for layer in (dense(24, use_bias=False), layers.LeakyReLU(0.2))], dense(3)),
    "image": image,
    "residual": residual,
    "curve": lambda: chain(*[dense(24, "softplus", use_bias=False) for _ in range(4)], dense(3, deviation=0.1)),
    "normalised": lambda: chain(dense(8, use_bias=False), layers.LayerNormalization(epsilon=1e-6), dense(3)),
    "deep normalised": lambda: deep(dense(8, use_bias=False), layers.LayerNormalization(), dense(3)),
    "root": lambda: chain(dense(8, use_bias=False), layers.RMSNormalization(epsilon=1e-6), dense(3)),
    "quotient": quotient,
    "squares": squares,
    "attention": attention,
    "recurrent": lambda: chain(
        *[dense(24, "relu", use_bias=False) for _ in range(6)], layers.SimpleRNN(4, activation="relu"), shape=(3, 6)
    ),
}


def made(name, seed):
    keras.utils.set_random_seed(seed)
    model = MODELS[name]()
    samples = np.random.default_rng(seed).uniform(-0.02, 0.02, (24, *model.input_shape[1:]))
    return model, samples


def asked(lowered, x):
    """Outputs, or one-hot labels, of examples; which of them are outside; and the transcript."""
    program = lowered.program
    transcript = Deployment(program, lowered.weights).run(encoded(program, x))
    first, second = (transcript.results[party] for party in (0, 1))
    opened = first + second
    assert set(opened[:, -1].tolist()) <= {0, 1}
    return decode(opened[:, :-1], program.output_scale), opened[:, -1] == 1, transcript


def labelled(lowered, x):
    """Labels, the one behind the last for an input that is outside; and the transcript."""
    program = lowered.program
    transcript = Deployment(program.for_label(), lowered.weights).run(encoded(program, x))
    bits = unpack(transcript.results[0] ^ transcript.results[1], program.output_shape[0] + program.checked)
    assert (bits.sum(axis=1) == 1).all()
    return bits.argmax(axis=1), transcript


def read(lowered, x):
    """Examples as the fixed point of the input holds them: its steps are no subject of these tests, but normalisations enlarge them."""
    return decode(encoded(lowered.program, x), lowered.program.input_scale)


def keras_answers(model, x):
    return np.asarray(model(x.astype(np.float32))).reshape(len(x), -1)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.sample(6)
def test_no_answer_is_wrong_without_a_word_and_none_of_the_samples_is_refused(name, seed):
    model, samples = made(name, seed)
    lowered = lower(model, input_range=(-1, 1), calibration=samples, checked=True)
    assert "calibrated" in {layer.source for layer in lowered.layers}
    assert lowered.program.checked
    found = 0
    for scale in SCALES:
        x = read(lowered, scale * samples)
        answers, outside, _ = asked(lowered, x)
        expected = keras_answers(model, x)
        size = max(np.abs(expected).max(), np.abs(keras_answers(model, samples)).max())
        errors = np.abs(answers - expected).max(axis=1) / size
        assert (errors[~outside] < TOLERANCE).all(), (scale, errors[~outside].max())
        assert not answers[outside].any()  # nothing of what is outside
        assert not (scale == 1 and outside.any())
        found += outside.sum()
        if lowered.program.label is not None and scale in (1.0, 50.0):
            labels, _ = labelled(lowered, x)
            classes = model.output_shape[-1]
            assert not (scale == 1 and (labels == classes).any())
            inside = labels < classes
            best = np.take_along_axis(expected, labels.clip(0, classes - 1)[:, None], 1)[:, 0]
            assert (expected.max(axis=1) - best)[inside].max(initial=0) < 2 * TOLERANCE * size
            if name != "softmax":
                assert (inside == ~outside).mean() > 0.95  # the same bit; roundings at the very edge may be others
    assert found or name == "curve"  # 50 times the samples may be but a little more after a softplus


def test_without_it_such_answers_are_noise():
    """What the test above would show of a program that is not checked."""
    model, samples = made("deep", 1)
    lowered = lower(model, input_range=(-1, 1), calibration=samples)
    x = 50 * samples
    transcript = Deployment(lowered.program, lowered.weights).run(encoded(lowered.program, x))
    answers = decode(transcript.results[0] + transcript.results[1], lowered.program.output_scale)
    expected = keras_answers(model, x)
    assert np.abs(answers - expected).max() > 0.5 * np.abs(expected).max()


def test_answers_inside_are_those_of_the_program_that_is_not_checked():
    model, samples = made("deep", 1)
    plain, checked = (lower(model, input_range=(-1, 1), calibration=samples, checked=checked) for checked in (False, True))
    transcript = Deployment(plain.program, plain.weights).run(encoded(plain.program, samples))
    expected = decode(transcript.results[0] + transcript.results[1], plain.program.output_scale)
    answers, outside, _ = asked(checked, samples)
    assert not outside.any()
    np.testing.assert_allclose(answers, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(labelled(checked, samples)[0], labelled(plain, samples)[0])


@pytest.mark.parametrize("checked", [False, True])
def test_what_is_proved_needs_no_check(checked):
    keras.utils.set_random_seed(1)
    model = chain(layers.Dense(8, "relu"), layers.Dense(3), layers.Softmax())
    samples = np.random.default_rng(0).uniform(0, 1, (8, 6))
    program = lower(model, calibration=samples, checked=checked).program
    assert program == lower(model, calibration=samples).program
    assert not program.checked
    assert b"answer" not in msgspec.msgpack.encode(program)


def test_the_fingerprint_of_a_program_that_is_not_checked_is_what_it_was():
    program = Program((Input(), Dense(0, 0)), ((6, 3),), (6,), 2.0**-16, (0.0, 1.0), 2.0**-36)
    assert fingerprint(program).hex() == "fac7fce085aa7e35ff964fa2bb83341bed680d854516224a39804b89c1c9485a"
    checked = msgspec.structs.replace(program, answer=(2,))
    assert fingerprint(checked) != fingerprint(program)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(checked), type=Program) == checked
    assert checked.output_shape == (2,)


def test_an_answer_without_its_bit_is_no_program():
    program = Program((Input(), AsShare(0)), (), (3,), 1.0, (0.0, 1.0), 1.0, answer=(3,))
    with pytest.raises(ProgramError, match=r"an answer of shape \(3,\) and one number more do not fit a value of shape \(3,\)"):
        infer(program)


def test_clients_that_send_what_they_like_get_no_answer_that_is_wrong():
    model, samples = made("deep", 1)
    lowered = lower(model, input_range=(-1, 1), calibration=samples, clients="malicious", checked=True)
    assert isinstance(lowered.program.ops[0], ClampedInput)
    sent = encode(np.random.default_rng(1).uniform(-1e9, 1e9, (30, 6)), lowered.program.input_scale)
    sent[:10] = encoded(lowered.program, samples[:10])
    cut = decode(sent, lowered.program.input_scale).clip(-1, 1)
    opened = Deployment(lowered.program, lowered.weights).output(sent)
    outside = opened[:, -1] == 1
    expected = keras_answers(model, cut)
    assert not outside[:10].any()
    assert outside[10:].all()
    errors = np.abs(decode(opened[:, :-1], lowered.program.output_scale) - expected)
    assert errors[:10].max() < TOLERANCE * np.abs(expected[:10]).max()


@pytest.mark.parametrize("checked", ["no", "yes", 1, 0, None, [], np.ones(2)])
def test_checked_is_true_or_false(checked):
    model, samples = made("deep", 1)
    with pytest.raises(ModelError, match=r"checked=.*; True or False is needed"):
        lower(model, input_range=(-1, 1), calibration=samples, checked=checked)


@pytest.mark.parametrize("margin", ["2", None, True, np.nan, np.inf, 0.5, [2.0]])
def test_a_margin_is_a_finite_number(margin):
    model, samples = made("deep", 1)
    with pytest.raises(ModelError, match=r"margin=.*; a finite number of at least 1 is needed"):
        lower(model, input_range=(-1, 1), calibration=samples, margin=margin)


def test_numpy_gives_settings_too():
    model, samples = made("deep", 1)
    program = lower(model, input_range=(-1, 1), calibration=samples, checked=np.True_, margin=np.float32(2)).program
    assert program == lower(model, input_range=(-1, 1), calibration=samples, checked=True, margin=2).program


def test_noisy_answers_are_refused():
    model, samples = made("deep", 1)
    answers = NoisyAnswers(clip=4.0, noise_multiplier=2.0, max_epsilon=8.0)
    with pytest.raises(ModelError, match=r"checked=True with answers=: .* more than their epsilon"):
        lower(model, calibration=samples, answers=answers, checked=True)


def test_what_cannot_be_compared_is_refused_by_name():
    """Sums that are proved to stay below 2^65 only, though the samples' are small: they could wrap around in the ring unseen."""
    bounds = Interval(np.full(3, -(2.0**65)), np.full(3, 2.0**65), np.ones((4, 3)))
    writer = CheckedWriter((3,), (0.0, 1.0), np.ones((4, 3)), 2.0)
    writer.node = net.Start(layer="wide", kind="Dense", inputs=(), shape=(3,))
    with pytest.raises(WindowError, match=r"layer 'wide' \(Dense\): with checked=True .* the proof gives 3\.69e\+19"):
        writer.put(AsShare(0), 1.0, bounds)


def test_check_samples_that_are_outside_are_told_by_share():
    model, samples = made("deep", 1)
    lowered = lower(model, input_range=(-1, 1), calibration=samples, checked=True)
    assert compare(model, lowered, calibration=samples).error < TOLERANCE
    with pytest.raises(Inaccurate, match="check samples leave the window of a calibrated layer"):
        compare(model, lowered, check=np.concatenate([samples, 5 * 2 * samples]))


# The comparison itself: of whole numbers, with everything between the two ends of the ring.


def found(low, high, x, reach):
    """Which x are found outside of [low, high], by a program that knows that they lie within `reach`."""
    writer = CheckedWriter((1,), (0.0, 1.0), None, 1.0)
    ends = np.full(1, float(reach))
    value = replace(writer.share(writer.input), range=Interval(-ends, ends, np.zeros((0, 1))))
    writer.check(value, Interval(np.full(1, float(low)), np.full(1, float(high)), np.zeros((0, 1))))
    assert any(isinstance(op, Piecewise) for op in writer.ops)
    _, outside = writer._guard(value)
    program = Program(tuple(writer.ops[: outside.position + 1]), (), (1,), 1.0, (0.0, 1.0), 1.0)
    return Deployment(program, []).output(np.array(x, np.int64).reshape(-1, 1).view(np.uint64))[:, 0] == 1


ENDS = [(-5, 5), (-63, 63), (-1000, 1000), (-(1 << 40), 1 << 40), (100, 1 << 40), (-(1 << 20), 37), (3, 3 << 50)]


@pytest.mark.parametrize("reach", [1 << 52, 1 << 60, int(2**60.5)])
@pytest.mark.parametrize(("low", "high"), ENDS)
def test_all_that_is_outside_is_found_and_all_that_is_well_inside_is_not(low, high, reach):
    beyond = [*range(high + 1, high + 40), *range(low - 40, low)]
    powers = [sign * (1 << q) for q in range(61) for sign in (1, -1)] + [reach, -reach, reach - 1]
    outside = [x for x in beyond + powers if not low <= x <= high and abs(x) <= reach]
    assert found(low, high, outside, reach).all()
    parts = np.linspace(0, 1, 50)
    inner = [low + abs(low) / 32, high - abs(high) / 32]
    inside = [x for x in (int(inner[0] + part * (inner[1] - inner[0])) for part in parts) if inner[0] <= x <= inner[1]]
    assert inside
    assert not found(low, high, inside, reach).any()


def test_ends_that_are_proved_are_not_compared_with():
    writer = CheckedWriter((2,), (0.0, 1.0), None, 1.0)
    writer.check(writer.input, writer.input.range)
    assert len(writer.ops) == 1
    writer.check(writer.input, writer.input.range.clipped(1000.0))  # from 0 on by proof
    assert [op.knots for op in writer.ops if isinstance(op, Piecewise)] == [((1000 >> 3) - 1 + 1,)]


def test_a_calibrated_window_holds_a_little_more_where_it_is_checked():
    bounds = Interval(np.full(2, -(2.0**50)), np.full(2, 2.0**50), np.full((3, 2), 2.0**20))
    node = net.Start(layer="sums", kind="Dense", inputs=(), shape=(2,))
    plain, wider = (hold(bounds, 2.0**-15, node, margin=2.0, slack=slack) for slack in (0.0, SLACK))
    assert plain.source == wider.source == "calibrated"
    assert (1 + SLACK) * plain.range.largest <= wider.range.largest < 2 * 64 / 63 * (1 + SLACK) * plain.range.largest
    assert Writer.slack == 0


@pytest.mark.parametrize(
    "name", ["deep", *(pytest.param(name, marks=pytest.mark.long) for name in ("residual", "image", "leaky", "capped", "curve", "squares"))]
)
def test_a_public_program_tells_of_the_samples_no_more_than_windows_do(name):
    """With samples that are larger by a few percent the program is the same, unless a power of two lies between: knots would tell else."""
    model, samples = made(name, 1)
    programs = []
    for factor in np.linspace(1, 1.5, 12):
        lowered = lower(model, input_range=(-1, 1), calibration=factor * samples, checked=True)
        knots = [op.knots for op in lowered.program.ops if isinstance(op, Piecewise) and op.slopes[0] == op.slopes[-1] == 0]
        programs.append((lowered.program.ops, knots))
        for found in knots[:-1]:  # the last asks whether any comparison has fired
            assert all(abs(knot) in COMPARED for knot in found), found
    different = [ops for ops, _ in programs]
    assert len([i for i in range(1, 12) if different[i] != different[i - 1]]) <= len(knots) + 1


COMPARED = (125, 126)
"""63 / 64 of a power of two, rounded to seven bits, and one less."""


# What it costs.


def sent(program):
    """Bytes that a server sends for an example in openings and piecewise functions."""
    total = 0
    for op, value in zip(program.ops, infer(program), strict=True):
        if isinstance(op, Open):
            total += 8 * value.size
        if isinstance(op, Piecewise):
            total += 8 * value.size + 8 * packed(len(op.knots) * value.size) * (blocks_for(op.window).opened + 1)
    return total


@pytest.mark.parametrize("kernel", ["ones", keras.initializers.RandomNormal(0, 1)], ids=["one end", "both ends"])
def test_the_rounds_and_bytes_that_are_stated(kernel):
    """Four convolutions with ReLU: the comparisons of a layer go along with it; 3 rounds more at the end, with labels, too."""
    keras.utils.set_random_seed(1)
    many = [layers.Conv2D(16, 3, activation="relu", kernel_initializer=kernel) for _ in range(4)]
    model = chain(*many, layers.Flatten(), dense(3, deviation=0.1), shape=(12, 12, 2))
    samples = np.random.default_rng(0).uniform(-0.01, 0.01, (12, 12, 12, 2))
    plain, checked = (lower(model, input_range=(-1, 1), calibration=samples, checked=checked) for checked in (False, True))
    before = Deployment(plain.program, plain.weights).run(encoded(plain.program, samples))
    _, _, after = asked(checked, samples)
    compared = [
        math.prod(keras_layer.output.shape[1:])
        for keras_layer, layer in zip(model.layers, checked.layers, strict=False)
        if layer.source == "calibrated"
    ]
    assert 0 < [layer.source for layer in plain.layers].count("calibrated") <= len(compared)
    assert (before.rounds, after.rounds) == (16, 19)
    assert [labelled(each, samples)[1].rounds for each in (plain, checked)] == [22, 25]
    more = sent(checked.program) - sent(plain.program)
    for pair in ((0, 1), (1, 0)):
        assert after.sent[pair] - before.sent[pair] == len(samples) * more
    dealt = 8 * (layout(checked.program).dealt - layout(plain.program).dealt)
    assert 8 * sum(compared) < more < 11 * sum(compared)
    assert dealt < 128 * sum(compared)


def test_a_label_waits_for_the_logits_of_a_softmax_only():
    model, samples = made("softmax", 1)
    plain, checked = (lower(model, input_range=(-1, 1), calibration=samples, checked=checked) for checked in (False, True))
    found = [labelled(each, samples)[1].rounds for each in (plain, checked)]
    assert found[1] == found[0] + 3
    assert asked(checked, samples)[2].rounds > found[1]

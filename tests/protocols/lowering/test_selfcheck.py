"""What is shared is compared with Keras before anybody is served."""

import dataclasses
import warnings

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from sklearn import datasets

from protocols.errors import CoarseInput, CoarseOutput, Imprecise, Inaccurate, ModelError
from protocols.lowering import Lowered, lower
from protocols.mpc.operations.sums import Combine
from protocols.mpc.parties.exchange import Ring
from protocols.noisy_answers import NoisyAnswers
from protocols.selfcheck.comparison import DRAWN, compare, multiplications
from protocols.selfcheck.examples import drawn
from protocols.selfcheck.report import check_tolerance


def small(*last, seed=1):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3), *last], name="small")


def mutated(lowered: Lowered, index: int, factor: float) -> Lowered:
    """The same with one weight that is wrong."""
    weights: list[Ring] = [weight.copy() for weight in lowered.weights]
    flat = weights[index].reshape(-1).view(np.int64)
    place = np.abs(flat).argmax()
    flat[place] = int(flat[place] * factor)
    return dataclasses.replace(lowered, weights=weights)


def test_a_right_program_passes_and_its_error_is_told():
    model = small()
    check = compare(model, lower(model))
    assert (check.samples, check.source) == (DRAWN, "drawn")
    assert 0 < check.error < 1e-3 * check.largest
    assert check.labels == 0
    assert str(check) == f"largest error on {DRAWN} drawn inputs: {check.error:.2g} of {check.largest:.2g}"


def test_the_error_is_that_of_the_program():
    """Beside a comparison made by hand: the same samples, the protocol's own arithmetic."""
    model = small()
    lowered = mutated(lower(model), 2, 1.02)
    x = np.linspace(0, 1, 60).reshape(10, 6)
    check = compare(model, lowered, check=x, tolerance=None)
    kernel = model.layers[1].get_weights()[0]
    hidden = np.maximum(x @ model.layers[0].get_weights()[0], 0)
    worst = np.unravel_index(np.abs(kernel).argmax(), kernel.shape)
    moved = 0.02 * np.abs(kernel[worst] * hidden[:, worst[0]]).max()
    assert check.source == "check"
    assert check.samples == 10
    assert abs(check.error - moved) < 1e-3 * check.largest


@pytest.mark.parametrize("index", [0, 2], ids=["first layer", "last layer"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 1.2])
def test_a_wrong_weight_is_found(index, factor):
    model = small()
    with pytest.raises(Inaccurate, match=r"model 'small': on 16 inputs drawn .* outputs differ by up to \S+, of at most \S+; \S+ are"):
        compare(model, mutated(lower(model), index, factor))


def test_the_tolerance_is_the_users():
    model = small()
    lowered = mutated(lower(model), 2, 1.2)
    found = compare(model, lowered, tolerance=None)
    part = found.error / found.largest
    assert 1e-3 < part < 1
    with pytest.warns(Imprecise, match=r"differ by up to \S+ from Keras', whose range is"):
        assert compare(model, lowered, tolerance=1.01 * part) == found
    with pytest.raises(Inaccurate, match=r"tolerance=.* a larger tolerance=, or None"):
        compare(model, lowered, tolerance=0.99 * part)


def test_probabilities_may_be_off_by_a_little_where_all_are_small():
    model = small(layers.Dense(1, "sigmoid", bias_initializer=keras.initializers.Constant(-9.0)))
    lowered = lower(model)
    bias = max(range(len(lowered.weights)), key=lambda i: (lowered.weights[i].shape == (1,), i))
    check = compare(model, lowered)
    assert check.largest < 0.01
    off = compare(model, mutated(lowered, bias, 0.8))  # 7e-4 in place of 1e-4
    assert 0.02 > off.error > 2 * off.largest
    with pytest.raises(Inaccurate, match=r"tolerance=1e-05"):
        compare(model, mutated(lowered, bias, 0.8), tolerance=1e-5)


def test_labels_are_compared_too():
    """A label's program ends in sums of its own: here in those that were not told the bias of the last layer."""
    model = small()
    model.layers[-1].bias.assign([0.0, 0.0, 3.0])
    lowered = lower(model)
    program = lowered.program
    ops = (*program.ops, msgspec.structs.replace(program.ops[-1], bias=None))
    label = msgspec.structs.replace(program.label, x=len(ops) - 1)
    ops = (*ops, Combine((len(program.ops) - 1,), (1,)))
    broken = dataclasses.replace(lowered, program=msgspec.structs.replace(program, ops=ops, label=label))
    with pytest.raises(Inaccurate, match="labels differ where outputs are"):
        compare(model, broken)
    assert compare(model, broken, tolerance=None).labels > 0


def test_a_table_in_one_range_is_warned_of_and_refused():
    """Raw features of different scales: the smallest has less than a step for its deviation."""
    x = datasets.load_breast_cancer().data.astype(np.float32)
    keras.utils.set_random_seed(3)
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((30,)), normalization, layers.Dense(16, "relu"), layers.Dense(2)])
    with pytest.warns(
        CoarseInput, match=r"^feature 19 varies by 0\.00264, and inputs have steps of 0\.125, and 25 more \(14, .*input_range="
    ):
        lowered = lower(model, input_range=(0, float(x.max())), calibration=x)
    with pytest.raises(Inaccurate, match=r"on 256 calibration samples .*feature 19 varies by 0\.00264.*arrays as input_range"):
        compare(model, lowered, calibration=x)
    with pytest.warns(CoarseInput, match="feature 19"):
        proved = lower(model, input_range=(0, float(x.max())), calibration=x)
    with pytest.raises(Inaccurate, match="inputs drawn"):
        compare(model, proved)  # about the means that the model normalises by
    right = lower(model, input_range=(x.min(axis=0), x.max(axis=0)))
    assert compare(model, right, check=x).error < 1e-3


def test_what_the_samples_say_is_warned_of_without_a_normalization():
    model = small()
    x = np.random.default_rng(0).random((40, 6)) * [1000, 1, 1e-3, 1, 1, 0]
    with pytest.warns(CoarseInput, match=r"^feature 2 varies by 0\.0009.*, and 3 more"):
        lower(model, input_range=(0, 1000), calibration=x)
    assert lower(model, input_range="calibration", calibration=x).coarse == ()


def test_a_sample_that_leaves_a_calibrated_window_is_named():
    keras.utils.set_random_seed(1)
    deep = keras.Sequential([keras.Input((6,)), *(layers.Dense(32, "relu") for _ in range(30)), layers.Dense(3)], name="deep")
    usual, strange = np.full((4, 6), 1e-6), np.ones((1, 6))
    lowered = lower(deep, calibration=usual, margin=1.0)
    assert any(layer.source == "calibrated" for layer in lowered.layers)
    with pytest.raises(Inaccurate, match=r"check samples leave the window of a calibrated layer \(of .*more samples as"):
        compare(deep, lowered, check=strange)


@pytest.mark.parametrize(
    ("check", "why"),
    [(np.zeros((2, 5)), r"shape \(2, 5\)"), (np.zeros((0, 6)), "n >= 1"), (np.full((1, 6), 1.5), "outside of input_range")],
)
def test_samples_that_do_not_fit_are_refused(check, why):
    model = small()
    with pytest.raises(ModelError, match=why):
        compare(model, lower(model), check=check)


def test_what_keras_itself_cannot_say_is_not_compared():
    keras.utils.set_random_seed(1)
    start = keras.Input((3,))
    model = keras.Model(start, layers.Dense(2)(start))
    lowered = lower(model)
    model.layers[-1].bias.assign([np.nan, 0.0])
    with pytest.raises(Inaccurate, match="NaN or infinite on all of 16"):
        compare(model, lowered)


def test_noisy_answers_are_compared_without_their_noise():
    model = small()
    answers = NoisyAnswers(clip=0.3, noise_multiplier=1.0, max_epsilon=1e5)
    check = compare(model, lower(model, answers=answers), clip=answers.clip)
    assert check.largest <= 0.3
    assert check.error < 1e-2 * check.largest


def test_drawn_inputs_are_of_each_kind_and_the_same_each_time():
    start = keras.Input((3,))
    code = layers.Flatten()(layers.Embedding(9, 2)(start[:, :1]))
    number = layers.Normalization(mean=[50.0], variance=[1.0])(start[:, 1:2])
    model = keras.Model(start, layers.Dense(1)(layers.Concatenate()([code, number, start[:, 2:]])))
    low, high = np.array([0.0, 0.0, -1.0]), np.array([8.0, 100.0, 1.0])
    spread = lower(model, input_range=(low, high)).spread
    x = drawn(60, low, high, spread)
    np.testing.assert_array_equal(x, drawn(60, low, high, spread))
    assert ((low <= x) & (x <= high)).all()
    assert (x[:, 0] == np.floor(x[:, 0])).all()
    assert set(x[:, 0]) == set(range(9))
    uniform, ends, near = (x[kind::3] for kind in range(3))
    assert np.abs(uniform[:, 1] - 50).max() > 20
    assert set(ends[:, 1:].reshape(-1)) == {0.0, 100.0, -1.0, 1.0}
    assert np.abs(near[:, 1] - 50).max() < 6
    assert near[:, 1].std() > 0.4


def test_a_large_model_is_compared_on_few_inputs():
    large = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(64, 3), layers.Conv2D(64, 3, activation="relu"), layers.GlobalMaxPooling2D()]
    )
    lowered = lower(large)
    assert multiplications(lowered.program) > 1 << 24
    assert compare(large, lowered).samples == 4


@pytest.mark.parametrize("tolerance", [np.nan, np.inf, -1, True, "a", "0.1", [0.1], np.array([0.1]), 1j, np.True_])
def test_what_is_no_tolerance_is_refused(tolerance):
    with pytest.raises(ModelError, match="a finite number of at least 0"):
        check_tolerance(tolerance)


@pytest.mark.parametrize("tolerance", [None, 0, 1, 0.05, np.float32(0.05), np.float64(0.05), np.int64(1)])
def test_any_number_is_a_tolerance(tolerance):
    check_tolerance(tolerance)
    model = small()
    if tolerance != 0:
        assert compare(model, lower(model), tolerance=tolerance).error < 1e-3


def logarithms():
    """log(sum x - 1), which Keras cannot say for all inputs of its range; the program answers them with a number."""
    start = keras.Input((3,))
    model = keras.Model(start, keras.ops.log(keras.ops.sum(start, axis=-1, keepdims=True) - 1.0), name="logarithms")
    x = np.random.default_rng(0).random((40, 3))
    return model, x, lower(model, calibration=x[x.sum(axis=1) > 1.2])


def test_samples_for_which_keras_gives_no_number_are_told():
    model, x, lowered = logarithms()
    missing = np.flatnonzero(x.sum(axis=1) < 1)
    assert 0 < len(missing) < len(x)
    with pytest.raises(Inaccurate, match=rf"NaN or infinite on {len(missing)} of 40 check samples, the first is number {missing[0]};"):
        compare(model, lowered, check=x)
    with pytest.raises(Inaccurate, match=rf"on {len(missing)} of 40 calibration samples"):
        compare(model, lowered, calibration=x, tolerance=None)
    right = compare(model, lowered, check=x[x.sum(axis=1) > 1.2])
    assert right.undefined == 0
    assert right.error < 0.01


def test_drawn_inputs_for_which_keras_gives_no_number_are_counted():
    start = keras.Input((2,))
    model = keras.Model(start, keras.layers.Dense(1, kernel_initializer="ones")(keras.ops.relu(start)))
    x = drawn(DRAWN, *(np.broadcast_to(end, (2,)) for end in (0.0, 1.0)), lower(model).spread)
    lowered = lower(model)

    class Partly:
        """The same, which has no number where the first input is above a half."""

        inputs, name = model.inputs, "partly"

        def __call__(self, x, training):
            return keras.ops.where(x[:, :1] > 0.5, np.nan, model(x))

    left = int((x[:, 0] > 0.5).sum())
    check = compare(Partly(), lowered)
    assert 0 < left < DRAWN
    assert (check.samples, check.undefined) == (DRAWN - left, left)
    assert str(check).endswith(f", {left} more on which Keras' are NaN or infinite")


def classes(count, seed, deviation=0.1):
    keras.utils.set_random_seed(seed)
    spread = keras.initializers.RandomNormal(0, deviation)
    return keras.Sequential([keras.Input((16,)), layers.Dense(32, "relu"), layers.Dense(count, "softmax", kernel_initializer=spread)])


@pytest.mark.parametrize("count", [80, 100, 250])
def test_many_small_probabilities_of_another_model_are_noticed(count):
    """All of them are below 0.05, and those of the two models differ by less than 0.02: so would answers that are all zero."""
    model, other = classes(count, 1), lower(classes(count, 2))
    wrong = compare(model, other, tolerance=None)
    assert wrong.error < 0.02
    assert wrong.labels > DRAWN / 2
    with pytest.raises(Inaccurate, match="outputs differ by up to"):
        compare(model, other)


@pytest.mark.parametrize("deviation", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("count", [2, 60, 250, 1000])
def test_many_small_probabilities_that_are_right_are_accepted(count, deviation):
    model = classes(count, 1, deviation)
    assert not compare(model, lower(model)).labels  # of more than 256 classes there are none


def test_small_numbers_of_a_bounded_function_that_are_no_probabilities():
    """tanh of numbers below 0.006: an error of 0.02 is let pass, and would be all that there is."""
    model = small(layers.Rescaling(0.005), layers.Activation("tanh"))
    compare(model, lower(model))
    with pytest.warns(CoarseOutput, match=r"number \d of its answer"):
        compare(model, mutated(lower(model), 2, -1.0), tolerance=0.02)


def two_sizes(second, *, hidden="relu", apart=False):
    """A regression of two targets, one of 10^3 and one of another size, in one last layer or in two."""
    keras.utils.set_random_seed(1)
    start = keras.Input((6,))
    x = layers.Dense(8, hidden)(start)
    kernel = np.random.default_rng(0).normal(size=(8, 2)) * [1e3, second]
    parts = [layers.Dense(1) for _ in range(2)] if apart else [layers.Dense(2)]
    outputs = [part(x) for part in parts]
    for i, part in enumerate(parts):
        part.set_weights([kernel[:, i : i + 1], np.zeros(1)] if apart else [kernel, np.zeros(2)])
    return keras.Model(start, layers.Concatenate()(outputs) if apart else outputs[0], name="two")


@pytest.mark.parametrize("hidden", ["relu", "tanh"])
def test_a_number_that_is_lost_beside_the_others_is_warned_of(hidden):
    model = two_sizes(1e-7, hidden=hidden)
    lowered = lower(model)
    told = r"model 'two': number 1 of its answer is at most \S+ on 16 inputs drawn .* off by up to \S+ there: beside outputs of up to"
    with pytest.warns(CoarseOutput, match=told):
        check = compare(model, lowered)
    assert check.error < 0.01 * check.largest  # within the tolerance, which is a part of the largest
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(model, lowered, tolerance=None)  # who accepts any error is told none
        compare(model, lowered, check=np.full((3, 6), 0.5))  # too few to tell


def test_numbers_that_are_right_are_not_warned_of():
    for model in (two_sizes(1.0), two_sizes(1e-4), two_sizes(1e-4, apart=True), two_sizes(0.0), small(layers.Softmax())):
        compare(model, lower(model))  # warnings are errors in this suite


@pytest.mark.parametrize("high", [1, 5, 11])
def test_whole_inputs_are_compared_on_whole_numbers(high):
    inputs = keras.Input((4,), dtype="int32")
    keras.utils.set_random_seed(2)
    model = keras.Model(inputs, layers.Dense(3)(keras.ops.cast(inputs, "float32")))
    assert compare(model, lower(model, input_range=(0, high))).error < 0.01

"""Windows and precision of lowered models: on every corner of the input range, at unusual magnitudes, with and without calibration."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from protocols.errors import ModelError, WindowError
from protocols.lowering import lower
from protocols.lowering.scales.rounding import FRACTION, GOOD_WINDOW, LARGEST_WINDOW, LEAST_FRACTION, LEAST_WINDOW, dropped, window_bits
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Scale
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Dense
from protocols.mpc.plaintext import evaluate, trace


def sequential(shape, *stack, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([layers.Input(shape), *stack])


def scaled(model, *factors):
    """Multiplies the kernels of the layers that have one."""
    for layer, factor in zip([layer for layer in model.layers if layer.weights], factors, strict=True):
        kernel, *bias = layer.get_weights()
        layer.set_weights([kernel * factor, *bias])
    return model


def roundings():
    bits = np.random.default_rng(0)
    return None, lambda shape: np.ones(shape, np.uint64), lambda shape: bits.integers(0, 2, shape, dtype=np.uint64)


def relative_error(model, lowered, x, *, floor=0.0):
    """The largest error of any rounding, relative to the largest answer or to `floor`."""
    program = lowered.program
    expected = np.asarray(model(x.astype(np.float32), training=False), np.float64)
    y = [evaluate(program, lowered.weights, encode(x, program.input_scale), rounding=rounding) for rounding in roundings()]
    return max(np.abs(decode(each, program.output_scale) - expected).max() for each in y) / max(floor, np.abs(expected).max())


def corners(lowered):
    """Every input whose elements are each the lowest or the highest."""
    shape = lowered.program.input_shape
    return np.array(list(itertools.product(lowered.program.input_range, repeat=int(np.prod(shape))))).reshape(-1, *shape)


def hidden(data):
    """A few layers that keep a (3, 3, channels) value a value of that kind."""
    filters, seed = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 9))
    return data.draw(
        st.sampled_from(
            [
                [layers.Conv2D(filters, 2, padding="same", activation="relu", bias_initializer="normal")],
                [layers.Conv2D(filters, 3, padding="same"), layers.LeakyReLU(0.3)],
                [layers.DepthwiseConv2D(2, padding="same", depth_multiplier=2), layers.ReLU(1.0, negative_slope=0.1)],
                [layers.SeparableConv2D(filters, 2, padding="same")],
                [layers.BatchNormalization(beta_initializer=keras.initializers.RandomNormal(seed=seed)), layers.ReLU(6)],
                [layers.AveragePooling2D(2, 1, padding="same")],
                [layers.ZeroPadding2D(1), layers.Conv2D(filters, 3), layers.Activation("relu6")],
                [layers.Rescaling(-1 / -3, offset=0.125)],
            ]
        )
    )


@settings(max_examples=30)
@given(st.data())
@pytest.mark.long
def test_no_corner_leaves_its_window_and_every_model_equals_keras(data):
    low, high = data.draw(st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-4.0, 0.5), (0.0, 255.0), (0.01, 0.02)]))
    stack = [layer for _ in range(data.draw(st.integers(1, 4))) for layer in hidden(data)]
    model = sequential((3, 3, 1), *stack, layers.Flatten(), layers.Dense(3), seed=data.draw(st.integers(0, 99)))
    lowered = lower(model, input_range=(low, high))
    assert relative_error(model, lowered, corners(lowered), floor=1.0) < 2e-3
    labelled = lowered.program.for_label()
    one_hot = evaluate(labelled, lowered.weights, encode(corners(lowered), labelled.input_scale))
    assert (one_hot.sum(axis=1) == 1).all()


@pytest.mark.parametrize("input_range", [(0.0, 1.0), (-2.0, 1.0), (0.0, 255.0)])
def test_the_first_window_is_the_smallest_that_holds_the_worst_input(input_range):
    model = sequential((9,), layers.Dense(5, bias_initializer="normal"), layers.ReLU(), layers.Dense(2))
    lowered = lower(model, input_range=input_range)
    z = trace(lowered.program, lowered.weights, encode(corners(lowered), lowered.program.input_scale))[1]
    (layer,) = lowered.layers
    largest = int(np.abs(z.view(np.int64)).max())
    assert window_bits(largest, layer.drop) == layer.window
    kernel, bias = (w.astype(np.float64) for w in model.layers[0].get_weights())
    low, high = input_range
    worst = [(kernel * np.where(sign * kernel > 0, high, low)).sum(0) + bias for sign in (1, -1)]  # the adversary's two inputs of a unit
    assert layer.bound == pytest.approx(np.abs(worst).max(), rel=1e-4)


class TestWindowOfARounding:
    @given(st.floats(0, 2.0**59), st.integers(0, 58))
    def test_it_is_the_smallest(self, largest, drop):
        window = window_bits(largest, drop)
        assert largest <= 2.0 ** (drop + window - 1) - 2.0 ** (drop + 1)
        assert window == 3 or largest * (1 + 1e-8) > 2.0 ** (drop + window - 2) - 2.0 ** (drop + 1)

    @given(st.floats(0, 2.0**59), st.integers(-10, 80))
    def test_it_keeps_a_good_fraction(self, largest, fraction):
        drop = dropped(largest, 2.0**-fraction)
        window, kept = window_bits(largest, drop), fraction - drop
        assert kept >= min(fraction, LEAST_FRACTION)
        assert kept == min(fraction, LEAST_FRACTION) or window <= GOOD_WINDOW
        assert window >= LEAST_WINDOW or drop == 0
        assert kept <= FRACTION or window == LEAST_WINDOW or drop == 0


class TestMagnitudes:
    x = np.random.default_rng(1).uniform(0, 1, (40, 16))

    def model(self, *factors):
        stack = (layers.Dense(32, activation="relu"), layers.Dense(32, activation="relu"), layers.Dense(4))
        return scaled(sequential((16,), *stack), *factors)

    @pytest.mark.parametrize("factors", [(1, 1, 1), (1e-3, 1e-3, 1e6), (1e-4, 1, 1), (1, 1, 1e-6), (1, 1, 3e7), (100, 1, 0.01)])
    def test_small_and_large_weights(self, factors):
        model = self.model(*factors)
        assert relative_error(model, lower(model), self.x) < 2e-3

    @pytest.mark.parametrize(("unit", "factor"), [(1e-6, 1), (1e-3, 1), (255.0, 1), (255.0, 1e-4), (1e6, 1e-6), (1e30, 1e-30)])
    def test_small_and_large_inputs(self, unit, factor):
        model = self.model(factor, 1, 1)
        lowered = lower(model, input_range=(0, unit))
        assert relative_error(model, lowered, self.x * unit) < 2e-3

    def test_every_answer_can_be_compared_for_a_label(self):
        lowered = lower(self.model(1, 1, 3e7))
        program = lowered.program.for_label()
        one_hot = evaluate(program, lowered.weights, encode(self.x, program.input_scale))
        assert (one_hot.sum(axis=1) == 1).all()

    @pytest.mark.parametrize("model", [(1e9, 1, 1), (1, 1e9, 1)])
    def test_sums_that_no_window_holds_are_refused(self, model):
        with pytest.raises(WindowError, match=r"layer 'dense.*' \(Dense\): its sums are proved to stay below .*weight constraints"):
            lower(self.model(*model))

    def test_biases_that_leave_no_bits_for_the_weights_are_refused(self):
        model = sequential((4,), layers.Dense(3, name="offset"))
        model.layers[0].set_weights([np.full((4, 3), 0.01), np.full(3, 1e12)])
        with pytest.raises(WindowError, match=r"layer 'offset' \(Dense\): its inputs or biases are so large"):
            lower(model)

    def test_a_layer_that_is_all_but_zero_leaves_room_for_the_bias_after_it(self):
        stack = (
            layers.Dense(4, activation="relu"),
            layers.Dense(4),
            layers.LeakyReLU(0.2),
            layers.Dense(4),
            layers.ReLU(),
            layers.Dense(2),
        )
        model = sequential((16,), *stack)
        for layer, factor, bias in zip(
            [each for each in model.layers if each.weights], (1.0, 1e-9, 1.0, 1.0), (-9, 0, 0.3, 0.1), strict=True
        ):
            kernel, _ = layer.get_weights()
            layer.set_weights([kernel * factor, np.full(kernel.shape[1], bias)])
        lowered = lower(model, input_range=(0.01, 0.02))
        assert relative_error(model, lowered, np.random.default_rng(0).uniform(0.01, 0.02, (9, 16))) < 1e-4

    def test_dead_weights_are_no_problem(self):
        model = self.model(0, 1, 1)
        lowered = lower(model)
        program = lowered.program
        y = decode(evaluate(program, lowered.weights, encode(self.x, program.input_scale)), program.output_scale)
        np.testing.assert_allclose(y, np.asarray(model(self.x.astype(np.float32))), atol=1e-4)


class TestRoundingBetweenLinearLayers:
    def test_only_where_the_ring_would_be_too_small_and_once_for_all_readers(self):
        start = layers.Input((8,))
        keras.utils.set_random_seed(0)
        x = layers.Dense(8)(layers.Dense(8)(start))
        y = layers.Add()([layers.Dense(3, name=f"reader{i}")(x) for i in range(3)])
        model = scaled(keras.Model(start, y), 1, 1, 1e3, 1e3, 1e3)
        lowered = lower(model)
        ops = lowered.program.ops
        truncated = [op for op in ops if isinstance(op, Truncate)]
        assert [layer.name for layer in lowered.layers] == ["reader0"]
        assert len(truncated) == 1
        readers = {op.x for op in ops if isinstance(op, Dense)}
        assert len([op for op in ops if isinstance(op, Dense)]) == len(readers) + 2  # three read one wire
        assert relative_error(model, lowered, np.random.default_rng(0).uniform(0, 1, (20, 8))) < 1e-3

    def test_before_a_sum_whose_scales_are_too_far_apart(self):
        # as in Xception: two linear convolutions in a row, added to an activation that was rounded
        start = layers.Input((5, 5, 3))
        keras.utils.set_random_seed(0)
        x = layers.Conv2D(4, 3, padding="same", activation="relu")(start)
        y = layers.SeparableConv2D(4, 3, padding="same")(layers.SeparableConv2D(4, 3, padding="same")(x))
        model = keras.Model(start, layers.Dense(2)(layers.Flatten()(layers.Add()([x, y]))))
        lowered = lower(model, input_range=(-8, 8))
        assert relative_error(model, lowered, np.random.default_rng(0).uniform(-8, 8, (9, 5, 5, 3))) < 1e-3

    def test_before_a_pool_that_would_leave_the_ring(self):
        stack = (layers.Conv2D(4, 1), layers.Conv2D(4, 3, padding="same"), layers.Activation("linear"))
        model = sequential(
            (12, 12, 3), *stack, layers.AveragePooling2D(7, 1, padding="same"), layers.ReLU(), layers.Flatten(), layers.Dense(2)
        )
        lowered = lower(model, input_range=(0, 64))
        assert relative_error(model, lowered, np.random.default_rng(0).uniform(0, 64, (4, 12, 12, 3))) < 1e-3


class TestPoolsOverTheEdge:
    def test_the_table_is_exact_where_counts_have_a_small_multiple(self):
        model = sequential((5, 5, 1), layers.ReLU(), layers.AveragePooling2D(3, 1, padding="same"), layers.Flatten(), layers.Dense(2))
        (op,) = [op for op in lower(model).program.ops if isinstance(op, Scale)]
        assert set(op.factors) == {9, 6, 4}  # windows of 4, 6 and 9: 36ths

    def test_and_close_where_they_have_none(self):
        model = sequential((19, 19, 1), layers.ReLU(), layers.AveragePooling2D(19, 3, padding="same"), layers.Flatten(), layers.Dense(2))
        lowered = lower(model)
        assert any(isinstance(op, Scale) for op in lowered.program.ops)
        assert relative_error(model, lowered, np.random.default_rng(0).uniform(0, 1, (4, 19, 19, 1))) < 1e-3

    def test_a_global_pool_has_none_however_large(self):
        model = sequential((260, 260, 1), layers.GlobalAveragePooling2D(), layers.Dense(2))  # more elements than a table has steps
        program, weights = (lowered := lower(model)).program, lowered.weights
        assert not any(isinstance(op, Scale) for op in program.ops)
        x = np.random.default_rng(0).uniform(0, 1, (1, 260, 260, 1))
        y = decode(evaluate(program, weights, encode(x, program.input_scale)), program.output_scale)
        np.testing.assert_allclose(y, np.asarray(model(x.astype(np.float32))), atol=1e-5)


class TestSaturation:
    def test_a_maximum_that_cannot_be_reached_costs_nothing(self):
        def selections(maximum):
            model = sequential((8,), layers.Dense(4), layers.ReLU(max_value=maximum), layers.Dense(2))
            return sum(isinstance(op, Select) for op in lower(model).program.ops)

        assert (selections(0.5), selections(1e9), selections(None)) == (2, 1, 1)

    def test_the_next_window_is_that_of_the_maximum(self):
        def window(maximum):
            model = scaled(
                sequential((8,), layers.Dense(64), layers.ReLU(maximum), layers.Dense(4), layers.ReLU(), layers.Dense(2)), 64, 1, 1
            )
            return lower(model).layers[-1].window

        assert window(None) - window(1.0) >= 5


class TestCalibration:
    def deep(self):
        return sequential((16,), *[layer for _ in range(12) for layer in (layers.Dense(48), layers.ReLU())], layers.Dense(3))

    def test_a_larger_margin_gives_a_larger_window_up_to_the_proof(self):
        samples = np.random.default_rng(0).uniform(-4, 4, (50, 16))
        bounds = {}
        for margin in (1.0, 2.0, 4.0):
            lowered = lower(self.deep(), input_range=(-4, 4), calibration=samples, margin=margin)
            first = next(layer for layer in lowered.layers if layer.source == "calibrated")
            bounds[margin] = first.bound
        assert bounds[2.0] == pytest.approx(2 * bounds[1.0], rel=1e-2)
        assert bounds[4.0] == pytest.approx(4 * bounds[1.0], rel=1e-2)

    def test_with_margin_one_the_samples_themselves_stay_inside(self):
        samples = np.random.default_rng(0).uniform(-4, 4, (50, 16))
        lowered = lower(self.deep(), input_range=(-4, 4), calibration=samples, margin=1.01)
        assert relative_error(self.deep(), lowered, samples) < 5e-3

    def test_a_margin_that_no_window_holds_is_refused(self):
        samples = np.random.default_rng(0).uniform(-4, 4, (50, 16))
        with pytest.raises(WindowError, match=r"on the calibration samples, with margin 1e\+07, its sums reach .* Use a smaller margin"):
            lower(self.deep(), input_range=(-4, 4), calibration=samples, margin=1e7)

    def test_samples_that_are_not_finite(self):
        with pytest.raises(ModelError, match="not finite"):
            lower(self.deep(), calibration=np.full((2, 16), np.nan))


def test_no_window_is_larger_than_the_largest():
    # each layer's bound grows by about 2^2.5: the last provable window is one of the largest
    stack = [layer for _ in range(5) for layer in (layers.Dense(32), layers.ReLU())]
    model = sequential((16,), *stack, layers.Dense(2))
    windows = [layer.window for layer in lower(model, input_range=(-8, 8)).layers]
    assert GOOD_WINDOW < max(windows) <= LARGEST_WINDOW
    assert windows == sorted(windows)

"""Constants beside values that are held very finely, after linear layers with small weights: the kind of MobileNetV2 at 224 x 224."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from protocols.errors import WindowError
from protocols.lowering import lower
from protocols.lowering.nodes import network as net
from protocols.lowering.scales.intervals import Interval
from protocols.lowering.scales.rounding import hold
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.plaintext import evaluate


class Threshold(layers.Layer):
    def call(self, x):
        return ops.where(x > 2.0, x, ops.zeros((1, 8)))


AFTER = {
    "ReLU6": lambda: layers.ReLU(6.0),
    "relu6": lambda: layers.Activation("relu6"),
    "ReLU with a threshold": lambda: layers.ReLU(6.0, negative_slope=0.1, threshold=1.0),
    "Rescaling": lambda: layers.Rescaling(1.0, offset=30.0),
    "hard_sigmoid": lambda: layers.Activation("hard_sigmoid"),
    "shifts": lambda: layers.Normalization(mean=np.linspace(-9, 9, 8), variance=np.ones(8)),
}


def small_layers(end, size):
    """Three linear layers whose weights are so small that a sum is held in units of 2^-90 or so, and something with a constant."""
    keras.utils.set_random_seed(1)
    small = keras.initializers.RandomNormal(stddev=size)
    model = keras.Sequential([keras.Input((8,)), *(layers.Dense(8, kernel_initializer=small) for _ in range(3)), end])
    return model


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("after", AFTER)
def test_a_constant_fits_beside_the_rounded_value(after, size):
    model = small_layers(AFTER[after](), size)
    x = np.random.default_rng(0).uniform(-1, 1, (5, 8)).astype(np.float32)
    for settings in ({}, {"calibration": x}):
        lowered = lower(model, input_range=(-1, 1), **settings)
        y = decode(evaluate(lowered.program, lowered.weights, encode(x, lowered.program.input_scale)), lowered.program.output_scale)
        want = np.asarray(model(x))
        assert np.abs(y - want).max() < 2.0**-11 + 2.0**-13 * np.abs(want).max()


def test_the_error_names_the_bound_that_is_hit():
    """Of 62 bits together, or of 32 in the window: and what helps in each case."""
    node = net.Start(layer="cut", kind="ReLU", inputs=(), shape=(1,))

    def sums(largest, scale):
        ends = np.full(1, largest / scale)
        return hold(Interval(-ends, ends, ends[None] / 2), scale, node, margin=2.0)

    with pytest.raises(WindowError, match=r"layer 'cut' .* reach 6 in units of 2\^-71: .* 62 are possible\. Use larger"):
        sums(6.0, 2.0**-71)
    with pytest.raises(WindowError, match=r"needs a window of 3. bits; 32 are possible\. Use a smaller margin"):
        sums(2.0**22, 2.0**-20)
    assert sums(6.0, 2.0**-50).fits

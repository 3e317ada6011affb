"""Masks that travel with the tensor when a model runs, out of what is nested: they hide steps in predictions, too."""

import keras
import numpy as np
import pytest
from keras import layers

from deployment import Deployment
from protocols.errors import UnsupportedLayer
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode

STEPS, WORDS, WIDTH = 3, 4, 2
TOKENS = np.array([[3, 1, 0], [2, 0, 1], [0, 0, 2], [1, 2, 3]])


def embedding():
    return layers.Embedding(WORDS, WIDTH, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0), mask_zero=True)


def nested(*after):
    return keras.Sequential([layers.Input((STEPS,)), embedding(), *after])


class Embedded(layers.Layer):
    """Gives what the embedding in it gives."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner or embedding()

    def call(self, x):
        return self.inner(x)


class Twice(Embedded):
    """Calls what gives the mask as one layer of many."""

    def build(self, shape):
        self.recurrent = layers.LSTM(3)

    def call(self, x):
        return self.recurrent(self.inner(x))


class Raised(Embedded):
    """Gives something else, which has no mask."""

    def call(self, x):
        return self.inner(x) + 1


def shared(x):
    """One model around another, called twice."""
    inner = nested(layers.Dense(WIDTH))
    start = layers.Input((STEPS,))
    around = keras.Model(start, layers.Dropout(0.5)(inner(start)))
    return layers.LSTM(3)(around(x)) - 2 * layers.LSTM(3)(around(layers.Rescaling(1.0)(x)[:, ::-1]))


CARRIED = {
    "a model": lambda x: layers.LSTM(3)(nested()(x)),
    "a model of several layers": lambda x: layers.LSTM(3)(nested(layers.Dense(WIDTH), layers.Dropout(0.2))(x)),
    "layers behind a model": lambda x: layers.GRU(3)(layers.Dropout(0.1)(layers.Dense(WIDTH)(nested()(x)))),
    "a model in a model": lambda x: layers.SimpleRNN(3)(keras.Sequential([layers.Input((STEPS,)), nested(), layers.Dense(2)])(x)),
    "a mean": lambda x: layers.GlobalAveragePooling1D()(nested()(x)),
    "attention": lambda x: layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(1, 2)(*[nested()(x)] * 2)),
    "both directions": lambda x: layers.Bidirectional(layers.LSTM(2))(nested()(x)),
    "two recurrent layers": lambda x: layers.LSTM(3)(layers.LSTM(3, return_sequences=True)(nested()(x))),
    "a sum": lambda x: layers.LSTM(3)(layers.Add()([nested()(x), nested()(x)])),
    "into another model": lambda x: keras.Sequential([layers.Input((STEPS, WIDTH)), layers.LSTM(3)])(nested()(x)),
    "a layer of one's own": lambda x: layers.LSTM(3)(Embedded()(x)),
    "a layer around a model": lambda x: layers.LSTM(3)(layers.Dense(3)(Embedded(nested())(x))),
    "a layer around a layer": lambda x: layers.LSTM(3)(Embedded(Embedded())(x)),
    "inside of a layer": lambda x: Twice(nested())(x),
    "called twice": shared,
    "none out of a sum with a number": lambda x: layers.LSTM(3)(Raised()(x)),
}


@pytest.mark.filterwarnings("ignore:Exception encountered", "ignore:Layer .* does not support masking")
@pytest.mark.parametrize("name", CARRIED)
def test_a_mask_leaves_what_is_nested(name):
    keras.utils.set_random_seed(0)
    x = layers.Input((STEPS,))
    model = keras.Model(x, CARRIED[name](x))
    expected = np.asarray(model(TOKENS.astype(np.float32), training=False))
    lowered = lower(model, input_range=(0, WORDS - 1))
    results = Deployment(lowered.program, lowered.weights).run(encode(TOKENS, lowered.program.input_scale)).results
    answers = decode(results[0] + results[1], lowered.program.output_scale)
    np.testing.assert_allclose(answers.reshape(expected.shape), expected, atol=0.004)


def test_a_mask_that_has_no_form_is_refused():
    x = layers.Input((STEPS,))
    with pytest.raises(UnsupportedLayer, match="Any"):
        lower(keras.Model(x, layers.LSTM(3)(layers.Concatenate()([nested()(x), nested()(x)]))), input_range=(0, WORDS - 1))


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
@pytest.mark.parametrize("name", ["Maximum", "Minimum", "Multiply"])
@pytest.mark.parametrize("inner", [embedding, nested, Embedded])
def test_what_leaves_out_hidden_steps_by_itself_is_refused_and_has_a_function_that_does_not(name, inner):
    """Keras takes the other value there, whatever comes next: a mean of it, a maximum over steps."""
    keras.utils.set_random_seed(0)
    x = layers.Input((STEPS,))
    y = inner()(x)
    both = [y, layers.Dense(WIDTH)(y)]
    with pytest.raises(UnsupportedLayer, match=rf"\({name}\) cannot be shared: .* masks, .*keras.ops.{name.lower()}"):
        lower(keras.Model(x, layers.Flatten()(getattr(layers, name)()(both))), input_range=(0, WORDS - 1))
    model = keras.Model(x, layers.Flatten()(getattr(keras.ops, name.lower())(*both)))
    lowered = lower(model, input_range=(0, WORDS - 1))
    results = Deployment(lowered.program, lowered.weights).run(encode(TOKENS, lowered.program.input_scale)).results
    answers = decode(results[0] + results[1], lowered.program.output_scale)
    np.testing.assert_allclose(answers, model.predict(TOKENS, verbose=0), atol=0.004)

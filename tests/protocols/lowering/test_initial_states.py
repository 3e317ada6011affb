"""Recurrent layers that begin in a given state, as in encoders and decoders: each way to say it is what Keras computes, or refused."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from protocols.errors import ModelError
from protocols.lowering import lower
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.plaintext import evaluate


def states(layer, x):
    return layer(3, return_state=True)(x)[1:]


def decoded(x):
    _, h, c = layers.LSTM(3, return_state=True)(x)
    return layers.Dense(2)(layers.LSTM(3, return_sequences=True)(layers.RepeatVector(3)(h), initial_state=[h, c]))


def both_ways(x, layer, **settings):
    after = layers.Bidirectional(layer(3, return_state=True))(x)[1:]
    return layers.Bidirectional(layer(3), **settings)(x, initial_state=after)


def joined_states(x):
    _, h, c, hb, cb = layers.Bidirectional(layers.LSTM(3, return_state=True))(x)
    return layers.LSTM(6)(x, initial_state=[layers.Concatenate()([h, hb]), layers.Concatenate()([c, cb])])


def nested(x):
    inputs = [keras.Input((4, 3)), keras.Input((3,)), keras.Input((3,))]
    return keras.Model(inputs, layers.LSTM(3)(inputs[0], initial_state=inputs[1:]))([x, *states(layers.LSTM, x)])


def dense_state(x):
    d = layers.Dense(3)(layers.Flatten()(x))
    return layers.LSTM(3)(x, initial_state=[d, d])


WAYS = {
    "a list": lambda x: layers.LSTM(3)(x, initial_state=list(states(layers.LSTM, x))),
    "a tuple": lambda x: layers.LSTM(3)(x, initial_state=tuple(states(layers.LSTM, x))),
    "by position": lambda x: layers.LSTM(3)(x, list(states(layers.LSTM, x))),
    "one state": lambda x: layers.GRU(3)(x, initial_state=states(layers.GRU, x)[0]),
    "one state in a list": lambda x: layers.SimpleRNN(3)(x, initial_state=states(layers.SimpleRNN, x)),
    "backwards": lambda x: layers.LSTM(3, go_backwards=True, return_sequences=True)(x, initial_state=states(layers.LSTM, x)),
    "a layer that is none": dense_state,
    "encoder and decoder": decoded,
    "both ways": lambda x: both_ways(x, layers.LSTM),
    "both ways, summed": lambda x: both_ways(x, layers.GRU, merge_mode="sum"),
    "states of both ways, joined": joined_states,
    "zeros": lambda x: layers.GRU(3)(x, initial_state=ops.zeros((1, 3))),
    "a nested model": nested,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.sample(4)
def test_a_state_is_where_a_layer_begins(way):
    keras.utils.set_random_seed(3)
    start = keras.Input((4, 3))
    model = keras.Model(start, WAYS[way](start))
    x = np.random.default_rng(0).uniform(-1, 1, (6, 4, 3)).astype(np.float32)
    lowered = lower(model, input_range=(-1, 1))
    y = decode(evaluate(lowered.program, lowered.weights, encode(x, lowered.program.input_scale)), lowered.program.output_scale)
    want = np.asarray(model(x))
    assert np.abs(y.reshape(want.shape) - want).max() < 0.004
    if way != "zeros":  # it is no accident: without the state it would be something else
        assert np.abs(want).max() > 0.05


def test_a_state_is_a_state_for_masked_sequences_too():
    keras.utils.set_random_seed(3)
    start = keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(6, 3, mask_zero=True)(start)
    model = keras.Model(start, layers.LSTM(3)(embedded, initial_state=states(layers.LSTM, embedded)))
    x = np.array([[1, 2, 3, 0, 0], [4, 5, 0, 0, 0], [1, 1, 1, 1, 1]])
    lowered = lower(model, input_range=(0, 5))
    y = decode(evaluate(lowered.program, lowered.weights, encode(x, lowered.program.input_scale)), lowered.program.output_scale)
    assert np.abs(y - np.asarray(model(x))).max() < 0.004


REFUSED = {
    "its initial state is a constant": lambda x: layers.GRU(3)(x, initial_state=np.ones((1, 3), np.float32)),
    r"its initial state has shapes \[\(4,\)\]": lambda x: layers.GRU(3)(x, initial_state=layers.Dense(4)(layers.Flatten()(x))),
    "its initial state has 1 parts": lambda x: layers.Bidirectional(layers.GRU(3))(x, initial_state=states(layers.GRU, x)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_no_state_is_refused_by_name(why):
    start = keras.Input((4, 3))
    try:
        model = keras.Model(start, REFUSED[why](start))
    except ValueError:
        pytest.skip("Keras refuses it itself")
    with pytest.raises(ModelError, match=why):
        lower(model, input_range=(-1, 1))

"""Twelve networks as people train them, small: after the same steps on shares they are as accurate as Keras', within 1 %.

Rates and epochs are such that Keras agrees with itself: where each step of Keras moves each weight by up to 2^-17, as roundings do,
accuracies have a standard deviation of at most 0.3 % over five runs (transfer learning: 0.5 %). With twice the rate of the ResNet they
had 1 %, with three times that of multi-task 1.9 %: then a run on shares beside one of Keras says nothing of either.

One network stays that is not as Keras' (`CHAOTIC`), as Keras is not beside itself: which of four numbers is the largest, and which are
above zero, are decisions, and one that falls otherwise among the few windows of a small network moves a kernel by percents in a step.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from trained_networks import drawn_tables, on_shares, steps_on_shares

import protocols
from protocols.owner.compiled import plan as plan_of
from protocols.training.step import step

BATCH, TRAINED = 32, 480
DIGITS = np.load(Path(protocols.__file__).with_name("digits.npz"))


def images(size):
    """Photographs of digits, `size` pixels high and wide, from 0 to 1, and what they show."""
    x = np.concatenate([DIGITS["x_train"], DIGITS["x_test"]]).astype(np.float32) / 255
    x = x.reshape(len(x), size, 28 // size, size, 28 // size).mean((2, 4))
    return x[..., None], np.concatenate([DIGITS["y_train"], DIGITS["y_test"]])


def digits(size):
    x, y = images(size)
    return x, np.eye(10, dtype=np.float32)[y]


def rows():
    """Images as sequences of rows."""
    x, y = digits(7)
    return x[..., 0], y


def noisy():
    """Images with noise, and which of their pixels are bright."""
    x, _ = images(14)
    random = np.random.default_rng(0)
    return (x + random.normal(size=x.shape) * 0.25).astype(np.float32), (x > 0.5).reshape(len(x), -1).astype(np.float32)


def compressed():
    x, _ = images(7)
    return x, x


def sentences():
    """Words below 50 in sentences of 10; four classes, each with favourite words."""
    random = np.random.default_rng(0)
    y = random.integers(4, size=1600)
    favourite = random.random((1600, 10)) < 0.4
    x = np.where(favourite, 2 + 10 * y[:, None] + random.integers(10, size=(1600, 10)), 1 + random.integers(49, size=(1600, 10)))
    return x.astype(np.float32), np.eye(4, dtype=np.float32)[y]


def halves():
    """The upper half of an image and the lower, which an input takes each."""
    x, y = digits(7)
    return [x.reshape(len(x), 49)[:, :21], x.reshape(len(x), 49)[:, 21:]], y


def tasks():
    """What an image shows, and whether that is even: targets of two outputs."""
    x, y = images(7)
    return x, [np.eye(10, dtype=np.float32)[y], (y % 2 == 0)[:, None].astype(np.float32)]


def others():
    """The digits from 5 to 9: a base has seen the others."""
    x, y = images(14)
    keep = y > 4
    return x[keep], np.eye(5, dtype=np.float32)[y[keep] - 5]


def lenet():
    return [
        layers.Conv2D(6, 5, padding="same"),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Conv2D(12, 3),
        layers.BatchNormalization(momentum=0.9),
        layers.ReLU(),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(40, "relu"),
        layers.Dropout(0.3),
        layers.Dense(10),
    ]


def normalised(x, filters, size, activation="relu", **settings):
    x = layers.BatchNormalization(momentum=0.9)(layers.Conv2D(filters, size, padding="same", use_bias=False, **settings)(x))
    return layers.Activation(activation)(x) if activation else x


def resnet(x):
    x = normalised(x, 8, 3)
    for filters, strides in ((8, 1), (16, 2)):
        y = normalised(normalised(x, filters, 3, strides=strides), filters, 3, None)
        x = layers.ReLU()(layers.Add()([y, x if strides == 1 else normalised(x, filters, 1, None, strides=strides)]))
    return layers.Dense(10)(layers.GlobalAveragePooling2D()(x))


def mobilenet(x):
    x = normalised(x, 8, 3, "relu6", strides=2)
    y = normalised(x, 24, 1, "relu6")
    y = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    x = layers.Add()([x, normalised(y, 8, 1, None)])
    return layers.Dense(10)(layers.Flatten()(layers.AveragePooling2D(2)(normalised(x, 16, 1, "relu6"))))


def unet(x):
    first = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    deep = layers.Conv2D(12, 3, padding="same", activation="relu")(layers.MaxPooling2D()(first))
    up = layers.Conv2DTranspose(6, 2, strides=2, activation="relu")(deep)
    y = layers.Conv2D(6, 3, padding="same", activation="relu")(layers.Concatenate()([first, up]))
    return layers.Activation("sigmoid")(layers.Flatten()(layers.Conv2D(1, 1)(y)))


def autoencoder(x):
    code = layers.Dense(12, "relu")(layers.Dense(32, "relu")(layers.Flatten()(x)))
    return layers.Reshape((7, 7, 1))(layers.Dense(49, "sigmoid")(layers.Dense(32, "relu")(code)))


class Places(layers.Layer):
    """Adds a trainable vector for each place."""

    def build(self, shape):
        self.places = self.add_weight(shape=shape[1:], initializer="random_normal", name="places")

    def call(self, x):
        return x + self.places


class Block(layers.Layer):
    """A block of a transformer, as the tutorials of Keras have it."""

    def __init__(self, width, heads, **settings):
        super().__init__(**settings)
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.first, self.second = layers.Dense(2 * width, "gelu"), layers.Dense(width)
        self.norms = [layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.drop = layers.Dropout(0.1)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.first.build(shape)
        self.second.build((*shape[:-1], 2 * shape[-1]))
        for norm in self.norms:
            norm.build(shape)

    def call(self, x, training=None):
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.drop(self.second(self.first(x)), training=training))


def transformer(x):
    x = Places()(layers.Embedding(50, 12)(x))
    x = Block(12, 2)(Block(12, 2)(x))
    return layers.Dense(4)(layers.GlobalAveragePooling1D()(x))


def two_inputs(x):
    upper, lower = (layers.Dense(16, "relu")(part) for part in x)
    return layers.Dense(10)(layers.Dense(16, "relu")(layers.Concatenate()([upper, lower])))


def multi_task(x):
    x = layers.Dense(24, "relu")(layers.Dense(32, "relu")(layers.Flatten()(x)))
    return [layers.Dense(10, "softmax", name="digit")(x), layers.Dense(1, "sigmoid", name="even")(layers.Dense(8, "relu")(x))]


def transfer(x):
    """A base that has been trained in the clear, on other digits, and stays as it is."""
    keras.utils.set_random_seed(3)
    start = keras.Input(x.shape[1:])
    base = keras.Model(start, layers.GlobalAveragePooling2D()(normalised(normalised(start, 8, 3, strides=2), 16, 3)))
    before = keras.Sequential([base, layers.Dense(5)])
    before.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    shown, labels = images(14)
    before.fit(shown[labels < 5], labels[labels < 5], epochs=8, verbose=0)
    base.trainable = False
    return layers.Dense(5)(layers.Dense(24, "relu")(base(x)))


def plain(rate):
    """What is normalised by its batch magnifies roundings from step to step: with a velocity, twice as fast."""
    return lambda: keras.optimizers.SGD(rate)


def momentum(rate):
    return lambda: keras.optimizers.SGD(rate, momentum=0.9)


SOFTMAX = keras.losses.CategoricalCrossentropy(from_logits=True)
NETWORKS = {  # data, network, loss, optimizer, epochs, least accuracy of Keras
    "LeNet with BatchNorm and Dropout": (lambda: digits(14), lenet, SOFTMAX, plain(0.05), 2, 0.35),
    "ResNet": (lambda: digits(14), resnet, SOFTMAX, plain(0.05), 4, 0.3),
    "MobileNet": (lambda: digits(14), mobilenet, SOFTMAX, plain(0.03), 4, 0.3),
    "U-Net": (noisy, unet, "binary_crossentropy", momentum(0.3), 5, 0.1),
    "autoencoder": (compressed, autoencoder, "mse", momentum(3.0), 8, 0.1),
    "text": (
        sentences,
        lambda: [layers.Embedding(50, 12), layers.GlobalAveragePooling1D(), layers.Dense(16, "relu"), layers.Dense(4)],
        SOFTMAX,
        momentum(0.3),
        4,
        0.7,
    ),
    "transformer": (sentences, transformer, SOFTMAX, lambda: keras.optimizers.Adam(0.005), 4, 0.4),
    "LSTM": (rows, lambda: [layers.LSTM(16), layers.Dense(10)], SOFTMAX, momentum(0.2), 6, 0.25),
    "GRU": (rows, lambda: [layers.Bidirectional(layers.GRU(10)), layers.Dense(10)], SOFTMAX, momentum(0.3), 4, 0.3),
    "two inputs": (halves, two_inputs, SOFTMAX, momentum(0.1), 4, 0.5),
    "multi-task": (tasks, multi_task, {"digit": "categorical_crossentropy", "even": "binary_crossentropy"}, momentum(0.03), 8, 0.6),
    "transfer learning": (others, transfer, SOFTMAX, momentum(0.1), 4, 0.4),
}


CHAOTIC = "LeNet with BatchNorm and Dropout"
"""Keras from weights that differ by 10^-6 of themselves, beside Keras: the first kernel differs by less than 10^-5 of
its move after two steps, by 1 % after three, 7 % after five, 24 % after twelve and 29 % after thirty; 10^-4 and 10^-3 make 31 and 38 %. On
shares it is 38 %. Accuracies after thirty steps: 0.448 with Keras, 0.455 to 0.480 with weights that differ, 0.493 on shares, which are
below Keras after 12 and 20. Over 14 starts (in NumPy) weights that differ by 10^-3 change it by 3 % (standard deviation; at most 8 %),
roundings to multiples of 2^-16 by 2.5 % (at most 5.5 %)."""


def made(name):
    """The compiled model, features and targets."""
    arrays, network, loss, optimizer, _, _ = NETWORKS[name]
    x, y = arrays()
    keras.utils.set_random_seed(1)
    start = [keras.Input(one.shape[1:]) for one in x] if isinstance(x, list) else keras.Input(x.shape[1:])
    parts = network() if network.__code__.co_argcount == 0 else None
    model = keras.Sequential([start, *parts]) if parts is not None else keras.Model(start, network(start))
    weights = {"digit": 1.0, "even": 0.5} if name == "multi-task" else None
    model.compile(optimizer(), loss, loss_weights=weights, run_eagerly=any_random(model))
    return model, x, y


def part(arrays, rows):
    """Some examples of an array, or of each of several."""
    return [one[rows] for one in arrays] if isinstance(arrays, list) else arrays[rows]


def any_random(model):
    return any(isinstance(layer, layers.Dropout) for layer in model._flatten_layers())


def accuracy(name, model, x, y):
    """How often the largest of the outputs for classes is right; of images, how much of their variance is explained."""
    outputs = model.predict(x, verbose=0)
    if name == "multi-task":
        (outputs, even), (y, truths) = outputs, y
        assert ((even > 0.5) == truths).mean() > 0.75
    if name in ("U-Net", "autoencoder"):
        return 1 - ((outputs - y) ** 2).mean() / ((y - y.mean(0)) ** 2).mean()
    return (outputs.argmax(1) == y.argmax(1)).mean()


def fitted(model, x, y, epochs, monkeypatch):
    """Fit with Keras; what is dropped is what the servers dropped."""
    if not any_random(model):
        model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
        return
    train = one_step(model, monkeypatch)
    for number in range(epochs * len(x) // BATCH):
        train(number, x, y)


def one_step(model, monkeypatch):
    """Return what trains with Keras on the batch of a step, and drops what the servers drop in it."""
    circuit, waiting = step(plan_of(model), BATCH), []

    def dropout(inputs, rate, noise_shape=None, seed=None):
        return inputs * waiting.pop(0).astype(np.float32) / (1 - rate)

    monkeypatch.setattr(keras.src.backend.random, "dropout", dropout)

    def train(number, x, y):
        tables = drawn_tables(circuit, str(number))
        waiting[:] = [tables[name] for name in sorted(tables, key=lambda name: int(name.removeprefix("drawn")))]
        rows = slice(number * BATCH % len(x), number * BATCH % len(x) + BATCH)
        model.train_on_batch(x[rows], y[rows])
        assert not waiting

    return train


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != CHAOTIC])
def test_a_network_is_as_accurate_as_with_keras_after_the_same_steps(name, monkeypatch):
    *_, epochs, least = NETWORKS[name]
    model, x, y = made(name)
    count = min(TRAINED, len(x[0] if isinstance(x, list) else x) // 2 // BATCH * BATCH)
    seen, rest = ((part(x, rows), part(y, rows)) for rows in (slice(count), slice(count, None)))
    weights, _ = on_shares(model, *seen, epochs=epochs, batch=BATCH)
    fitted(model, *seen, epochs, monkeypatch)
    of_keras = accuracy(name, model, *rest)
    model.set_weights(weights)
    of_shares = accuracy(name, model, *rest)
    assert of_keras >= least
    assert abs(of_shares - of_keras) <= 0.01


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_each_step_of_a_chaotic_network_is_that_of_keras_from_the_same_weights(monkeypatch):
    """What differs is not carried on, so that nothing magnifies it: a systematic error stays and adds up, roundings cancel.

    Of the moves of all steps together the errors together are at most 3 %, of each kernel, scale and shift (0.4 to 1.3 % are found), and
    0.5 % of what statistics move (0.13 %). The biases of convolutions have no gradient, as the mean is taken away after them.
    """
    model, x, y = made(CHAOTIC)
    x, y = x[:TRAINED], y[:TRAINED]
    names, before, train = [weight.path for weight in model.weights], model.get_weights(), one_step(model, monkeypatch)
    errors, moves = ([np.zeros(weight.shape) for weight in before] for _ in range(2))
    for number, (after, _) in enumerate(steps_on_shares(model, x, y, epochs=1, batch=BATCH)):
        model.set_weights(before)
        train(number, x, y)
        for error, move, on, off, old in zip(errors, moves, after, model.get_weights(), before, strict=True):
            error += on - off
            move += off - old
        before = after
    found = {
        name: np.linalg.norm(error) / np.linalg.norm(move)
        for name, error, move in zip(names, errors, moves, strict=True)
        if "conv2d" not in name or "bias" not in name
    }
    assert {name: part for name, part in found.items() if not part <= (0.005 if "moving" in name else 0.03)} == {}

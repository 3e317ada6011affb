"""Models with layers that run "each example alone", in a process of their own, since TensorFlow may end it: `alone_program.py CASE ..`.

Each case prints how far the recorded forward pass is from the plain one, and the clipped sum from a loop over single examples.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from gradient_oracle import clipped_sum, each_gradient, flat_weights
from privacy import PrivacyEngine
from privacy.models.recording import recording

layers = keras.layers
SIZES = [(4, 12, 16, 16), (2, 3, 7, 5), (5, 1, 8, 3), (16, 12, 16, 4), (3, 40, 33, 9)]
"""Examples, positions, features, outputs."""


class Own(layers.Layer):
    """A product of a layer of one's own."""

    def __init__(self, units, product):
        super().__init__()
        self.units, self.product = units, product

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        return self.product(x, self.w)


class GPT(keras.Model):
    """The output projection is the transposed embedding, so that the whole model is one unit."""

    def __init__(self):
        super().__init__()
        self.table, self.attention, self.norm = layers.Embedding(50, 16), layers.MultiHeadAttention(2, 8), layers.LayerNormalization()

    def call(self, x):
        h = self.table(x)
        h = self.norm(h + self.attention(h, h, use_causal_mask=True))
        return keras.ops.matmul(h, keras.ops.transpose(self.table.embeddings))


def attention(*, frozen=False):
    def layer(x, units):
        made = layers.MultiHeadAttention(2, 8)
        y = made(x, x)
        if frozen:
            made.query_dense.kernel.trainable = False
        else:
            made.query_dense.enable_lora(2)
            made.value_dense.enable_lora(2)
        return layers.Dense(units)(y)

    return layer


def einsum_lora(x, units):
    made = layers.EinsumDense("abc,cd->abd", output_shape=(None, units), bias_axes="d")
    y = made(x)
    made.enable_lora(2)
    return y


CASES = {
    "attention with LoRA": attention(),
    "attention with a frozen kernel": attention(frozen=True),
    "EinsumDense with LoRA": einsum_lora,
    "x @ w": lambda x, units: Own(units, lambda x, w: x @ w)(x),
    "einsum": lambda x, units: Own(units, lambda x, w: keras.ops.einsum("btk,ko->bto", x, w))(x),
    "matmul": lambda x, units: Own(units, keras.ops.matmul)(x),
}


def check(name, model, x, y, loss, clip=0.1):
    engine = PrivacyEngine("rdp")
    engine.make_private(model, noise_multiplier=1e-9, max_grad_norm=clip)
    model.compile(keras.optimizers.SGD(1.0), loss)
    before, values = flat_weights(model), [variable.numpy() for variable in model.trainable_variables]
    model.fit(x, y, batch_size=len(x), epochs=1, verbose=0)
    found = (before - flat_weights(model)) * len(x)
    for variable, value in zip(model.trainable_variables, values, strict=True):
        variable.assign(value)
    plain = model(x).numpy()
    with recording(engine._trainings[-1].units, lambda tensor: None):
        recorded = model(tf.constant(x), training=True).numpy()
    wanted = clipped_sum(each_gradient(model, x, y), clip)
    paths = {unit.path for unit in engine._trainings[-1].units}
    forward, gradient = np.abs(plain - recorded).max(), np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    print(f"{name}: forward {forward:.1e}, clipped sum {gradient:.1e}, {', '.join(sorted(paths))}", flush=True)
    assert forward <= 1e-5 * max(1.0, np.abs(plain).max()), name
    assert gradient <= 1e-4, name


def main(name):
    random = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    if name == "GPT with tied embeddings":
        text = random.integers(1, 50, (16, 13))
        crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model = GPT()
        model(text[:, :-1])
        check(name, model, text[:, :-1], text[:, 1:], crossentropy)
        return
    for examples, positions, width, units in SIZES:
        x = random.normal(size=(examples, positions, width)).astype(np.float32)
        i = keras.Input((positions, width))
        if name == "loss with a product":
            matrix = tf.constant(random.normal(size=(units, width)).astype(np.float32))
            model = keras.Model(i, layers.Dense(units)(i))
            check(name, model, x, x, lambda y, p, m=matrix: keras.ops.mean(keras.ops.square(tf.matmul(p, m) - y)))
            continue
        model = keras.Model(i, CASES[name](i, units))
        y = random.normal(size=(examples, positions, units)).astype(np.float32)
        check(name, model, x, y, "mse")


if __name__ == "__main__":
    for case in sys.argv[1:]:
        main(case)

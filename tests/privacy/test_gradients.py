"""The clipped sum of every supported layer equals a slow loop over batches of one example."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from gradient_oracle import clipped_sum, each_gradient, flat_weights
from privacy.clipping import FlatClipping
from privacy.models.recording import strays, units, whole
from privacy.step import PrivateStep

layers = keras.layers


def private_sum(model, x, y, clip, *, parts=None):
    """The sum of clipped gradients, read off a step of SGD with learning rate 1 and no noise."""
    model.compile(keras.optimizers.SGD(1.0), model.loss or "mse")
    model.optimizer.build(model.trainable_variables)
    step = PrivateStep(model, parts or units(model), clipping=FlatClipping(), batch=None, eager=True)
    before = flat_weights(model)
    step.whole((x, y), clip, np.zeros(step.parameters, np.float32), 2.0**-40, 1)
    after = flat_weights(model)
    for variable, value in zip(model.trainable_variables, split(model, before), strict=True):
        variable.assign(value)
    return before - after


def split(model, flat):
    ends = np.cumsum([np.prod(variable.shape, dtype=int) for variable in model.trainable_variables])
    return [part.reshape(variable.shape) for part, variable in zip(np.split(flat, ends[:-1]), model.trainable_variables, strict=True)]


def check(model, x, *, path=None, parts=None, loss="mse", y=None, seed=0):
    random = np.random.default_rng(seed)
    y = random.normal(size=np.shape(model(x))).astype(np.float32) if y is None else y
    for variable in model.trainable_variables:
        variable.assign(random.normal(size=variable.shape).astype(np.float32) * 0.5)
    model.compile("sgd", loss)
    if path is not None:
        assert units(model)[0].path == path
    expected = each_gradient(model, x, y)
    norms = np.linalg.norm(expected, axis=1)
    for clip in (1e6, float(np.median(norms)) or 1.0, 1e-3):
        wanted = clipped_sum(expected, clip)
        np.testing.assert_allclose(
            private_sum(model, x, y, clip, parts=parts), wanted, atol=2e-5 * max(1.0, np.abs(wanted).max()), rtol=2e-4
        )


def values(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def one(layer, shape, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), layer])


@given(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2), st.integers(1, 5), st.integers(1, 5), st.booleans())
@settings(max_examples=8)
def test_dense(batch, between, width, units, bias):
    model = one(layers.Dense(units, activation="tanh", use_bias=bias), (*between, width))
    check(model, values((batch, *between, width)), path="book-keeping")


@pytest.mark.parametrize("shape", [(12, 4, 5), (2, 40, 50)], ids=["materialised", "ghost"])
def test_both_forms_of_dense_at_positions(shape):
    positions, width, units = shape
    check(one(layers.Dense(units), (positions, width)), values((3, positions, width)))


@given(st.data())
@settings(max_examples=12)
def test_convolutions(data):
    draw = data.draw
    rank, window = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    stride = draw(st.integers(1, 3))
    dilation = draw(st.integers(1, 2)) if stride == 1 else 1
    padding = draw(st.sampled_from(["valid", "same", "causal"] if rank == 1 else ["valid", "same"]))
    size = draw(st.integers(5, 7))
    kind = layers.Conv1D if rank == 1 else layers.Conv2D
    layer = kind(draw(st.integers(1, 3)), window, stride, padding, dilation_rate=dilation, use_bias=draw(st.booleans()), activation="tanh")
    shape = (size,) * rank + (draw(st.integers(1, 3)),)
    check(one(layer, shape), values((draw(st.integers(1, 3)), *shape)), path="book-keeping on patches")


@pytest.mark.parametrize("options", [{"strides": (2, 1), "padding": "same"}, {"dilation_rate": (2, 1)}], ids=str)
@pytest.mark.parametrize(("channels", "filters"), [(3, 2), (40, 3), (70, 40)], ids=["at once", "by rows", "by rows, slowly"])
def test_convolutions_with_unequal_sides(channels, filters, options):
    shape = (7, 6, channels)
    check(one(layers.Conv2D(filters, (3, 2), activation="tanh", **options), shape), values((2, *shape)) / channels)


@given(st.data())
@settings(max_examples=8)
def test_depthwise_convolutions(data):
    draw = data.draw
    rank, stride = draw(st.sampled_from([1, 2])), draw(st.integers(1, 2))
    dilation = draw(st.integers(1, 2)) if stride == 1 else 1
    kind = layers.DepthwiseConv1D if rank == 1 else layers.DepthwiseConv2D
    layer = kind(
        draw(st.integers(1, 3)), stride, draw(st.sampled_from(["valid", "same"])), draw(st.integers(1, 2)),
        dilation_rate=dilation, use_bias=draw(st.booleans()), activation="tanh",
    )  # fmt: skip
    shape = (draw(st.integers(5, 6)),) * rank + (draw(st.integers(1, 3)),)
    check(one(layer, shape), values((2, *shape)), path="book-keeping on patches")


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_embedding_with_repeated_indices(shape):
    x = np.random.default_rng(1).integers(0, 4, (3, *shape))
    check(one(layers.Embedding(6, 3), shape, "int64"), x, path="book-keeping")


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization(),
        layers.LayerNormalization(axis=[1, 2]),
        layers.LayerNormalization(center=False),
        layers.LayerNormalization(scale=False),
        layers.GroupNormalization(groups=2),
        layers.GroupNormalization(groups=-1, center=False),
        layers.RMSNormalization(),
    ],
    ids=lambda layer: layer.name,
)
def test_normalization(layer):
    layer = layer.from_config(layer.get_config())
    check(one(layer, (3, 4)), values((3, 3, 4)), path="book-keeping")


@pytest.mark.parametrize(
    ("equation", "output", "bias"),
    [
        ("abc,cd->abd", (None, 6), "d"),
        ("abc,cde->abde", (None, 2, 3), "de"),
        ("abc,cde->adbe", (2, None, 3), None),
        ("ab,bc->ac", 6, None),
        ("abcd,cde->abe", (None, 5), "e"),
    ],
)
def test_einsum_dense(equation, output, bias):
    shape = {"ab": (4,), "abc": (3, 4), "abcd": (3, 2, 4)}[equation.split(",")[0]]
    model = one(layers.EinsumDense(equation, output_shape=output, bias_axes=bias), shape)
    check(model, values((3, *shape)), path="book-keeping")


def test_einsum_dense_that_is_not_dense_at_positions():
    model = one(layers.EinsumDense("abc,bcd->abd", output_shape=(3, 5)), (3, 4))
    check(model, values((3, 3, 4)), path="each example alone")


@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention"])
def test_attention(kind):
    x = keras.Input((5, 4))
    layer = layers.MultiHeadAttention(2, 3) if kind == "MultiHeadAttention" else layers.GroupQueryAttention(3, 4, 2)
    model = keras.Model(x, layer(x, x))
    assert {unit.path for unit in units(model)} == {"book-keeping"}
    check(model, values((3, 5, 4)))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: layers.Conv2D(4, 2, groups=2), (5, 5, 2)),
        (lambda: layers.Conv2DTranspose(2, 2), (4, 4, 3)),
        (lambda: layers.SeparableConv2D(3, 2), (5, 5, 2)),
        (lambda: layers.Conv3D(2, 2), (3, 3, 3, 2)),
        (lambda: layers.PReLU(), (4,)),
        (lambda: layers.RNN(layers.LSTMCell(3)), (4, 2)),
        (lambda: layers.TimeDistributed(layers.Dense(2)), (3, 4)),
    ],
    ids=["groups", "transposed", "separable", "3d", "prelu", "rnn", "time"],
)
@pytest.mark.sample(2)
def test_layers_without_a_rule(layer, shape):
    check(one(layer(), shape), values((3, *shape)), path="each example alone")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True},
        {"go_backwards": True, "return_sequences": True},
        {"use_bias": False},
        {"activation": "relu", "unroll": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
@pytest.mark.sample(5)
def test_recurrent_layers(kind, options):
    check(one(getattr(layers, kind)(3, **options), (4, 2)), values((3, 4, 2)), path="book-keeping over time")


@pytest.mark.parametrize("options", [{"reset_after": False}, {"zero_output_for_mask": True}], ids=str)
@pytest.mark.sample(1)
def test_recurrent_layers_without_a_rule(options):
    check(one(layers.GRU(3, **options), (4, 2)), values((3, 4, 2)), path="each example alone")


def test_bidirectional_and_masked():
    x = np.array([[1, 2, 0, 0], [3, 1, 2, 4], [4, 0, 0, 0]])
    model = keras.Sequential(
        [keras.Input((4,), dtype="int64"), layers.Embedding(5, 3, mask_zero=True), layers.Bidirectional(layers.LSTM(2)), layers.Dense(1)]
    )
    assert len(units(model)) == 4
    check(model, x)


def test_states_that_are_passed_on():
    x = keras.Input((4, 2))
    sequence, h, c = layers.LSTM(3, return_sequences=True, return_state=True)(x)
    model = keras.Model(x, layers.LSTM(3)(sequence, initial_state=[h, c]))
    assert {unit.path for unit in units(model)} == {"book-keeping over time"}
    check(model, values((3, 4, 2)))


def test_a_layer_that_is_used_twice():
    x = keras.Input((4,))
    dense = layers.Dense(4, activation="tanh")
    check(keras.Model(x, dense(dense(x))), values((3, 4)))


def test_frozen_layers_are_left_out():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, trainable=False), layers.Dense(2)])
    check(model, values((3, 4)))
    assert len(units(model)) == 1


def test_nested_models_and_several_inputs_and_outputs():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh")])
    a, b = keras.Input((4,)), keras.Input((2,))
    both = layers.Concatenate()([inner(a), b])
    model = keras.Model([a, b], [layers.Dense(1)(both), layers.Dense(2)(both)])
    x = [values((3, 4)), values((3, 2))]
    check(model, x, y=[values((3, 1)), values((3, 2))], loss=["mse", "mae"])


class Tied(layers.Layer):
    """The output projection is the transposed embedding."""

    def __init__(self):
        super().__init__()
        self.table = layers.Embedding(5, 3)

    def call(self, x):
        return keras.ops.matmul(keras.ops.mean(self.table(x), 1), keras.ops.transpose(self.table.embeddings))


def test_a_weight_that_is_used_outside_of_its_layer_is_noticed():
    model = one(Tied(), (4,), "int64")
    x = np.random.default_rng(0).integers(0, 5, (3, 4))
    reasons = []
    trial = tf.function(lambda examples: reasons.append(strays(model, units(model), examples)), autograph=False)
    trial.get_concrete_function(tf.TensorSpec((None, 4), tf.int64))
    assert "outside of its layer's call" in reasons[0]
    check(model, x, parts=[whole(model, reasons[0])])


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        "categorical_crossentropy",
        keras.losses.MeanSquaredError(reduction="sum"),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
        keras.losses.Dice(),
        keras.losses.CosineSimilarity(axis=0),
        keras.losses.CategoricalCrossentropy(axis=0),
        lambda y, p: keras.ops.mean(keras.ops.square(y - p)),
        lambda y, p: keras.ops.sum(keras.ops.abs(y - p)),
        lambda y, p: keras.ops.square(y - p),
    ],
    ids=["mse", "crossentropy", "sum", "smoothed", "dice", "other axis", "batch axis", "reduced mean", "reduced sum", "unreduced"],
)
@pytest.mark.sample(4)
def test_the_loss_of_an_example_is_that_of_a_batch_of_it(loss):
    y = keras.utils.to_categorical([0, 2, 1], 3)
    activation = None if getattr(loss, "name", "") == "categorical_crossentropy" else "softmax"
    check(keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=activation)]), values((3, 4)), loss=loss, y=y)


@pytest.mark.parametrize("examples", [1, 2, 5, 17, 64, 65])
@pytest.mark.sample(3)
def test_what_fills_a_batch_up_changes_nothing(examples):
    """Neither gradients, nor metrics, nor the count of examples that were not clipped."""
    keras.utils.set_random_seed(0)
    model = one(layers.Dense(3), (4,))
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"], weighted_metrics=["mse"])
    model.optimizer.build(model.trainable_variables)
    x, y, w = values((examples, 4)), values((examples, 3), 1), np.abs(values((examples,), 2))
    norms = np.linalg.norm(each_gradient(model, x, y) * w[:, None], axis=1)
    clip = float(np.median(norms)) * 1.001
    batch = tf.nest.map_structure(lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype), (x, y, w))
    step = PrivateStep(model, units(model), clipping=FlatClipping(), batch=batch)
    metrics, unclipped = step.whole((x, y, w), clip, np.zeros(step.parameters, np.float32), 2.0**-30, 1)
    assert unclipped == (norms <= clip).sum()
    errors = model(x).numpy() - y
    assert float(metrics["mae"]) == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    assert float(metrics["mse"]) == pytest.approx(((errors**2).mean(1) * w).sum() / w.sum(), rel=1e-5)
    assert float(metrics["loss"]) == pytest.approx(((errors**2).mean(1) * w).mean(), rel=1e-5)

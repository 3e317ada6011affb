"""A private step trains the loss that was compiled, or refuses it by name before anything runs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, losses, ops

from gradient_oracle import clipped_sum, each_gradient, flat_weights
from privacy import ModelRefused, PrivacyEngine
from privacy.trials import objective

RANDOM = np.random.default_rng(0)
N = 12


def rmse(y, p):
    return ops.sqrt(ops.mean(ops.square(y - p)))


def summed(y, p):
    return ops.sum(ops.square(y - p))


def each(y, p):
    return ops.mean(ops.square(y - p), -1)


def whole(y, p):
    return ops.mean(ops.square(y - p))


def ranking(y, p):
    """Of all pairs, how much the negative one is above the positive one: a stand-in for 1 - AUC."""
    pairs = ops.cast(y > ops.transpose(y), "float32")
    return ops.sum(pairs * ops.relu(1 - (p - ops.transpose(p)))) / (ops.sum(pairs) + 1e-6)


def by_variance(y, p):
    return ops.mean(ops.square(y - p)) / (ops.var(y) + 1e-3)


def hardest(y, p):
    values = ops.reshape(each(y, p), (-1,))
    return ops.mean(ops.top_k(values, (values.shape[0] + 1) // 2)[0])


def survival(y, p):
    """Cox's partial likelihood: everybody who is still at risk is in each term."""
    time, event, risk = y[:, 0], y[:, 1], p[:, 0]
    later = ops.cast(time[None, :] >= time[:, None], "float32")
    return -ops.mean(event * (risk - ops.log(ops.sum(later * ops.exp(risk)[None, :], 1))))


def triplets(y, p):
    distances = ops.sum(ops.square(p[:, None] - p[None]), -1)
    same = ops.cast(y[:, None] == y[None, :], "float32")
    return ops.mean(ops.relu(ops.max(distances * same, 1) - ops.min(distances + 1e3 * same, 1) + 1))


def contrastive(y, p):
    return ops.mean(losses.sparse_categorical_crossentropy(ops.arange(ops.shape(p)[0]), p @ ops.transpose(p), from_logits=True))


def padded(y, p):
    values, counted = losses.sparse_categorical_crossentropy(y, p, from_logits=True), ops.cast(y != 0, "float32")
    return ops.sum(values * counted) / ops.sum(counted)


def padded_each(y, p):
    values, counted = losses.sparse_categorical_crossentropy(y, p, from_logits=True), ops.cast(y != 0, "float32")
    return ops.sum(values * counted, -1) / (ops.sum(counted, -1) + 1e-6)


@tf.custom_gradient
def normalised_back(x):
    return x, lambda g: g / (tf.norm(g) + 1e-9)


class ByWeights(losses.Loss):
    """Divides by the sum of the weights of the batch."""

    def __call__(self, y, p, sample_weight=None):
        values = each(ops.cast(y, "float32"), p)
        return ops.mean(values) if sample_weight is None else ops.sum(values * sample_weight) / ops.sum(sample_weight)


class Unreduced(losses.Loss):
    def __call__(self, y, p, sample_weight=None):
        return each(y, p)


class MeanAsSum(losses.Loss):
    def call(self, y, p):
        return ops.mean(ops.square(y - p))


def floats(*shape):
    return tf.TensorSpec((None, *shape), tf.float32)


def labels(*shape):
    return tf.TensorSpec((None, *shape), tf.int64)


WHOLE_BATCH = "it looks at a whole batch"
REFUSED = {
    "Dice": (losses.Dice(), floats(4, 4, 1), (4, 4, 1), "gradient is another one|whole batch"),
    "Tversky": (losses.Tversky(), floats(4, 4, 1), (4, 4, 1), WHOLE_BATCH),
    "Circle": (losses.Circle(), labels(), (6,), WHOLE_BATCH),
    "cosine over the batch": (losses.CosineSimilarity(axis=0), floats(3), (3,), WHOLE_BATCH),
    "crossentropy over the batch": (losses.CategoricalCrossentropy(axis=0), floats(3), (3,), WHOLE_BATCH),
    "rmse": (rmse, floats(3), (3,), WHOLE_BATCH),
    "sum": (summed, floats(3), (3,), "it is a sum over the batch; .*reduction='sum'"),
    "ranking": (ranking, floats(1), (1,), WHOLE_BATCH),
    "variance": (by_variance, floats(1), (1,), WHOLE_BATCH),
    "hardest": (hardest, floats(1), (1,), WHOLE_BATCH),
    "survival": (survival, floats(2), (1,), WHOLE_BATCH),
    "triplets": (triplets, labels(), (6,), WHOLE_BATCH),
    "contrastive": (contrastive, floats(1), (6,), WHOLE_BATCH),
    "padding of the batch": (padded, labels(5), (5, 4), WHOLE_BATCH),
    "gradient": (lambda y, p: each(y, normalised_back(p)), floats(3), (3,), "gradient is another one"),
    "broadcast": ("mse", floats(), (3,), r"targets float32 \(N\), outputs float32 \(N, 3\).*InvalidArgumentError for 2 of them"),
    "no number": (Unreduced(), floats(3), (3,), "it is of shape"),
    "a mean that says it is a sum": (MeanAsSum(reduction="sum"), floats(3), (3,), "while the sum of the loss"),
    "nothing": (lambda y, p: ops.zeros_like(p), floats(1), (1,), "no finite gradient other than 0"),
    "a foreign error": (lambda y, p: {}[1], floats(1), (1,), "raises KeyError"),
}
ACCEPTED = {
    "Dice of each image": (losses.Dice(axis=(1, 2, 3)), floats(4, 4, 1), (4, 4, 1)),
    "Tversky of each image": (losses.Tversky(axis=(1, 2)), floats(4, 4, 1), (4, 4, 1)),
    "cosine": (losses.CosineSimilarity(), floats(3), (3,)),
    "categorical hinge": ("categorical_hinge", floats(3), (3,)),
    "MAPE": ("mape", floats(1), (1,)),
    "generalised": (losses.CategoricalGeneralizedCrossEntropy(), labels(), (3,)),
    "CTC": (losses.CTC(), labels(3), (8, 4)),
    "sum": (losses.CosineSimilarity(reduction="sum"), floats(3), (3,)),
    "each": (each, floats(3), (3,)),
    "pinball": (lambda y, p: ops.maximum(0.9 * (y - p), 0.1 * (p - y)), floats(1), (1,)),
    "mixture": (lambda y, p: -ops.logsumexp(-ops.square(y[..., None] - p[:, None, :]), axis=-1), floats(1), (6,)),
    "margin": (lambda y, p: ops.relu(1 - (2 * y - 1) * p), floats(1), (1,)),
    "threshold": (lambda y, p: ops.where(ops.abs(y - p) < 1.0, ops.square(y - p), 2.0), floats(1), (1,)),
    "padding of each": (padded_each, labels(5), (5, 4)),
    "infinite for some": (lambda y, p: ops.log(p) * y - ops.exp(120.0 * p), floats(1), (1,)),
    "outputs are losses": (lambda y, p: p, floats(1), (1,)),
    "segmentation": (lambda y, p: losses.sparse_categorical_crossentropy(y, p, from_logits=True), labels(4, 4), (4, 4, 3)),
    "ignored": (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0, reduction="sum"), labels(5), (5, 3)),
    "flags": (lambda y, p: losses.binary_crossentropy(ops.cast(y, "float32"), p), tf.TensorSpec((None, 1), tf.bool), (1,)),
}


def compiled(loss, **settings):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3)])
    model.compile(keras.optimizers.SGD(1.0), loss, **settings)
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_of_the_whole_batch_is_found(name):
    loss, targets, outputs, message = REFUSED[name]
    why = objective.objection(compiled(loss), targets, tf.zeros((2, *outputs)), weighted=False)
    assert why is not None
    with pytest.raises(ModelRefused, match=f"(?s){message}"):
        raise ModelRefused(why)


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.sample(7)
def test_a_loss_of_each_example_passes(name):
    loss, targets, outputs = ACCEPTED[name]
    assert objective.objection(compiled(loss), targets, tf.zeros((2, *outputs)), weighted=True) is None


@pytest.mark.parametrize("loss", [ByWeights(), whole], ids=["by the sum of weights", "a mean times the mean weight"])
def test_what_the_weights_of_the_batch_do_to_a_loss(loss):
    """Keras multiplies a loss that is one number already by each weight, so that no example has its own."""
    model, outputs = compiled(loss), tf.zeros((2, 3))
    assert objective.objection(model, floats(3), outputs, weighted=False) is None
    assert "with weights" in objective.objection(model, floats(3), outputs, weighted=True)


@pytest.mark.parametrize("loss", [rmse, summed, losses.Dice(), losses.CosineSimilarity(axis=0)], ids=["rmse", "sum", "Dice", "batch axis"])
def test_it_is_refused_by_name_before_anything_runs(loss):
    engine = PrivacyEngine("rdp")
    model = engine.make_private(compiled(loss), noise_multiplier=1.0, max_grad_norm=1.0)
    before, name = model.get_weights(), getattr(loss, "__name__", type(loss).__name__)
    x, y = RANDOM.normal(size=(N, 4)), RANDOM.uniform(size=(N, 3))
    with pytest.raises(ModelRefused, match=rf"its loss \({name}\) cannot be private: "):
        model.fit(x, y, batch_size=4, verbose=0)
    assert engine.accountant.events == ()
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(x, y, batch_size=4, verbose=0)
    model.compile(keras.optimizers.SGD(1.0), loss)  # is asked anew
    with pytest.raises(ModelRefused, match=name):
        model.fit(x, y, batch_size=4, verbose=0)


@pytest.mark.parametrize(("loss", "message"), [(each, None), (rmse, WHOLE_BATCH), (summed, "it is a sum over the batch")])
def test_large_outputs(loss, message):
    """Of images, say, which are tried on fewer examples."""
    why = objective.objection(compiled(loss), floats(1024, 1024), tf.zeros((1, 1024, 1024)), weighted=False)
    assert why is None if message is None else message in why


def two_outputs(first, second, weights=None):
    inputs = layers.Input((4,))
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})
    model.compile(keras.optimizers.SGD(1.0), {"a": first, "b": second}, loss_weights=weights)
    return model


TWO = {"a": floats(3), "b": floats(1)}


@pytest.mark.parametrize("weights", [None, {"a": 2.0, "b": 0.5}])
def test_the_loss_of_each_output(weights):
    outputs = {"a": tf.zeros((2, 3)), "b": tf.zeros((2, 1))}
    assert objective.objection(two_outputs("mse", each, weights), TWO, outputs, weighted=True) is None
    model = two_outputs("mse", rmse, weights)
    why = objective.objection(model, TWO, outputs, weighted=False)
    assert WHOLE_BATCH in why
    assert objective.named(model) == "one of its losses (mse, rmse)"


def test_the_output_is_named_whose_gradient_is_not_its_own():
    outputs = {"a": tf.zeros((2, 3)), "b": tf.zeros((2, 1))}
    model = two_outputs("mse", lambda y, p: each(y, normalised_back(p)))
    assert "for output 'b'" in objective.objection(model, TWO, outputs, weighted=False)


def test_a_loss_that_reads_weights_is_refused():
    """No example's gradient has a part that is not on its way from the outputs."""
    model = compiled("mse")
    model.compile("sgd", lambda y, p: each(y, p) + 0.1 * ops.sum(ops.square(model.layers[0].kernel)))
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1.0, max_grad_norm=1.0)
    with pytest.raises(ModelRefused, match=r"it reads the weight .*kernel.*regularizer"):
        model.fit(np.ones((8, 4)), np.ones((8, 3)), batch_size=4, verbose=0)


def test_trying_a_loss_changes_no_metric_and_no_seed():
    inputs = layers.Input((4,))
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(layers.Dropout(0.5)(inputs)), "b": layers.Dense(1, name="b")(inputs)})
    model.compile("sgd", {"a": "mse", "b": each})
    y = {"a": tf.zeros((2, 3)), "b": tf.zeros((2, 1))}
    model.compute_loss(x=None, y=y, y_pred=y)  # makes the metrics of the losses
    before = [np.array(one) for one in (*model.metrics_variables, *model.non_trainable_variables)]
    assert objective.objection(model, TWO, y, weighted=True) is None
    after = [np.array(one) for one in (*model.metrics_variables, *model.non_trainable_variables)]
    assert len(after) > 4
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def sequences(ignoring):
    """Tokens of which 5, 2 and 1 count, by a mask or by the labels."""
    x, y = RANDOM.normal(size=(3, 5, 4)).astype(np.float32), RANDOM.integers(1, 4, (3, 5))
    for row, counted in enumerate((5, 2, 1)):
        if ignoring:
            y[row, counted:] = 0
        else:
            x[row, counted:] = 0.0
    return x, y


@pytest.mark.parametrize("kind", ["ignore_class", "Masking"])
def test_each_example_is_divided_by_how_many_of_its_own_labels_count(kind):
    """The rule for what Keras divides by the count of the batch: a batch of each example alone."""
    keras.utils.set_random_seed(1)
    ignoring = kind == "ignore_class"
    model = keras.Sequential([layers.Input((5, 4)), *([] if ignoring else [layers.Masking(0.0)]), layers.Dense(4)])
    loss = losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0 if ignoring else None)
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1e-7, max_grad_norm=0.4)
    model.compile(keras.optimizers.SGD(1.0), loss)
    x, y = sequences(ignoring)
    gradients = each_gradient(model, x, y)
    norms = np.linalg.norm(gradients, axis=1)
    assert norms.min() > 0.3  # the shortest is not a small part of the batch
    before = flat_weights(model)
    model.fit(x, y, batch_size=3, verbose=0)
    np.testing.assert_allclose((before - flat_weights(model)) * 3, clipped_sum(gradients, 0.4), atol=1e-5)


def test_a_sum_is_not_divided_by_the_size_of_the_batch():
    model = compiled(losses.MeanSquaredError(reduction="sum"))
    PrivacyEngine("rdp").make_private(model, noise_multiplier=1e-7, max_grad_norm=0.5)
    x, y = RANDOM.normal(size=(N, 4)).astype(np.float32), RANDOM.normal(size=(N, 3)).astype(np.float32)
    wanted, before = clipped_sum(each_gradient(model, x, y), 0.5), flat_weights(model)
    model.fit(x, y, batch_size=N, verbose=0)
    np.testing.assert_allclose(before - flat_weights(model), wanted, atol=1e-5)

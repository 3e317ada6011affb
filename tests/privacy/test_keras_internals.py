"""Each private name of Keras that these packages use exists in the installed Keras and means what `internals` says it means."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from privacy.keras_models import internals


@pytest.fixture
def model():
    """Two inputs in a dict, a model in a model, a sum."""
    inputs = {"a": layers.Input((3,), name="a"), "b": layers.Input((3,), name="b")}
    inner = keras.Sequential([layers.Input((3,)), layers.Dense(2, name="deep")], name="inner")
    return keras.Model(inputs, layers.Dense(1, name="last")(inner(inputs["a"] + inputs["b"])))


def test_layers_within_layers(model):
    assert internals.layers_within(model)[0] is model
    assert {one.name for one in internals.layers_within(model, itself=False)} >= {"a", "b", "inner", "deep", "last"}
    near = {one.name for one in internals.layers_within(model, itself=False, deep=False)}
    assert "inner" in near
    assert "deep" not in near


def test_masks_travel_with_tensors():
    ids = np.array([[1, 0, 2]])
    embedded = layers.Embedding(3, 2, mask_zero=True)(ids)
    np.testing.assert_array_equal(internals.mask_of(embedded), [[True, False, True]])
    assert internals.mask_of(tf.zeros(3)) is None
    other = tf.constant(embedded.numpy())
    internals.put_mask(other, tf.constant([[True, True, False]]))
    summed = layers.LSTM(2, return_sequences=True)(other)
    np.testing.assert_array_equal(internals.mask_of(summed), [[True, True, False]])  # Keras hands on what we put


def test_symbolic_calls_of_layers_within_are_asked_as_long_as_it_lasts():
    class Pair(layers.Layer):
        def call(self, x):
            return x + 1, None

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense, self.pair = layers.Dense(2), Pair()

    outer, seen = Outer(), []

    def instead(layer, symbolic_call, *args, **kwargs):
        seen.append(type(layer).__name__)
        return layer.call(*args, **kwargs) if isinstance(layer, Pair) else symbolic_call(*args, **kwargs)

    with internals.symbolic_calls(outer, instead):
        result, nothing = outer.pair(outer.dense(keras.Input((3,))))
    assert seen == ["Dense", "Pair"]
    assert nothing is None
    assert internals.origin(result)[1].outputs == [result]
    with pytest.raises(ValueError, match="outputs must be tensors"):
        outer.pair(keras.Input((3,)))
    assert seen == ["Dense", "Pair"]


def test_crossentropies_find_the_logits_behind_probabilities():
    logits = tf.constant([[0.0, 800.0], [300.0, 0.0]])
    signs, classes = [[1.0, 0.0], [0.0, 1.0]], [0, 1]
    for activation, loss, y in (("softmax", "sparse_categorical_crossentropy", classes), ("sigmoid", "binary_crossentropy", signs)):
        made = keras.activations.get(activation)(logits)
        how, found = internals.logits_of(made)
        assert found is logits
        other = internals.with_logits(tf.constant(made.numpy()), how, found)
        loss = keras.losses.get(loss)
        np.testing.assert_allclose(loss(tf.constant(y), other), loss(tf.constant(y), made))
        assert loss(tf.constant(y), other)[0] > loss(tf.constant(y), tf.constant(made.numpy()))[0]

    @tf.function
    def of_tensorflow(logits):
        how, found = internals.logits_of(tf.nn.softmax(logits))
        assert how == "Softmax"
        return found, keras.losses.sparse_categorical_crossentropy(tf.constant(classes), internals.with_logits(tf.zeros(2), how, found))

    found, losses = of_tensorflow(logits)
    np.testing.assert_array_equal(found, logits)
    np.testing.assert_allclose(losses, [800.0, 300.0])
    assert internals.logits_of(tf.nn.relu(logits)) is None


def test_the_graph_of_a_functional_model(model):
    last = model.get_layer("last")
    operation, node = internals.origin(model.outputs[0])
    assert operation is last
    assert node is internals.calls_of(last)[0]
    inner, node = internals.origin(node.input_tensors[0])
    assert inner is model.get_layer("inner")
    adding, node = internals.origin(node.input_tensors[0])
    assert internals.adds(adding)
    assert not internals.adds(last)
    assert [tensor is model.inputs[i] for i, tensor in enumerate(node.input_tensors)] == [True, True]
    assert len(node.arguments.args) + len(node.arguments.kwargs) == 2
    layers.Dense(1)(layers.Input((4,)))
    last(layers.Input((2,)))
    assert len(internals.calls_of(last)) == 2


def test_inputs_as_they_were_given(model):
    assert set(internals.inputs_as_given(model)) == {"a", "b"}

    class Mine(keras.Model):
        def call(self, x):
            return x

    assert internals.inputs_as_given(Mine()) is None
    one = layers.Input((4,))
    assert keras.tree.flatten(internals.inputs_as_given(keras.Model(one, layers.Dense(1)(one)))) == [one]
    assert len(keras.tree.flatten(internals.inputs_as_given(keras.Sequential([layers.Input((4,)), layers.Dense(1)])))) == 1


def test_the_call_that_is_under_way():
    seen = []

    class Looking(layers.Layer):
        def call(self, x):
            seen.append(internals.call_context(self).training)
            return x

    layer = Looking()
    looking = keras.Sequential([layer])
    looking(np.zeros((1, 2)), training=True)
    looking(np.zeros((1, 2)), training=False)
    assert seen[-2:] == [True, False]
    begun = internals.call_context(layer)
    assert internals.call_context(looking) is begun  # the one that is under way
    internals.leave_call(looking)  # which did not begin it
    assert internals.call_context(looking) is begun
    internals.leave_call(layer)
    assert internals.call_context(looking) is not begun
    internals.leave_call(looking)


def test_attention():
    attention = layers.MultiHeadAttention(2, 3, attention_axes=(1,))
    attention(np.zeros((1, 4, 5)), np.zeros((1, 4, 5)))
    kernel = internals.output_projection(attention).kernel
    assert tuple(kernel.shape) == (2, 3, 5)
    assert getattr(attention, internals.ATTENTION_AXES) in ((1,), [1])
    assert not internals.is_windowed_or_gated(attention)
    if "sliding_window" in attention.get_config():
        assert internals.is_windowed_or_gated(layers.MultiHeadAttention(2, 3, sliding_window=2))
    if "use_gate" in attention.get_config():
        assert internals.is_windowed_or_gated(layers.MultiHeadAttention(2, 3, use_gate=True))


def test_what_compile_was_given(model):
    assert internals.compile_arguments(model) == {}
    assert internals.loss_weights(model) is None
    loss, optimizer = keras.losses.MeanSquaredError(), keras.optimizers.SGD(0.1)
    model.compile(optimizer, loss, loss_weights=[3.0], weighted_metrics=["mae"], steps_per_execution=2)
    given = internals.compile_arguments(model)
    assert given["loss"] is loss
    assert given["optimizer"] is optimizer
    assert given["weighted_metrics"] == ["mae"]
    assert given["steps_per_execution"] == 2
    assert given["loss_weights"] == internals.loss_weights(model) == [3.0]


def test_optimizers():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    assert internals.learning_rate(keras.optimizers.SGD(schedule)) is schedule
    assert float(internals.learning_rate(keras.optimizers.SGD(0.25))) == 0.25
    kernel, bias = keras.Variable([1.0], name="kernel"), keras.Variable([1.0], name="bias")
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert internals.decays(optimizer, kernel) is True
    assert internals.decays(optimizer, bias) is False


def test_steps_are_counted_one_by_one_where_gradients_accumulate(model):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    kernel = keras.Variable([1.0])
    optimizer.build([kernel])
    for _ in range(3):
        optimizer.apply([keras.ops.ones(1)])
    assert int(internals.count_of_steps(optimizer)) == 3
    assert int(optimizer.iterations) == 1


@pytest.mark.parametrize("eager", [False, True])
def test_losses_of_outputs_are_weighed_by_examples(model, eager):
    """Keras itself weighs a batch whose size it does not know when it traces as one example."""
    inputs = layers.Input((2,))
    built = keras.Model(inputs, [layers.Dense(1, name="a")(inputs), layers.Dense(1, name="b")(inputs)])
    built.compile(keras.optimizers.SGD(0.0), ["mse", "mse"], run_eagerly=eager)
    internals.weigh_losses_of_outputs(built)
    x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    found = built.evaluate(x, [np.zeros((5, 1))] * 2, batch_size=4, verbose=0, return_dict=True)
    assert found["a_loss"] == pytest.approx(np.mean(built.predict(x, verbose=0)[0] ** 2), rel=1e-5)
    assert found["loss"] == pytest.approx(found["a_loss"] + found["b_loss"], rel=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimizer_apart_does_the_same_and_shares_no_state(scaled):
    def optimizer():
        plain = keras.optimizers.Adam(0.1, use_ema=True)
        return keras.optimizers.LossScaleOptimizer(plain, initial_scale=1.0) if scaled else plain

    used, fresh = optimizer(), optimizer()
    weights = [keras.Variable([1.0, 2.0]) for _ in range(3)]
    used.build(weights[:1])
    used.apply([keras.ops.ones(2)])
    state, count = [np.array(one) for one in used.variables], len(used.variables)
    apart = internals.optimizer_apart(used)
    for one, weight in ((apart, weights[1]), (fresh, weights[2])):
        one.build([weight])
        one.apply([keras.ops.ones(2)])
    assert np.array(weights[1]).tolist() == np.array(weights[2]).tolist()
    assert len(used.variables) == count == len(apart.variables)
    assert all(map(np.array_equal, state, used.variables))
    unbuilt = optimizer()
    internals.optimizer_apart(unbuilt).build(weights[:1])
    assert unbuilt.built is False


def test_what_is_compiled_apart_has_seen_no_labels(model):
    loss = keras.losses.MeanSquaredError()
    model.compile("sgd", loss, metrics=["accuracy"])
    apart = internals.compile_apart(model)
    assert apart["_compile_metrics"] is None
    before = model._compile_loss
    vars(model).update(apart)
    assert float(internals.compiled_loss(model, np.ones((2, 1)), np.zeros((2, 1)))) == 1.0
    assert before.built is False
    without = keras.Sequential([layers.Input((2,)), layers.Dense(1)])
    without.compile("sgd", None)
    assert internals.compile_apart(without) == {"_compile_loss": None, "_compile_metrics": None}


def test_the_common_seed():
    found = internals.common_seed()
    internals.put_common_seed(keras.random.SeedGenerator(1))
    first = keras.random.normal((3,))
    internals.put_common_seed(keras.random.SeedGenerator(1))
    assert np.array_equal(first, keras.random.normal((3,)))
    internals.put_common_seed(None)
    assert internals.common_seed() is None
    keras.random.normal((3,))
    assert internals.common_seed() is not None
    internals.put_common_seed(found)


def test_which_way_a_callback_watches():
    stopping = keras.callbacks.EarlyStopping("val_loss")
    internals.find_direction(stopping)
    assert stopping.monitor_op(1.0, 2.0)
    stopping = keras.callbacks.EarlyStopping("unheard_of")
    with pytest.raises(ValueError, match="unheard_of"):
        internals.find_direction(stopping)

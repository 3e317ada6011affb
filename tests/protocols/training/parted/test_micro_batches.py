"""Steps in micro-batches: number for number what the whole batch gives, in less memory; noise is added once."""

import functools

import keras
import msgspec
import numpy as np
import pytest
from compiled_trainings import LABELS, NUMBERS, model, same_as_keras
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError, UnsupportedLayer
from protocols.mpc.circuit import meaning
from protocols.mpc.numbers.fixed_point import encode
from protocols.mpc.operations.noise import AddNoise
from protocols.owner.compiled import check_parted, plan, weights
from protocols.owner.compiled_optimizer import scheduled
from protocols.training.asked import SharedEvaluation
from protocols.training.networks.micro_batches import PARTIAL, MicroBatch, none_yet
from protocols.training.networks.random import tables
from protocols.training.private.settings import Private, fitted
from protocols.training.step import Plan

BATCH = 7
RNG = np.random.default_rng(3)
CROSS_ENTROPY = keras.losses.CategoricalCrossentropy(from_logits=True)
SGD = keras.optimizers.SGD


def network(*middle, optimizer=None, shape=(6,), last=None, **settings):
    keras.utils.set_random_seed(1)
    built = keras.Sequential([layers.Input(shape), *middle, last or layers.Dense(3)])
    built.compile(**{"optimizer": optimizer or SGD(0.1), "loss": CROSS_ENTROPY} | settings)
    made = plan(built)
    made = msgspec.structs.replace(made, optimizer=scheduled(built, made.optimizer, 0, 8, made.weight), value=True)
    return made, [encode(number, SCALE) for number in weights(built)]


def several_outputs():
    keras.utils.set_random_seed(1)
    x = layers.Input((6,))
    hidden = layers.Dense(4, "relu")(x)
    built = keras.Model(x, [layers.Dense(3, name="a")(hidden), layers.Dense(2, name="b")(hidden)])
    built.compile(SGD(0.1), [CROSS_ENTROPY, "mse"])
    return msgspec.structs.replace(plan(built), value=True), [encode(number, SCALE) for number in weights(built)]


def loss_of_ones_own(y, z):
    return keras.ops.mean(keras.ops.square(y - z) * 2.0, axis=-1)


IMAGES = {"shape": (4, 4, 2)}
NETWORKS = {
    "rectifiers": lambda: network(layers.Dense(5, "relu"), layers.Dense(4, "sigmoid")),
    "convolutions, Adam": lambda: network(
        layers.Conv2D(3, 2, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), optimizer=keras.optimizers.Adam(0.01), **IMAGES
    ),
    "normalised by rows": lambda: network(layers.Dense(4), layers.LayerNormalization(), layers.Dense(4, "tanh")),
    "statistics that are frozen": lambda: network(layers.Dense(4), layers.BatchNormalization(trainable=False)),
    "attention": lambda: network(
        layers.Reshape((3, 2)), *[layers.SimpleRNN(2, return_sequences=True)], layers.Softmax(), layers.Flatten(), loss="mse"
    ),
    "draws": lambda: network(layers.Dense(5), layers.Dropout(0.4), layers.GaussianNoise(0.5)),
    "velocities, clipped by their norm": lambda: network(layers.Dense(4), optimizer=SGD(0.1, 0.9, nesterov=True, global_clipnorm=0.5)),
    "clipped by each weight's norm": lambda: network(optimizer=SGD(0.1, clipnorm=0.3)),
    "averages of weights": lambda: network(optimizer=SGD(0.1, use_ema=True, ema_overwrite_frequency=2)),
    "steps that are gathered": lambda: network(optimizer=SGD(0.1, gradient_accumulation_steps=2)),
    "decay and constraints": lambda: network(
        optimizer=keras.optimizers.AdamW(0.01), last=layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(0.5))
    ),
    "penalties": lambda: network(
        layers.Dense(4, activity_regularizer=keras.regularizers.L1L2(0.1, 0.2)), last=layers.Dense(3, kernel_regularizer="l1l2")
    ),
    "summed": lambda: network(
        loss=keras.losses.MeanSquaredError(reduction="sum"),
        optimizer=SGD(0.01),
        last=layers.Dense(3, activity_regularizer="l2", kernel_regularizer="l2"),
    ),
    "absolute errors": lambda: network(loss="mae"),
    "a loss of one's own": lambda: network(loss=loss_of_ones_own),
    "several outputs": several_outputs,
    "examples with weights": lambda: weighed(weighted=True),
    "classes with weights": lambda: weighed(classes=(0.5, 1.0, 2.0)),
}


def weighed(**settings):
    made, numbers = network(layers.Dense(4, "relu"))
    return msgspec.structs.replace(made, **settings), numbers


@functools.cache
def examples(inputs: int) -> dict[str, np.ndarray]:
    found = {"x": encode(RNG.uniform(-1, 1, (BATCH, inputs)), SCALE), "w": encode(RNG.uniform(0, 2, (BATCH, 1)), SCALE)}
    found["y"] = encode(np.eye(3)[RNG.integers(0, 3, BATCH)], SCALE)
    return found | {"y 1": encode(RNG.uniform(-1, 1, (BATCH, 2)), SCALE)}


def begun(made: Plan, numbers) -> dict[str, np.ndarray]:
    """Weights, and what is beside them: not zeros, where these hide what is read."""
    values = dict(zip(made.shapes, numbers, strict=True))
    states = {name: RNG.integers(0, 1 << 12, shape).astype(np.uint64) for name, shape in made.states.items()}
    return values | states | {"outside": np.zeros(1, np.uint64), "sums": np.zeros((1, 2), np.uint64)}


def in_the_clear(made: Plan, values, size: int, *, number: int = 0, last: bool = False):
    """What a step gives in micro-batches of so many examples, rounded down."""
    given = examples(made.inputs)
    drawn = tables(made.circuit(BATCH), bytes(16))
    sums, partial = {}, {}
    for start in range(0, BATCH, size):
        rows = slice(start, start + size)
        count, ends = len(given["x"][rows]), start + size >= BATCH
        circuit = made.part(MicroBatch(count, BATCH, ends, last and ends), number)
        some = {name: array[rows] for name, array in (given | drawn).items()}
        found = meaning(circuit, none_yet(circuit) | values | partial | some, lambda shape: np.zeros(shape, np.uint64))
        assert ends != any(name.startswith(PARTIAL) for name in found)
        partial = {name: found.pop(name) for name in list(found) if name.startswith(PARTIAL)}
        for name in {"metric", "loss"} & found.keys():
            sums[name] = sums.get(name, np.uint64(0)) + found.pop(name)
        values = values | found
    return {name: values[name] for name in made.shapes | made.states} | sums


@pytest.mark.parametrize("kind", NETWORKS)
def test_micro_batches_give_number_for_number_what_the_whole_batch_gives(kind):
    """All that is rounded is rounded for each example, or once for the whole batch; but for penalties as they are told."""
    made, numbers = NETWORKS[kind]()
    values = begun(made, numbers)
    last = made.closing
    whole = in_the_clear(made, values, BATCH, number=1, last=last)
    assert any((whole[name] != values[name]).any() for name in made.trained)
    parts = in_the_clear(made, values, 3, number=1, last=last)
    assert parts.keys() == whole.keys()
    for name, number in whole.items():
        if name == "loss" and made.penalised:
            np.testing.assert_allclose(parts[name].view(np.int64), number.view(np.int64), rtol=1e-4)
        else:
            np.testing.assert_array_equal(parts[name], number, err_msg=name)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_private_micro_batches_sum_the_same_integers_and_noise_is_added_once(optimizer):
    """So an example changes the sum by as much as ever, and the noise is that of the whole batch."""
    made, numbers = network(layers.Conv2D(2, 2, activation="relu"), layers.Flatten(), optimizer=optimizer, **IMAGES)
    made = msgspec.structs.replace(made, value=False)
    private = fitted(Private(0.5, 1.5, BATCH), made.optimizer, made.rate(BATCH))
    noisy, silent = (msgspec.structs.replace(made, private=msgspec.structs.replace(private, noise=noise)) for noise in (1.5, 0.0))
    values = begun(silent, numbers)
    whole, parts = (in_the_clear(silent, values, size) for size in (BATCH, 3))
    for name, number in whole.items():
        np.testing.assert_array_equal(parts[name], number, err_msg=name)
    kinds = [MicroBatch(BATCH, BATCH), MicroBatch(3, BATCH), MicroBatch(3, BATCH, ends=False)]
    sigmas = [[op.sigma for op in noisy.part(micro).ops if isinstance(op, AddNoise)] for micro in kinds]
    assert sigmas[0] == sigmas[1] != []
    assert sigmas[2] == []


def test_memory_and_messages_are_those_of_a_micro_batch_and_only_rounds_and_weights_are_more():
    made, numbers = network(layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), shape=(8, 8, 1))
    values = begun(made, numbers) | examples(made.inputs)
    whole, part = made.circuit(BATCH), made.part(MicroBatch(1, BATCH, ends=False))
    assert max(part.layout.sizes(1).values()) < max(whole.layout.sizes(1).values()) / 5
    assert part.layout.bytes_per_example < whole.layout.bytes_per_example / 3
    some = {name: number[:1] if name in ("x", "y") else number for name, number in values.items()} | none_yet(part)
    both = Trainers(whole).run(values), Trainers(part).run(some)
    largest = [max(sum(array.nbytes for array in arrays) for *_, arrays in each.messages) for each in both]
    assert largest[1] < largest[0] / 3
    assert both[1].rounds <= both[0].rounds


def test_an_evaluation_in_parts_tells_what_the_whole_batch_tells():
    made, numbers = NETWORKS["summed"]()
    asked, values = SharedEvaluation(made), begun(made, numbers)
    given = examples(made.inputs)
    found = {size: {"metric": 0, "loss": 0} for size in (BATCH, 2)}
    for size, sums in found.items():
        for start in range(0, BATCH, size):
            some = {name: array[start : start + size] for name, array in given.items()}
            told = meaning(asked.part(MicroBatch(len(some["x"]), BATCH)), values | some, lambda shape: np.zeros(shape, np.uint64))
            sums |= {name: total + told[name].view(np.int64)[0] for name, total in sums.items()}
    assert found[2]["metric"] == found[BATCH]["metric"]
    np.testing.assert_allclose(found[2]["loss"], found[BATCH]["loss"], rtol=1e-4)


def hidden():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return model(loss=loss, hidden=[layers.Dense(5, "relu")], metrics=["accuracy"])


COMPILED = {
    "accuracies": (hidden, LABELS, "accuracy", 3),
    "norms": (lambda: model(optimizer=SGD(0.1, 0.9, global_clipnorm=0.5)), NUMBERS, None, 1),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("kind", COMPILED)
def test_the_same_as_keras(kind):
    build, targets, metric, size = COMPILED[kind]
    same_as_keras(build, targets, metric, micro_batch=size)


def test_statistics_of_a_batch_have_no_micro_batches_and_the_layer_is_named():
    keras.utils.set_random_seed(1)
    built = keras.Sequential([layers.Input((4,)), layers.Dense(3), layers.BatchNormalization(name="statistics"), layers.Dense(2)])
    built.compile(SGD(0.1), "mse")
    with pytest.raises(ModelError, match=r"layer 'statistics' \(BatchNormalization\) normalises by the statistics of the whole batch"):
        check_parted(built)
    with pytest.raises(ModelError, match=r"node 1 of the network \(BatchNormalisedLayer\) needs all examples of a batch at once"):
        plan(built).part(MicroBatch(2, 4))
    built.layers[1].trainable = False
    built.compile(SGD(0.1), "mse")
    check_parted(built)
    assert plan(built).part(MicroBatch(2, 4)).outputs


def contrast(y, z):
    """Each example beside all others of its batch."""
    alike = keras.ops.matmul(z, keras.ops.transpose(z))
    return keras.ops.mean(keras.ops.logsumexp(alike, axis=-1, keepdims=True) - y * z, axis=-1)


def centred(y, z):
    return keras.ops.mean(keras.ops.square(z - keras.ops.mean(z, axis=0, keepdims=True) - y), axis=-1)


def beside_the_next(y, z):
    return keras.ops.mean(keras.ops.square(z - keras.ops.roll(z, 1, axis=0) - y), axis=-1)


@pytest.mark.parametrize("loss", [contrast, centred, beside_the_next])
def test_losses_that_mix_examples_are_not_trained_on_shares_at_all(loss):
    with pytest.raises(ModelError, match=f"'{loss.__name__}' is a function of your own that cannot be read"):
        network(loss=loss)


@pytest.mark.parametrize("layer", [layers.Softmax(axis=0), layers.Lambda(lambda x: x - keras.ops.max(x, axis=0))])
def test_layers_that_mix_examples_are_not_trained_on_shares_at_all(layer):
    with pytest.raises(UnsupportedLayer, match="axis"):
        network(layers.Dense(3), last=layer)

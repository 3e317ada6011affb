"""Models with several inputs and outputs: trained on shares as by `keras.Model.fit`, in the simulator and by real workers, or refused."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers, losses
from training_deployment import SCALE, Trainers

from protocols import share
from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError, ModelError
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan, weights
from protocols.owner.compiled_loss import expects
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.epochs import values_of
from protocols.owner.fit.examples import examples, targets
from protocols.owner.fit.heads import ends, heads
from protocols.owner.metrics import told_of
from protocols.owner.stored import described, encoded
from protocols.owner.targets import fitted
from protocols.training.networks.losses import JointLoss
from protocols.training.terms import StepCircuits, StepsReport, TrainingTerms

EXAMPLES, BATCH, EPOCHS = 10, 4, 2
EAGERLY = {"run_eagerly": True}
"""In a graph Keras does not know how many examples the last batch has, and takes means of means for the losses of single outputs."""
RANDOM = np.random.default_rng(5)
FACTS = RANDOM.normal(size=(EXAMPLES, 4)).astype(np.float32)
IDS = RANDOM.integers(6, size=(EXAMPLES, 3)).astype(np.int32)
LABELS = RANDOM.integers(3, size=EXAMPLES)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
TRUTHS = (LABELS > 0).astype(np.float32)[:, None]
NUMBERS = RANDOM.normal(size=(EXAMPLES, 2)).astype(np.float32)
IMAGES = RANDOM.normal(size=(EXAMPLES, 2, 3)).astype(np.float32)
COUNTS = RANDOM.uniform(0, 3, EXAMPLES)


def network(ends=("softmax", None), sizes=(3, 2), named=False, optimizer=None, ids=True, **settings):
    """Facts, and codes of a table (or as numbers); outputs a, b, ... of a common layer. Always with the same weights."""
    keras.utils.set_random_seed(2)
    facts, codes = keras.Input((4,), name="facts"), keras.Input((3,), name="codes", dtype="int32")
    found = layers.Flatten()(layers.Embedding(6, 2)(codes)) if ids else layers.Dense(4)(keras.ops.cast(codes, "float32"))
    hidden = layers.Dense(5, "relu")(layers.Concatenate()([facts, found]))
    outputs = {name: layers.Dense(size, end, name=name)(hidden) for name, size, end in zip("abc", sizes, ends, strict=False)}
    inputs = {"facts": facts, "codes": codes}
    built = keras.Model(inputs, outputs) if named else keras.Model(list(inputs.values()), list(outputs.values()))
    random = np.random.default_rng(2)
    for weight in built.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.6)
    built.compile(
        **{"optimizer": optimizer or keras.optimizers.SGD(0.1), "loss": ["sparse_categorical_crossentropy", "mse"], **EAGERLY} | settings
    )
    return built


def stored(name, array, classes):
    values, content = encoded(name, array, classes)
    return values, SharedDataset(described(name, values, content, handle=name.encode()), b"")


def on_shares(built, x, y, w=None, metrics=True):
    """What `SharedModel.fit(shuffle=False)` makes and tells: the weights in the end, and the logs of each epoch."""
    given = examples(x, y, w, ends(built, "inputs"), ends(built, "outputs"))
    each, asked = heads(built), plan(built)
    ys = zip(given.y.items(), each, strict=True)
    held = {name: stored(name, array.astype(float), None) for name, array in (given.x | given.w).items()}
    held |= {
        name: stored(name, targets(array, expects(head)), head.shape[0] * (expects(head) == "labels") or None) for (name, array), head in ys
    }
    names = told_of(each, asked.loss, metrics, evaluates=False)
    xs, ys, ws = ([held[name] for name in arrays] for arrays in (given.x, given.y, given.w))
    ws = ws * len(ys) if len(ws) == 1 else ws
    asked = msgspec.structs.replace(asked, value=names.loss, weighted=bool(ws))
    made = fitted(asked, [one for _, one in ys], BATCH, names.places)
    (x, *more), (y, *others), (w, *counts) = ([one.dataset for _, one in part] or [None] for part in (xs, ys, ws))
    further = {"xs": tuple(more), "ys": tuple(others), "ws": tuple(counts)}
    terms = TrainingTerms(b"run", made, x, y, BATCH, None, 1 << 29, False, "model", w=w, **further)
    optimizer = scheduled(built, made.optimizer, 0, EPOCHS * terms.steps(0), made.weight)
    terms = msgspec.structs.replace(terms, plan=msgspec.structs.replace(made, optimizer=optimizer))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(terms), type=TrainingTerms) == terms, "workers are told the same"
    steps = StepCircuits(terms)
    arrays = dict(zip(terms.datasets, [array for array, _ in (*xs, *ys, *ws)], strict=True))
    values = {name: encode(number, SCALE) for name, number in zip(made.shapes, weights(built), strict=True)}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in made.states.items()}
    logs, number = [], 0
    for epoch in range(EPOCHS):
        sums = {}
        for index, rows in enumerate(terms.rows(epoch), 1):
            last = index == terms.steps(epoch)
            circuit, like = steps.at(len(rows), number, last=last), steps.like(len(rows), last=last)
            given = {name: terms.given(name, array[rows]) for name, array in arrays.items()}
            values = Trainers(circuit, str(number), like).outputs(values | given)
            number += 1
            for name in ("metric", "loss"):
                if name in values:
                    sums[name] = sums.get(name, np.uint64(0)) + values.pop(name)
        assert not values["outside"].any()
        sums = {name: total for name, total in sums.items() if name == "loss" or names.metrics}
        none = {name: np.zeros_like(total) for name, total in sums.items()}
        reports = (StepsReport(1, told, np.zeros(1, np.uint64), 0, 0, 0, 0.0, 0.0, b"") for told in (sums, none))
        logs.append(names.logs(values_of(terms, tuple(reports))))
    values = made.finished(values)
    return [decode(values[name], SCALE) for name in made.shapes], logs


def same_as_keras(build, x, y, w=None, metrics=True, near=0.02):
    found, logs = on_shares(build(), x, y, w, metrics)
    reference = build()
    before = [np.array(weight) for weight in reference.get_weights()]
    history = reference.fit(x, y, sample_weight=w, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history
    for one, expected, start in zip(found, reference.get_weights(), before, strict=True):
        np.testing.assert_allclose(one, expected, atol=near * np.abs(expected - start).max() + 2e-4)
    for name in logs[0]:
        np.testing.assert_allclose([log[name] for log in logs], history[name], rtol=0.01, atol=0.005, err_msg=name)
    return logs, history


Y = [LABELS, NUMBERS]
TOLD = ["loss", "a_accuracy"]
CASES = {
    "labels and numbers": (lambda: network(metrics=[["accuracy"], None]), Y, None, TOLD),
    "by name": (
        lambda: network(
            named=True,
            ids=False,
            loss={"b": "mae", "a": "categorical_crossentropy"},
            loss_weights={"b": 0.25, "a": 2.0},
            metrics={"b": ["mae"], "a": ["accuracy"]},
            optimizer=keras.optimizers.Adam(0.02),
        ),
        {"b": NUMBERS, "a": ONE_HOT},
        None,
        ["loss", "a_accuracy", "b_mae"],
    ),
    "names in a list": (
        lambda: network(
            loss={"b": "mse", "a": "sparse_categorical_crossentropy"}, loss_weights={"a": 0.01, "b": 1.0}, metrics={"b": "mse"}
        ),
        {"a": LABELS, "b": NUMBERS},
        None,
        ["loss", "b_mse"],
    ),
    "three outputs, and weights of examples": (
        lambda: network(("softmax", "sigmoid", None), (3, 1, 2), loss=["categorical_crossentropy", "binary_crossentropy", losses.Huber()]),
        [ONE_HOT, TRUTHS, NUMBERS],
        [COUNTS, COUNTS[::-1].copy(), COUNTS**2],
        ["loss"],
    ),
    "one loss for all, and weights once": (
        lambda: network((None, "sigmoid"), (2, 2), loss="mse", metrics=[["mse"], ["mse"]], optimizer=keras.optimizers.SGD(0.1, 0.9)),
        [NUMBERS, NUMBERS],
        COUNTS,
        ["loss", "a_mse", "b_mse"],
    ),
    "metrics by default": (
        lambda: network((None, None), (3, 2), loss=["mse", "cosine_similarity"], optimizer="adam", ids=False),
        [ONE_HOT, NUMBERS],
        None,
        True,
    ),
    "hinges of truths": (lambda: network((None, None), (1, 3), loss=["hinge", "categorical_hinge"]), [TRUTHS, ONE_HOT], None, ["loss"]),
    "sums of batches": (
        lambda: network(
            loss=[losses.SparseCategoricalCrossentropy(reduction="sum"), losses.MeanSquaredError(reduction="sum")],
            optimizer=keras.optimizers.SGD(0.02),
        ),
        Y,
        None,
        ["loss"],
    ),
}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", CASES)
def test_weights_and_logs_are_those_of_keras(name):
    build, y, w, metrics = CASES[name]
    x = {"facts": FACTS, "codes": IDS} if isinstance(y, dict) else [FACTS, IDS]
    if metrics is True:
        _, logs = on_shares(build(), x, y, w)
        assert list(logs[0]) == ["a_mean_squared_error", "b_cosine_similarity"]
        metrics = ["loss"]
    logs, history = same_as_keras(build, x, y, w, metrics)
    assert set(logs[0]) == set(history), "Keras tells the same"


def penalised():
    """An end that is read on, and a penalty; one input of several axes."""
    keras.utils.set_random_seed(2)
    image = keras.Input((2, 3), name="image")
    hidden = layers.Dense(4, "tanh", kernel_regularizer=keras.regularizers.L2(0.02))(layers.Flatten()(image))
    chance = layers.Dense(3, "softmax", name="chance")(hidden)
    drawn = layers.Reshape((2, 3), name="drawn")(layers.Dense(6)(layers.Concatenate()([hidden, chance])))
    built = keras.Model(image, [drawn, chance])
    built.compile(keras.optimizers.SGD(0.2), ["mse", "sparse_categorical_crossentropy"], loss_weights=[1.5, 0.5], **EAGERLY)
    return built


def test_an_end_that_another_output_reads_and_a_penalty():
    same_as_keras(penalised, IMAGES, [IMAGES, LABELS], metrics=["loss"])


REFUSED = {
    "no loss": ({"loss": [None, "mse"]}, r"outputs \['a'\] have no loss"),
    "losses of one": ({"loss": [["mse", "mae"], "mse"]}, "each has one loss"),
    "too few": ({"loss": ["mse"]}, "one entry for each"),
    "other names": ({"loss": {"a": "mse", "c": "mse"}}, "has the names"),
    "no weight": ({"loss_weights": [0.0, 1.0]}, "a number above 0 is needed for each loss"),
    "weights by name": ({"loss_weights": {"a": 1.0, "b": 1.0}}, "in a list or a dict as the losses"),
    "a vanishing weight": ({"loss_weights": [1.0, 1e-6]}, "loss_weights=1e-06|vanishes in fixed point"),
    "several reductions": ({"loss": ["mse", losses.MeanSquaredError(reduction="sum")]}, "several reductions"),
    "a list of metrics": ({"metrics": ["accuracy"]}, r"compile\(metrics=.*one entry for each"),
    "another metric": ({"metrics": [["mse"], None]}, "asks for 'mse'"),
    "weighted metrics": ({"weighted_metrics": [["accuracy"], None]}, "weighted_metrics"),
    "a list beside a dict": ({"named": True}, "is a list, and the outputs are in a dict"),
    "two ends of a layer": (None, "of the same layer"),
    "nested": (None, "within others"),
}


def odd(kind):
    x = keras.Input((4,))
    dense = layers.Dense(2, name="twice")
    outputs = [dense(x), dense(x * 2)]
    built = keras.Model(x, outputs if kind == "two ends of a layer" else {"a": {"b": outputs[0]}, "c": outputs[1]})
    built.compile("sgd", "mse")
    return built


@pytest.mark.parametrize("name", REFUSED)
def test_what_compile_says_and_is_not_done_is_refused_by_name(name):
    settings, why = REFUSED[name]
    with pytest.raises(ModelError, match=why):
        plan(odd(name) if settings is None else network(**settings))


def test_a_joint_loss_is_one_of_several_that_count():
    joint = plan(network()).loss
    assert isinstance(joint, JointLoss)
    for wrong in (joint.heads[:1], (joint.heads[0], joint.heads[0]), (joint.heads[0], msgspec.structs.replace(joint.heads[1], weight=2.0))):
        with pytest.raises(ModelError):
            JointLoss(wrong)
    with pytest.raises(ModelError, match="do not make"):
        msgspec.structs.replace(plan(network()), parts=(3, 3))

"""Odd compiled models: a training on shares moves and tells what `keras.Model.fit` does in the same order, or is refused by name."""

import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from compiled_trainings import (
    EXAMPLES,
    LABELS,
    MANY,
    NUMBERS,
    ONE_HOT,
    RANDOM,
    TRUTHS,
    X,
    model,
    same_as_keras,
    stored,
    trained,
)
from keras import layers, losses, metrics
from training_deployment import SCALE, Trainers

from protocols.datasets.dataset import SharedDataset
from protocols.errors import InputError, ModelError, PrecisionWarning
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.epochs import epoch_of, trusted
from protocols.owner.fitting import Training
from protocols.owner.stored import described, encoded
from protocols.owner.targets import check_features, sums_told
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.losses import METRIC_BITS, told
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan, step
from protocols.training.terms import StepsReport, TrainingTerms

SGD, ADAM, SCHEDULES = keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.schedules
SPARSE = losses.SparseCategoricalCrossentropy(from_logits=True)
CATEGORICAL = losses.CategoricalCrossentropy(from_logits=True)
BINARY = losses.BinaryCrossentropy(from_logits=True)


def between(threshold, last=None):
    """A binary classifier whose accuracy depends on the threshold."""
    return lambda: model(
        1,
        last and last(),
        loss="binary_crossentropy" if last else BINARY,
        metrics=[metrics.BinaryAccuracy(threshold=threshold)],
    )


def sigmoid():
    return layers.Dense(1, "sigmoid")


def named_output(**settings):
    inputs = layers.Input((4,))
    built = keras.Model(inputs, layers.Dense(3, name="o", kernel_initializer=keras.initializers.RandomNormal(seed=1))(inputs))
    built.compile(SGD(0.1), **settings)
    return built


METRICS = {
    "a threshold of probabilities": (between(0.88, sigmoid), TRUTHS, "binary_accuracy"),
    "a low threshold": (between(0.8, sigmoid), TRUTHS, "binary_accuracy"),
    "a threshold of logits": (between(2.0), TRUTHS, "binary_accuracy"),
    "accuracy of logits": (lambda: model(1, loss=BINARY, metrics=["accuracy"]), TRUTHS, "accuracy"),
    "accuracy of probabilities": (lambda: model(1, sigmoid(), loss="binary_crossentropy", metrics=["acc"]), TRUTHS, "acc"),
    "what is even is not above": (
        lambda: model(1, layers.Dense(1, "sigmoid", trainable=True), loss="binary_crossentropy", optimizer=SGD(1e-3), metrics=["accuracy"]),
        TRUTHS[:, None].astype(bool),
        "accuracy",
    ),
    "several labels": (lambda: model(loss=BINARY, metrics=[metrics.BinaryAccuracy(threshold=0.5)]), MANY, "binary_accuracy"),
    "several labels by name": (lambda: model(loss=BINARY, metrics=["binary_accuracy"]), MANY, "binary_accuracy"),
    "sparse": (lambda: model(loss=SPARSE, metrics=["accuracy"]), LABELS, "accuracy"),
    "sparse by class": (lambda: model(loss=SPARSE, metrics=[metrics.SparseCategoricalAccuracy(name="mae")]), LABELS, "mae"),
    "sparse by function": (
        lambda: model(loss=SPARSE, metrics=[metrics.sparse_categorical_accuracy]),
        LABELS.astype(np.uint8),
        "sparse_categorical_accuracy",
    ),
    "categorical": (lambda: model(loss=CATEGORICAL, metrics=["accuracy"]), ONE_HOT, "accuracy"),
    "categorical of a dict": (lambda: named_output(loss={"o": CATEGORICAL}, metrics={"o": ["acc"]}), ONE_HOT, "acc"),
    "squared": (lambda: model(metrics=[metrics.MeanSquaredError(name="mae")]), NUMBERS, "mae"),
    "squared by name": (lambda: model(metrics=["mse"]), NUMBERS, "mse"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.sample(8)
def test_what_is_told_is_what_keras_tells(name):
    same_as_keras(*METRICS[name])


def test_thresholds_make_a_difference():
    """Else the cells before would show nothing."""
    told = [trained(between(edge, sigmoid)(), TRUTHS)[1][:, 1].round(4) for edge in (0.5, 0.88)]
    assert not np.array_equal(*told)


MODELS = {
    "several losses in a list of one": (lambda: model(loss=["mse"]), NUMBERS),
    "loss by class": (lambda: model(loss=losses.MeanSquaredError(name="mine")), NUMBERS),
    "loss by function": (lambda: model(loss=losses.mean_squared_error), NUMBERS),
    "loss by short name": (lambda: model(1, sigmoid(), loss="bce"), TRUTHS),
    "mse of a column": (lambda: model(1), NUMBERS[:, 0]),
    "mse of (n, 1)": (lambda: model(1), NUMBERS[:, :1]),
    "float64 targets": (lambda: model(1), NUMBERS[:, 0].astype(np.float64)),
    "truths of bool": (lambda: model(1, loss=BINARY), TRUTHS.astype(bool)),
    "truths (n, 1) of int": (lambda: model(1, loss=BINARY), TRUTHS[:, None]),
    "truths of float": (lambda: model(1, loss=BINARY), TRUTHS.astype(np.float32)),
    "one truth only": (lambda: model(1, loss=BINARY), np.zeros(EXAMPLES, np.int64)),
    "fewer labels than outputs": (lambda: model(5, loss=SPARSE), LABELS),
    "one-hot of int": (lambda: model(loss=CATEGORICAL), ONE_HOT.astype(np.int32)),
    "softmax at the end": (lambda: model(last=layers.Dense(3, "softmax"), loss="sparse_categorical_crossentropy"), LABELS),
    "softmax of its own": (
        lambda: model(hidden=(layers.Dense(3),), last=layers.Dense(3, "softmax"), loss="categorical_crossentropy"),
        ONE_HOT,
    ),
    "no bias": (lambda: model(hidden=(layers.Dense(5, "relu", use_bias=False),), last=layers.Dense(3, use_bias=False)), NUMBERS),
    "two hidden": (lambda: model(hidden=(layers.Dense(7, "relu"), layers.Dense(4), layers.ReLU()), loss=SPARSE), LABELS),
    "momentum": (lambda: model(optimizer=SGD(0.1, momentum=0.9)), NUMBERS),
    "nesterov": (lambda: model(optimizer=SGD(0.05, momentum=0.9, nesterov=True)), NUMBERS),
    "weight decay": (lambda: model(optimizer=SGD(0.1, weight_decay=0.2)), NUMBERS),
    "a schedule": (lambda: model(optimizer=SGD(keras.optimizers.schedules.CosineDecay(0.2, 20))), NUMBERS),
    "steps of a schedule": (
        lambda: model(optimizer=SGD(keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.2, 0.1, 0.02]))),
        NUMBERS,
    ),
    "a schedule that ends at 0": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecay(0.2, 4))), NUMBERS),
    "a schedule that ends at 0 with momentum": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecay(0.1, 3), momentum=0.8)), NUMBERS),
    "nesterov at 0": (lambda: model(optimizer=SGD(SCHEDULES.PolynomialDecay(0.1, 3, 0.0), momentum=0.8, nesterov=True)), NUMBERS),
    "polynomials that end at 0": (lambda: model(optimizer=SGD(SCHEDULES.PolynomialDecay(0.2, 5, 0.0, power=2.0))), NUMBERS),
    "restarts from 0": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecayRestarts(0.2, 2, t_mul=1.0))), NUMBERS),
    "a warm-up from 0": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecay(0.0, 3, warmup_target=0.2, warmup_steps=3))), NUMBERS),
    "a warm-up from next to 0": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecay(1e-9, 3, warmup_target=0.2, warmup_steps=3))), NUMBERS),
    "0 in the middle": (lambda: model(optimizer=SGD(SCHEDULES.PiecewiseConstantDecay([1, 3], [0.2, 0.0, 0.1]), momentum=0.5)), NUMBERS),
    "rates that vanish": (lambda: model(optimizer=SGD(SCHEDULES.ExponentialDecay(0.2, 1, 0.02))), NUMBERS),
    "no rate at all": (lambda: model(optimizer=SGD(0.0, momentum=0.9)), NUMBERS),
    "adam to 0": (lambda: model(optimizer=ADAM(SCHEDULES.CosineDecay(0.1, 4))), NUMBERS),
    "adam from 0": (lambda: model(optimizer=ADAM(SCHEDULES.CosineDecay(0.0, 4, warmup_target=0.1, warmup_steps=2))), NUMBERS),
    "weight decay beside a schedule": (lambda: model(optimizer=SGD(SCHEDULES.CosineDecay(0.2, 6), weight_decay=0.2)), NUMBERS),
    "adamw beside a schedule": (lambda: model(optimizer=keras.optimizers.AdamW(SCHEDULES.CosineDecay(0.1, 6), weight_decay=0.3)), NUMBERS),
    "the loss counts half beside a schedule from 0": (
        lambda: model(loss_weights=[0.5], optimizer=SGD(SCHEDULES.PiecewiseConstantDecay([1], [0.0, 0.2]))),
        NUMBERS,
    ),
    "the loss counts half": (lambda: model(loss_weights=[0.5]), NUMBERS),
    "adam": (lambda: model(optimizer=ADAM(0.05)), NUMBERS),
    "amsgrad": (lambda: model(optimizer=ADAM(0.05, amsgrad=True)), NUMBERS),
    "adamw": (lambda: model(optimizer=keras.optimizers.AdamW(0.05, weight_decay=0.1)), NUMBERS),
    "betas of adam": (lambda: model(optimizer=ADAM(0.02, beta_1=0.5, beta_2=0.9), loss=SPARSE), LABELS),
    "steps made before by plain descent": (lambda: continued(SGD(0.1)), NUMBERS),
    "a layer as an activation": (lambda: model(hidden=(layers.Dense(5, layers.LeakyReLU()),)), NUMBERS),
    "float64": (lambda: model(last=layers.Dense(3, dtype="float64")), NUMBERS),
    "rows of probabilities": (lambda: model(loss=CATEGORICAL), None),
    "truths of -1 and 1": (lambda: model(1, loss=BINARY), None),
}


def continued(optimizer):
    built = model(optimizer=optimizer)
    built.fit(X, NUMBERS, batch_size=EXAMPLES, verbose=0)
    return built


@pytest.mark.parametrize("name", [name for name, (_, y) in MODELS.items() if y is not None])
@pytest.mark.sample(24)
def test_a_training_moves_as_keras(name):
    same_as_keras(*MODELS[name], near=0.06 if "adam" in name else 0.02)


SOFT = (0.9 * ONE_HOT + 0.1 / 3).astype(np.float32)


@pytest.mark.parametrize(("build", "y"), [(MODELS["rows of probabilities"][0], SOFT), (MODELS["truths of -1 and 1"][0], 2.0 * TRUTHS - 1)])
def test_targets_that_are_no_labels_move_as_keras_and_have_no_accuracy(build, y, monkeypatch):
    with pytest.raises(InputError, match=r"'y' has numbers other than 0 and 1.*metrics=\['loss'\]"):
        trained(build(), y)
    monkeypatch.setitem(trained.__globals__, "check_told", lambda loss, labels: None)
    same_as_keras(build, y)


def always():
    return 0.1


def falling(step=0):
    return 0.1 * 0.5**step


def faint():
    built = model(hidden=(layers.Dense(5, "relu", name="faint"),))
    built.layers[0].kernel.assign(np.full((4, 5), 1e-6))
    return built


REFUSED = {
    "AUC that is called accuracy": (lambda: model(1, sigmoid(), loss="bce", metrics=[metrics.AUC(name="accuracy")]), "'accuracy'.*AUC"),
    "top k": (lambda: model(loss=SPARSE, metrics=[metrics.SparseTopKCategoricalAccuracy(k=2, name="acc")]), "'acc'.*TopK"),
    "a subclass": (lambda: model(metrics=[type("Mine", (metrics.MeanSquaredError,), {})(name="mse")]), "'mse' \\(Mine\\)"),
    "a function of one's own": (lambda: model(metrics=[lambda y_true, y_pred: y_pred]), "<lambda>"),
    "a function of that name": (lambda: model(metrics=[named("mse")]), "'mse'"),
    "mae": (lambda: model(metrics=["mae"]), "'mae'"),
    "accuracy of numbers": (lambda: model(metrics=["accuracy"]), "categorical_accuracy for 3 outputs"),
    "accuracy of several labels": (lambda: model(loss=BINARY, metrics=["accuracy"]), "categorical_accuracy for 3 outputs"),
    "categorical of several labels": (lambda: model(loss=BINARY, metrics=["categorical_accuracy"]), "'categorical_accuracy'"),
    "binary of a softmax": (lambda: model(loss=CATEGORICAL, metrics=[metrics.BinaryAccuracy(name="accuracy")]), "is binary_accuracy"),
    "sparse of one-hot rows": (lambda: model(loss=CATEGORICAL, metrics=["sparse_categorical_accuracy"]), "'sparse_cat"),
    "accuracy of one class": (lambda: model(1, loss=SPARSE, metrics=["accuracy"]), "binary_accuracy for 1 outputs"),
    "two thresholds": (
        lambda: model(1, sigmoid(), loss="bce", metrics=["accuracy", metrics.BinaryAccuracy(threshold=0.7)]),
        "thresholds \\[0.5, 0.7\\]",
    ),
    "weighted metrics": (lambda: model(weighted_metrics=["mse"]), "weighted_metrics"),
    "equal numbers": (lambda: model(loss=SPARSE, metrics=[metrics.Accuracy()]), "'accuracy' \\(Accuracy\\)"),
    "logits without from_logits": (lambda: model(loss="sparse_categorical_crossentropy"), "from_logits=False"),
    "a softmax of the batch": (lambda: model(hidden=(layers.Dense(3), layers.Softmax(axis=0)), loss=SPARSE), "Softmax.* axis is 0"),
    "a cross-entropy by shapes": (lambda: model(loss="crossentropy"), "one of three"),
    "moments made before": (lambda: continued(ADAM(0.1)), "1 steps in the clear"),
    "velocities made before": (lambda: continued(SGD(0.1, momentum=0.9)), "1 steps in the clear"),
    "a schedule that has begun": (lambda: continued(SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))), "1 steps in the clear"),
    "weights of 1e-6": (faint, "kernel of layer 'faint' has weights up to 1.*vanish"),
    "a rate by a function": (lambda: model(optimizer=SGD(always)), "a function that is called in each step"),
    "a rate by a function of a step": (lambda: model(optimizer=SGD(falling)), "a function that is called in each step"),
    "a softmax of one output": (lambda: model(1, loss=SPARSE), "one output, and a softmax over one output is always 1"),
    "one-hot rows of one output": (lambda: model(1, loss=CATEGORICAL), "one output, and a softmax over one output is always 1"),
}


def named(name):
    def function(y_true, y_pred):
        return y_pred

    function.__name__ = name
    return function


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_name(name):
    build, match = REFUSED[name]
    with pytest.raises(ModelError, match=match):
        plan(build())


@pytest.mark.parametrize(
    ("build", "y", "match"),
    [
        (lambda: model(loss=CATEGORICAL), MANY, "not every row of 'y' sums to 1"),
        (lambda: model(loss=SPARSE), ONE_HOT, "needs labels"),
        (lambda: model(loss=SPARSE), LABELS[:, None], "needs labels"),
        (lambda: model(loss=SPARSE), LABELS + 1, "labels from 0 to 2 are needed"),
        (lambda: model(loss=SPARSE), 2 * TRUTHS - 1, "labels from -1"),
        (lambda: model(1, loss=BINARY), LABELS, "labels from 0 to 1 are needed"),
        (lambda: model(), NUMBERS[:, 0], "'y' has 1 targets an example"),
        (lambda: model(), LABELS, "store floats"),
        (lambda: model(1), NUMBERS[:, 0] * 1e-6, "'y': its column spreads over .*e-0[67] only"),
        (lambda: model(1), NUMBERS[:, 0] * 1e6, "its column reaches"),
    ],
)
def test_targets_that_do_not_fit_are_refused_by_name(build, y, match):
    with pytest.raises(InputError, match=match):
        trained(build(), y)


@pytest.mark.parametrize("error", [300.0, 700.0, 1000.0])
def test_a_sum_that_may_have_left_the_ring_is_not_told(error):
    """Of 60,000 errors that large the sum of squares is 5.4e9 to 6e10, and 2^31 is where it begins anew."""
    squares = np.full(60_000, encode(np.array(error), 2.0**-16) ** np.uint64(2))
    total = float(decode(squares.sum(), 2.0**-32))
    assert total != pytest.approx(60_000 * error**2)
    with pytest.warns(PrecisionWarning, match="the sum of the metric over an epoch is below 0, or is near 2.1e"):
        assert np.isnan(trusted("metric", total, 2.0**31))


def test_a_loss_that_is_clearly_below_0_is_not_told():
    """No loss is, but for the error of its protocol: of logits further apart than the exponential reaches it was -2503."""
    assert trusted("loss", -0.5, 2.0**31, 1.0) == -0.5
    with pytest.warns(PrecisionWarning, match="the sum of the loss over an epoch is below 0"):
        assert np.isnan(trusted("loss", -2503.0, 2.0**31, 1.0))


@pytest.mark.parametrize("loss", METRIC_BITS)
@pytest.mark.parametrize(("outputs", "examples"), [(1, 10), (1, 512), (1, 20_000), (3, 7_001), (1_000, 60), (2, 1 << 26)])
def test_sums_that_are_told_never_wrap_around(loss, outputs, examples):
    """What outputs and targets within +-512 can add, and what is summed before it is rounded."""
    for truths in (True, False):
        sums = told(loss, outputs, examples, truths=truths)
        z, y = 512.0, 512.0
        worst = {
            "mse": outputs * (z + y) ** 2,
            "crossentropy": 2 * z + np.log(outputs) if truths else outputs * z * y + z,
            "binary_crossentropy": outputs * (z if truths else z + z * y),
        }[loss]
        assert worst * examples * 2.0 ** (32 - sums.lost) < 2.0**62
        if sums.lost:
            assert worst * examples * 2.0**32 > 2.0**58  # it was needed


@pytest.mark.parametrize(
    ("loss", "x", "error"), [("mse", 0.0, 500.0), ("mse", 400.0, 500.0), ("binary_crossentropy", 500.0, 500.0), ("crossentropy", 0.0, 1.0)]
)
def test_sums_of_large_losses_are_told(loss, x, error):
    """20,000 errors of 500 are 5e9 squared, which looked like 7.1e8; one in four of such sums did."""
    rows, outputs, kernel = 20_000, 1 if loss != "crossentropy" else 2, x / 512
    labels = loss != "mse"
    targets = np.full((rows, outputs), error if not labels else 0.0)
    if loss == "crossentropy":
        targets[:, 0] = 1.0
    _, y = stored("y", targets if outputs > 1 or not labels else np.zeros(rows, np.int64))
    sums = sums_told(loss, outputs, y)
    assert (sums.lost > 0) == (loss == "mse")
    shape = (1, outputs)
    linear, known = ProductLayer((0,), Weight("kernel0", shape)), Variable("kernel0", shape)
    built = Plan((linear,), (1,), outputs, (known,), loss, GradientDescent(2.0**-16), value=True, sums=sums)
    given = {name: np.zeros(shape, np.uint64) for name, shape in built.states.items()}
    given |= {
        "x": np.full((rows, 1), 512 << 16, np.uint64),
        "y": encode(targets, SCALE),
        "kernel0": encode(np.full((1, outputs), kernel), SCALE),
    }
    made = Trainers(step(built, rows)).outputs(given)
    share, zero = {name: made[name] for name in ("loss", "metric")}, {name: np.zeros(1, np.uint64) for name in ("loss", "metric")}
    report = functools.partial(StepsReport, 1, outside=np.zeros(1, np.uint64), rounds=1, sent=1, dealt=1, seconds=1.0, waited=0.0, seal=b"")
    terms = TrainingTerms(b"run", built, y.dataset, y.dataset, rows, None, 1 << 29, False, "model")
    epoch = epoch_of(1, terms, [(report(told=share), report(told=zero))])
    z = 512.0 * kernel
    exact = {"mse": (z - error) ** 2, "binary_crossentropy": z, "crossentropy": np.log(2)}[loss]
    assert epoch.loss == pytest.approx(exact, rel=1e-3)
    if loss == "mse":
        assert epoch.value == epoch.loss


@pytest.mark.parametrize("total", [0.0, 1.0, 2.0**29, -1e-3])
def test_sums_are_told(total):
    assert trusted("loss", total, 2.0**31) == total


def begun(built):
    """A training of a model, whose weights are with the workers already."""
    training = Training(built, SimpleNamespace(seats_for=lambda name: None), "model")
    training._planned()
    training._handle = b"weights"
    return training


def test_a_model_that_is_compiled_again_goes_on_with_another_rate_only():
    """Else what was compiled last would be read here and there, and the rest be that of the first time."""
    built = model()
    training = begun(built)
    built.optimizer.learning_rate = 0.01
    assert scheduled(built, training._planned().optimizer, 0, 3).rate == pytest.approx(0.01)
    built.compile(SGD(0.02), "mse")
    assert scheduled(built, training._planned().optimizer, 0, 3).rate == pytest.approx(0.02)
    built.compile(SGD(0.02), "mse", metrics=["mse"])
    training._planned()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"optimizer": SGD(0.1, momentum=0.9)}),
        ({}, {"optimizer": SGD(0.1, weight_decay=0.1)}),
        ({}, {"optimizer": ADAM(0.1)}),
        ({}, {"optimizer": SGD(keras.optimizers.schedules.CosineDecay(0.2, 20))}),
        ({}, {"loss_weights": [0.5]}),
        ({}, {"loss": BINARY}),
        ({"optimizer": ADAM(0.1)}, {"optimizer": ADAM(0.1)}),
        ({"optimizer": SGD(0.1, momentum=0.9)}, {"optimizer": SGD(0.1, momentum=0.9)}),
    ],
)
def test_a_model_that_is_compiled_for_something_else_is_refused(before, after):
    built = model(**before)
    training = begun(built)
    training._planned()
    built.compile(**{"optimizer": SGD(0.1), "loss": "mse"} | after)
    for _ in range(2):
        with pytest.raises(ModelError, match="was compiled again since its training began"):
            training._planned()


def test_accuracies_follow_the_threshold_that_is_compiled_last():
    built = between(0.5, sigmoid)()
    training = begun(built)
    built.compile(built.optimizer, built.loss, metrics=[metrics.BinaryAccuracy(threshold=0.9)])
    assert training._planned().threshold == pytest.approx(np.log(9))
    built.compile(built.optimizer, built.loss)
    assert training._planned().threshold == 0


@pytest.mark.parametrize("features", [np.arange(EXAMPLES), np.arange(EXAMPLES).astype(np.uint8)])
def test_whole_features_of_one_column_are_named(features, monkeypatch):
    monkeypatch.setitem(trained.__globals__, "X", features)
    with pytest.raises(InputError, match="'x' was stored as labels because it is one integer an example: features are stored as floats"):
        trained(model(), NUMBERS)


def images(shape):
    return SharedDataset(described("x", *encoded("x", RANDOM.normal(size=(4, *shape)), None), handle=b"", example=shape), b"")


@pytest.mark.parametrize("shape", [(3, 6, 5), (5, 6, 3), (6, 15), (90, 1, 2)])
def test_images_with_their_axes_in_another_order_are_refused(shape):
    with pytest.raises(InputError, match=r"the model takes examples of shape \(6, 5, 3\), and those of 'x' had the shape"):
        check_features((6, 5, 3), images(shape))


@pytest.mark.parametrize("shape", [(6, 5, 3), (90,), (1, 6, 5, 3), (6, 5, 1, 3), ()])
def test_images_that_are_the_same_when_they_are_flat_are_taken(shape):
    check_features(
        (6, 5, 3),
        SharedDataset(described("x", encoded("x", np.zeros((4, 90)) + X[:4, :1], None)[0], "numbers", handle=b"", example=shape), b""),
    )

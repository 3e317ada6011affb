"""Losses of compiled models: weights move on shares, and losses are told, as by `keras.Model.fit`; or they are refused."""

import keras
import numpy as np
import pytest
from compiled_trainings import LABELS, MANY, NUMBERS, ONE_HOT, SGD, TRUTHS, X, model, same_as_keras, trained
from keras import layers, losses

from protocols.errors import InputError, ModelError
from protocols.owner.compiled import plan
from protocols.owner.compiled_loss import expects
from protocols.owner.fit.heads import heads
from protocols.training.networks.distances import TargetLoss
from protocols.training.networks.losses import told

SOFT = (0.8 * ONE_HOT + 0.2 / 3).astype(np.float32)
COUNTS = np.abs(NUMBERS * 2).round()
SIGNS = 2 * MANY - 1
FOCAL = losses.BinaryFocalCrossentropy


def compiled(loss, last=None, outputs=3, **settings):
    return lambda: model(outputs, last and layers.Dense(outputs, last), loss=loss, **settings)


LOSSES = {
    "mae": (compiled("mae", metrics=["mae"]), NUMBERS, "mae"),
    "mae of a column": (compiled(losses.MeanAbsoluteError(), outputs=1), NUMBERS[:, 0], None),
    "huber": (compiled(losses.Huber()), NUMBERS, None),
    "huber, narrow": (compiled(losses.Huber(0.1)), NUMBERS, None),
    "huber, wide": (compiled(losses.Huber(100.0)), 5 * NUMBERS, None),
    "log cosh": (compiled("log_cosh", metrics=[keras.metrics.LogCoshError(name="error")]), NUMBERS, "error"),
    "hinge of signs": (compiled("hinge", metrics=["hinge"]), SIGNS, "hinge"),
    "hinge of truths": (compiled(losses.Hinge(), "tanh"), MANY, None),
    "hinge of labels": (compiled("hinge", outputs=1), TRUTHS, None),
    "squared hinge of signs": (compiled("squared_hinge"), SIGNS, None),
    "squared hinge of truths": (compiled(losses.SquaredHinge(), metrics=[keras.metrics.SquaredHinge(name="m")]), MANY, "m"),
    "categorical hinge": (compiled("categorical_hinge", metrics=["categorical_hinge"]), ONE_HOT, "categorical_hinge"),
    "categorical hinge, counted half": (compiled(losses.CategoricalHinge(), loss_weights=[0.5]), ONE_HOT, None),
    "kl divergence": (compiled("kl_divergence", "softmax"), ONE_HOT, None),
    "poisson of a softplus": (compiled("poisson", "softplus", metrics=["poisson"]), COUNTS, "poisson"),
    "poisson of an exponential": (compiled(losses.Poisson(), "exponential"), COUNTS, None),
    "cosine": (compiled("cosine_similarity"), NUMBERS, None),
    "cosine by class": (compiled(losses.CosineSimilarity(), optimizer=keras.optimizers.Adam(0.02)), 8 * NUMBERS, None),
    "focal": (compiled(FOCAL(), "sigmoid"), MANY, None),
    "focal of logits": (compiled(FOCAL(from_logits=True, gamma=1.0), outputs=1), TRUTHS, None),
    "focal, balanced and smoothed": (compiled(FOCAL(True, 0.3, 3.0, from_logits=True, label_smoothing=0.2)), MANY, None),
    "smoothed classes": (compiled(losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), metrics=["acc"]), ONE_HOT, "acc"),
    "smoothed classes of a softmax": (compiled(losses.CategoricalCrossentropy(label_smoothing=0.3), "softmax"), ONE_HOT, None),
    "smoothed truths": (compiled(losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2)), MANY, None),
    "smoothed truths of probabilities": (
        compiled(losses.BinaryCrossentropy(label_smoothing=0.5), "sigmoid", 1, metrics=["accuracy"]),
        TRUTHS,
        "accuracy",
    ),
    "a sum over the batch": (compiled(losses.MeanSquaredError(reduction="sum"), optimizer=SGD(0.03)), NUMBERS, None),
    "a sum of cross-entropies": (
        compiled(losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"), optimizer=SGD(0.03, 0.5)),
        LABELS,
        None,
    ),
    "a sum beside a penalty": (
        lambda: model(
            last=layers.Dense(3, kernel_regularizer="l2"), loss=losses.Huber(reduction="sum"), optimizer=keras.optimizers.RMSprop(0.02)
        ),
        NUMBERS,
        None,
    ),
    "a penalty beside a cross-entropy": (
        lambda: model(
            last=layers.Dense(3, kernel_regularizer=keras.regularizers.L1L2(0.01, 0.02)), loss=losses.CategoricalCrossentropy(True)
        ),
        ONE_HOT,
        None,
    ),
}


def pinball(y, z):
    return keras.ops.mean(keras.ops.maximum(0.3 * (y - z), -0.7 * (y - z)), axis=-1)


def of_each(y, z):
    return keras.ops.square(y - z) + 0.1 * keras.ops.abs(z)


def swayed(y, z):
    return keras.ops.sum(y * keras.ops.softplus(-z) + 0.5 * (1 - y) * keras.ops.softplus(z), axis=-1)


def relative(y, z):
    return keras.ops.mean(keras.ops.square(y - z) / (1.0 + keras.ops.square(z)), axis=-1)


LOSSES |= {
    "one that divides": (compiled(relative), NUMBERS, None),
    "a function of one's own": (compiled(pinball), NUMBERS, None),
    "one number of each output": (compiled(of_each, optimizer=keras.optimizers.Adam(0.05)), NUMBERS, None),
    "one that multiplies": (compiled(swayed, metrics=[]), MANY, None),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.sample(10)
def test_losses_move_weights_as_in_keras(name):
    same_as_keras(*LOSSES[name])


def confident(loss, last=None):
    """A model whose logits are up to a hundred or so, right or wrong."""

    def build():
        made = model(3, last and layers.Dense(3, last), loss=loss)
        for weight in made.layers[-1].weights:
            weight.assign(weight * 40.0)
        return made

    return build


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        (FOCAL(), "sigmoid"),
        (FOCAL(from_logits=True, gamma=1.0), None),
        (FOCAL(True, 0.3, 3.0, label_smoothing=0.2), "sigmoid"),
        (losses.BinaryCrossentropy(), "sigmoid"),
    ],
    ids=["focal", "of logits", "balanced and smoothed", "cross-entropy"],
)
def test_confident_mistakes_move_weights_as_in_keras(loss, last):
    """In `fit` Keras takes these of logits, so that no probability is cut."""
    built = confident(loss, last)
    kernel, bias = built().get_weights()
    assert np.abs(X @ kernel + bias).max() > 20
    same_as_keras(built, MANY)


def test_a_divergence_of_probabilities_moves_as_in_keras(monkeypatch):
    monkeypatch.setitem(trained.__globals__, "check_told", lambda loss, labels: None)
    same_as_keras(compiled(losses.KLDivergence(), "softmax"), SOFT)


REFUSED = {
    "a function of all examples": (compiled(lambda y, z: keras.ops.mean(keras.ops.square(y - z))), "axis=-1"),
    "a function of numpy": (compiled(lambda y, z: np.abs(y - z)), "your own that cannot be read"),
    "a function with a logarithm": (compiled(lambda y, z: keras.ops.mean(keras.ops.log(z) - y, axis=-1)), "cannot be"),
    "mape": (compiled("mape"), "mean_absolute_percentage_error"),
    "msle": (compiled("msle"), "mean_squared_logarithmic_error"),
    "dice": (compiled(losses.Dice()), "dice"),
    "categorical focal": (compiled(losses.CategoricalFocalCrossentropy(), "softmax"), "categorical_focal_crossentropy"),
    "poisson of what may be negative": (compiled("poisson"), "softplus or a exponential"),
    "kl of a sigmoid": (compiled("kl_divergence", "sigmoid"), "ends in a softmax"),
    "focal without its sigmoid": (compiled(FOCAL()), "from_logits=False"),
    "mae of a softmax": (compiled("mae", "softmax"), "a softmax with mean_absolute_error"),
    "a huge delta": (compiled(losses.Huber(1e4)), "delta=10000"),
    "a steep gamma": (compiled(FOCAL(gamma=20.0, from_logits=True)), "gamma=20"),
    "no reduction": (compiled(losses.Huber(reduction="none")), "'none'"),
    "weights of examples": (compiled(losses.Huber(reduction="mean_with_sample_weight")), "mean_with_sample_weight"),
    "another axis": (compiled(losses.CosineSimilarity(axis=0)), "axis=0"),
    "another metric": (compiled("mae", metrics=["mse"]), "'mse'.*mean_absolute_error"),
    "accuracy of a hinge": (compiled("hinge", metrics=["accuracy"]), "'accuracy'"),
    "a categorical hinge of one": (compiled("categorical_hinge", outputs=1), "compares several"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_losses_that_are_not_done_are_refused_by_name(name):
    build, match = REFUSED[name]
    with pytest.raises(ModelError, match=match):
        plan(build())


@pytest.mark.parametrize(
    ("build", "y", "match"),
    [
        (compiled("hinge"), NUMBERS, "0 and 1, or -1 and 1"),
        (compiled("hinge"), np.where(MANY, NUMBERS.round(), 0), "0 and 1, or -1 and 1"),
        (compiled("squared_hinge"), MANY * 0.5, "0 and 1, or -1 and 1"),
        (compiled(FOCAL(from_logits=True)), SIGNS, "compares with 0 and 1"),
        (compiled("categorical_hinge"), SOFT, "single 1"),
        (compiled("categorical_hinge"), MANY, "single 1"),
        (compiled("kl_divergence", "softmax"), MANY, "not every row"),
        (compiled("mae", outputs=1), TRUTHS, "store floats"),
    ],
)
def test_targets_that_a_loss_does_not_take_are_refused(build, y, match):
    with pytest.raises(InputError, match=match):
        trained(build(), y)


def test_a_hinge_takes_signs_for_what_they_are():
    """Keras turns truths into signs where a batch has no others; what the servers do depends on all targets."""
    made = plan(compiled("hinge")()).loss
    assert isinstance(made, TargetLoss)
    assert not made.signs
    assert expects(heads(compiled("hinge")())[0]) == "signs"


BOUNDED = ("mae", "huber, narrow", "huber, wide", "log cosh", "hinge of truths", "squared hinge of truths", "cosine")


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("examples", [10, 60_000, 1 << 26])
def test_sums_of_losses_that_are_told_never_wrap_around(name, examples):
    """What outputs and targets at the ends of their windows add, by Keras."""
    build = LOSSES[name][0]
    built = build()
    made, loss, far = plan(built).loss, keras.losses.get(built.loss), np.float32([[-512.0, 512.0, 512.0, -512.0]])
    targets = [(far > 0).astype(np.float32)] if isinstance(made, TargetLoss) else [far, -far]
    worst = max(float(np.mean(loss(one, sign * far))) for one in targets for sign in (1, -1))
    assert worst <= made.most(truths=True)
    sums = told(made, 3, examples, truths=True)
    assert made.most(truths=True) * made.numbers(3) * examples * 2.0 ** (32 - sums.lost) < 2.0**62

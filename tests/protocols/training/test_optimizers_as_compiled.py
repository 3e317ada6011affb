"""Optimizers, penalties and constraints of compiled models: weights move on shares as `keras.Model.fit` moves them, or they are refused."""

import keras
import numpy as np
import pytest
from compiled_trainings import NUMBERS, SGD, model, same_as_keras
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.errors import ModelError
from protocols.mpc.numbers.fixed_point import decode
from protocols.owner.compiled import plan
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.moments import MEAN, SQUARE
from protocols.training.networks.optimizers import (
    Adadelta,
    Adagrad,
    Adamax,
    Clip,
    Constraint,
    GradientDescent,
    Lion,
    Nadam,
    RMSprop,
)
from protocols.training.step import Plan, step

OF = keras.optimizers


def ring(x, bits):
    return np.rint(np.asarray(x) * 2.0**bits).astype(np.int64).view(np.uint64)


SCHEDULE = keras.optimizers.schedules.CosineDecay


def last(**settings):
    return lambda: model(last=layers.Dense(3, **settings))


def spared(**excluded):
    optimizer = SGD(0.1, weight_decay=0.3)
    optimizer.exclude_from_weight_decay(**excluded)
    return model(hidden=(layers.Dense(4, "relu"),), optimizer=optimizer)


OPTIMIZERS = {
    "rmsprop": lambda: OF.RMSprop(0.05),
    "rmsprop, slow": lambda: OF.RMSprop(0.05, rho=0.99, epsilon=1e-3),
    "rmsprop with momentum": lambda: OF.RMSprop(0.02, momentum=0.8),
    "rmsprop centered": lambda: OF.RMSprop(0.02, centered=True),
    "rmsprop centered with momentum": lambda: OF.RMSprop(0.02, momentum=0.5, centered=True, epsilon=1e-4),
    "rmsprop beside a schedule": lambda: OF.RMSprop(SCHEDULE(0.1, 6), weight_decay=0.1),
    "adagrad": lambda: OF.Adagrad(0.1),
    "adagrad from 1": lambda: OF.Adagrad(0.2, initial_accumulator_value=1.0),
    "adadelta": lambda: OF.Adadelta(5.0, epsilon=1e-4),
    "adadelta of Keras": lambda: OF.Adadelta(20.0),
    "adamax": lambda: OF.Adamax(0.05),
    "adamax with other betas": lambda: OF.Adamax(0.05, beta_1=0.5, beta_2=0.9),
    "nadam": lambda: OF.Nadam(0.05),
    "nadam beside a schedule": lambda: OF.Nadam(SCHEDULE(0.1, 6), beta_2=0.9),
    "lion": lambda: OF.Lion(0.02),
    "lion with weight decay": lambda: OF.Lion(0.02, beta_1=0.5, beta_2=0.8, weight_decay=0.2),
    "clipvalue": lambda: SGD(0.1, clipvalue=0.2),
    "clipnorm": lambda: SGD(0.1, clipnorm=0.5),
    "clipnorm that clips nothing": lambda: SGD(0.1, momentum=0.9, clipnorm=50.0),
    "global_clipnorm": lambda: SGD(0.1, momentum=0.5, global_clipnorm=0.5),
    "adam with clipvalue": lambda: OF.Adam(0.05, clipvalue=0.3),
    "adam with clipnorm": lambda: OF.Adam(0.05, clipnorm=0.4),
    "adam with global_clipnorm": lambda: OF.AdamW(0.05, weight_decay=0.1, global_clipnorm=0.3),
    "gathered": lambda: SGD(0.1, gradient_accumulation_steps=2),
    "gathered with momentum, decay and a schedule": lambda: SGD(
        SCHEDULE(0.2, 8), momentum=0.8, weight_decay=0.1, gradient_accumulation_steps=4
    ),
    "gathered for adam": lambda: OF.Adam(0.05, gradient_accumulation_steps=3),
    "gathered and clipped": lambda: OF.RMSprop(0.05, gradient_accumulation_steps=2, clipnorm=0.3),
    "averages": lambda: SGD(0.1, use_ema=True, ema_momentum=0.7),
    "averages that take the places of weights": lambda: OF.Adam(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "averages of gathered updates": lambda: SGD(0.1, use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=2),
    "loss scaled": lambda: OF.LossScaleOptimizer(SGD(0.1, momentum=0.9)),
    "loss scaled beside a schedule": lambda: OF.LossScaleOptimizer(OF.Adam(SCHEDULE(0.1, 6))),
}
MODELS = {
    "l2 of kernels": last(kernel_regularizer=keras.regularizers.L2(0.05)),
    "l1 of kernels": last(kernel_regularizer="l1"),
    "both of both": last(kernel_regularizer=keras.regularizers.L1L2(0.02, 0.03), bias_regularizer=keras.regularizers.L2(0.1)),
    "l2 by name": lambda: model(hidden=(layers.Dense(4, "relu", kernel_regularizer="l2"),), loss_weights=[0.5]),
    "l1 with adam": lambda: model(last=layers.Dense(3, kernel_regularizer=keras.regularizers.L1(0.1)), optimizer=OF.Adam(0.05)),
    "l2 with adam, whose loss counts half": lambda: model(
        last=layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.3)), optimizer=OF.Adam(0.05), loss_weights=[0.5]
    ),
    "l2, clipped and gathered": lambda: model(
        last=layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        optimizer=SGD(0.1, clipnorm=0.5, gradient_accumulation_steps=2),
    ),
    "non-negative": last(kernel_constraint="non_neg", bias_constraint=keras.constraints.NonNeg()),
    "largest norm": last(kernel_constraint=keras.constraints.MaxNorm(0.8)),
    "largest norm of rows": last(kernel_constraint=keras.constraints.MaxNorm(0.5, axis=1)),
    "unit norm": last(kernel_constraint=keras.constraints.UnitNorm(axis=0)),
    "unit norm of all with adam": lambda: model(
        last=layers.Dense(3, kernel_constraint=keras.constraints.UnitNorm(axis=[0, 1])), optimizer=OF.Adam(0.05)
    ),
    "kernels do not decay": lambda: spared(var_names=["kernel"]),
    "half of the loss with rmsprop": lambda: model(loss_weights=[0.1], optimizer=OF.RMSprop(0.05, epsilon=0.01)),
    "half of the loss with adagrad": lambda: model(loss_weights=[0.1], optimizer=OF.Adagrad(0.1)),
}
CELLS = {name: (lambda build=build: model(optimizer=build())) for name, build in OPTIMIZERS.items()} | MODELS


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.sample(16)
def test_weights_move_as_in_keras(name):
    same_as_keras(CELLS[name], NUMBERS, near=0.03)


REFUSED = {
    "ftrl": (lambda: model(optimizer=OF.Ftrl(0.1)), "Ftrl cannot be trained on shares; Adadelta"),
    "adafactor": (lambda: model(optimizer=OF.Adafactor(0.1)), "Adafactor cannot"),
    "an epsilon of 0": (lambda: model(optimizer=OF.RMSprop(0.1, epsilon=0.0)), "RMSprop cannot be trained on shares with these settings"),
    "a rho of 1": (lambda: model(optimizer=OF.RMSprop(0.1, rho=1.0)), "rho=1"),
    "a rho near 1": (lambda: model(optimizer=OF.RMSprop(0.1, rho=0.99999)), "RMSprop cannot"),
    "adagrad from nothing": (lambda: model(optimizer=OF.Adagrad(0.1, 0.0, epsilon=1e-12)), "Adagrad cannot"),
    "adamax with its betas turned round": (lambda: model(optimizer=OF.Adamax(0.1, 0.95, 0.92)), "Adamax cannot"),
    "nadam with epsilon": (lambda: model(optimizer=OF.Nadam(0.1, epsilon=0.1)), "Nadam with epsilon=0.1"),
    "a beta of lion": (lambda: model(optimizer=OF.Lion(0.1, beta_1=1.0)), "Lion with beta_1=1"),
    "clipped to nothing": (lambda: model(optimizer=SGD(0.1, clipvalue=1e-6)), "clipvalue=1e-06.*between"),
    "clipped to too much": (lambda: model(optimizer=SGD(0.1, global_clipnorm=1e3)), "global_clipnorm=1000.*between"),
    "averages that never move": (lambda: model(optimizer=OF.RMSprop(0.1, use_ema=True, ema_momentum=0.99999)), "ema_momentum=0.99999"),
    "a penalty of one's own": (last(kernel_regularizer=lambda w: keras.ops.sum(w)), "kernel has a regularizer, function"),
    "orthogonality": (last(kernel_regularizer="orthogonal_regularizer"), "OrthogonalRegularizer"),
    "a huge penalty": (last(kernel_regularizer=keras.regularizers.L2(7.0)), "counts 7 times"),
    "norms between two": (last(kernel_constraint=keras.constraints.MinMaxNorm(0.5, 1.0)), "MinMaxNorm"),
    "a tiny norm": (last(kernel_constraint=keras.constraints.MaxNorm(1e-4)), "2\\^-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_name(name):
    build, match = REFUSED[name]
    with pytest.raises(ModelError, match=match):
        plan(build())


def given(plan, gradient, **held):
    """Zeros, but for targets by which the gradient by the bias is about `gradient`, and what is `held`."""
    zeros = {name: np.zeros(shape, np.uint64) for name, shape in (plan.shapes | plan.states).items()}
    y = ring(np.full((4, 1), -gradient / 2), FRACTION)
    return zeros | {"x": np.zeros((4, 1), np.uint64), "y": y} | {name: ring(value, bits) for name, (value, bits) in held.items()}


def outside(optimizer, gradient, number=0, **settings):
    """How often, of a few tries, something has left its window in a step of a model with one weight and one bias."""
    built = Plan((LINEAR,), (1,), 1, KNOWN, "mse", optimizer, **settings.pop("plan", {}))
    held = {name.replace("_", " "): value for name, value in settings.items()}
    circuit = step(built, 4, number)
    return [bool(Trainers(circuit, f"{salt}").outputs(given(built, gradient, **held))["outside"].any()) for salt in range(3)]


LINEAR = ProductLayer((0,), Weight("kernel0", (1, 1)), Weight("bias0", (1,)))
KNOWN = (Variable("kernel0", (1, 1)), Variable("bias0", (1,)))
ADAPTIVE = (RMSprop(0.01), Adagrad(0.01), Adadelta(1.0), Adamax(0.01), Nadam(0.01), Lion(0.01))
CLIPPED = tuple(GradientDescent(0.01, clip=Clip(by, 1.0)) for by in ("value", "norm", "global norm"))


@pytest.mark.parametrize("optimizer", [*ADAPTIVE, *CLIPPED, GradientDescent(0.01, gathered=2)], ids=str)
@pytest.mark.parametrize("gradient", [100.0, 140.0, 500.0])
@pytest.mark.sample(8)
def test_gradients_that_cannot_be_squared_are_found(optimizer, gradient):
    assert outside(optimizer, gradient) == [gradient > 128] * 3


@pytest.mark.parametrize(
    ("optimizer", "held"),
    [
        (Adagrad(0.01), {"square_of_bias0": ([9000.0], SQUARE)}),
        (Adadelta(1.0), {"squared_change_of_bias0": ([0.02], SQUARE)}),
        (GradientDescent(0.01, gathered=2), {"gathered_of_bias0": ([300.0], MEAN)}),
        (RMSprop(0.01, momentum=0.9), {"velocity_of_bias0": ([2000.0], FRACTION)}),
        (RMSprop(0.01, centered=True), {"mean_of_bias0": ([100.0], MEAN), "square_of_bias0": ([1e4], SQUARE)}),
        (GradientDescent(0.01), {"bias0": ([20_000.0], FRACTION), "plan": {"constraints": (Constraint("bias0", "non-negative"),)}}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_states_that_leave_are_found_and_others_are_not(optimizer, held):
    gradient = 100.0 if isinstance(optimizer, RMSprop) and optimizer.centered else 0.5
    assert outside(optimizer, gradient, **held) == [True] * 3
    assert outside(optimizer, 0.5, **{"plan": held["plan"]} if "plan" in held else {}) == [False] * 3


@pytest.mark.parametrize(
    "optimizer", [*ADAPTIVE, *CLIPPED, GradientDescent(0.1, gathered=3), Lion(0.01, average=0.5, overwriting=2)], ids=str
)
def test_what_depends_on_the_step_is_public_factors_only(optimizer):
    """Else the randomness that is dealt for a step would not fit another."""
    built = Plan((LINEAR,), (1,), 1, KNOWN, "mse", optimizer)
    first = step(built, 4)
    for number in range(1, 4):
        step(built, 4, number).arranged_as(first)


def test_dead_weights_stay_where_they_are():
    """The sign of 0 is 0: a pixel that is always black moves nothing, in Lion neither."""
    circuit = step(Plan((LINEAR,), (1,), 1, KNOWN, "mse", Lion(0.1)), 4)
    for salt in range(4):
        made = Trainers(circuit, f"{salt}").outputs(given(Plan((LINEAR,), (1,), 1, KNOWN, "mse", Lion(0.1)), 3.0))
        assert made["kernel0"].view(np.int64)[0, 0] == 0
        np.testing.assert_allclose(decode(made["bias0"], SCALE), [-0.1], atol=1e-3)

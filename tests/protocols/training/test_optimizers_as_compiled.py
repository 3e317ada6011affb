"""Optimizers, penalties and constraints of compiled models: weights move on shares as `keras.Model.fit` moves them, or they are refused."""

import keras
import pytest
from compiled_trainings import NUMBERS, SGD, model, same_as_keras
from keras import layers

from protocols.errors import ModelError
from protocols.owner.compiled import plan

OF = keras.optimizers
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
    "ema": (lambda: model(optimizer=OF.RMSprop(0.1, use_ema=True)), "use_ema"),
    "a penalty of one's own": (last(kernel_regularizer=lambda w: keras.ops.sum(w)), "kernel has a regularizer, function"),
    "orthogonality": (last(kernel_regularizer="orthogonal_regularizer"), "OrthogonalRegularizer"),
    "a huge penalty": (last(kernel_regularizer=keras.regularizers.L2(7.0)), "counts 7 times"),
    "a penalty on outputs": (last(activity_regularizer="l2"), "activity_regularizer"),
    "norms between two": (last(kernel_constraint=keras.constraints.MinMaxNorm(0.5, 1.0)), "MinMaxNorm"),
    "a tiny norm": (last(kernel_constraint=keras.constraints.MaxNorm(1e-4)), "2\\^-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_by_name(name):
    build, match = REFUSED[name]
    with pytest.raises(ModelError, match=match):
        plan(build())

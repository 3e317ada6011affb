"""What a compiled model asks for, cell by cell: each step of training moves as `keras.Model.fit` does, or refuses the ask by its name.

Two steps on all examples, from the same weights. FedAvg, FedSGD and private steps are exact; steps on shares run in the simulator.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import msgspec
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from training_deployment import Trainers

import federated
import privacy
from federated import FedAvg, FedSGD
from federated.aggregation.aggregation import Aggregate
from federated.owners import gradient, training
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.runs.compatibility import check_trained_privately
from federated.runs.global_model import GlobalModel
from privacy import PrivacyEngine
from privacy.keras_models import asks, internals
from privacy.models import validation
from protocols.errors import ModelError
from protocols.owner import compiled
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.shared_model import SharedModel
from protocols.training.networks.ended import array_name
from protocols.training.step import step

EXAMPLES, STEPS_MADE, RATE = 16, 2, 0.2
random = np.random.default_rng(0)
X = random.uniform(-1, 1, (EXAMPLES, 4)).astype(np.float32)
Y = random.normal(size=(EXAMPLES, 3)).astype(np.float32)
ROWS = random.uniform(-1, 1, (EXAMPLES, 5, 4)).astype(np.float32)
LABELS = np.tile([[1, 2, 0, 0, 1]], (EXAMPLES, 1))  # three of each example count

registered = keras.saving.register_keras_serializable("asks")


def own(name: str, replaced: Callable[..., Any]) -> type:
    """A class of models that replaces a method."""
    kind = type(f"Own_{name.strip('_')}", (keras.Sequential,), {name: replaced, "__module__": __name__})
    return registered(kind)


def passing_on(name: str) -> Callable[..., Any]:
    """A method that does what Keras' own does."""

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(type(self), self), name)(*args, **kwargs)

    return method


def flipped(self: Any, data: Any) -> Any:
    x, y = data[:2]
    return super(type(self), self).train_step((x, -y))


def tripled(self: Any, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:
    return 3 * super(type(self), self).compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)


def doubled(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    return 2 * super(type(self), self).call(inputs, training=training)


@registered
class Slow(keras.optimizers.SGD):
    """An optimizer of one's own."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient / 2, variable, learning_rate)


@registered
class Held(layers.Dense):
    """Adds a loss that looks at its weights only."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.5 * keras.ops.sum((self.kernel - 1) ** 2))
        return super().call(inputs)


@registered
class Pulled(layers.Dense):
    """Adds a loss that looks at its outputs."""

    def call(self, inputs: Any) -> Any:
        outputs = super().call(inputs)
        self.add_loss(0.5 * keras.ops.mean((outputs - 1) ** 2))
        return outputs


@registered
class Overwritten(layers.Dense):
    """Its bias becomes what its gradient is, as the scales of float8 do."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.bias.overwrite_with_gradient = True


def model(kind: type = keras.Sequential, hidden: tuple[Any, ...] = (), last: Any = None, **settings: Any) -> keras.Model:
    """A small compiled model, always with the same weights."""
    keras.utils.set_random_seed(1)
    built = kind([layers.Input((4,)), *hidden, last or layers.Dense(3, name="last")])
    random = np.random.default_rng(1)
    for weight in built.weights:
        if weight.name in ("kernel", "bias"):
            weight.assign(random.normal(size=weight.shape) * 0.5)
    built.compile(**{"optimizer": keras.optimizers.SGD(RATE), "loss": "mse", "run_eagerly": True} | settings)
    return built


def sgd(**settings: Any) -> Any:
    return {"optimizer": keras.optimizers.SGD(**{"learning_rate": RATE} | settings)}


def two_outputs(**settings: Any) -> keras.Model:
    inputs = layers.Input((4,))
    built = keras.Model(inputs, {"a": layers.Dense(3, name="a")(inputs), "b": layers.Dense(3, name="b")(inputs)})
    for number, weight in enumerate(built.trainable_weights):
        weight.assign(np.random.default_rng(number).normal(size=weight.shape))
    built.compile(**sgd(), run_eagerly=True, **settings)
    return built


def ignoring() -> keras.Model:
    built = keras.Sequential([layers.Input((5, 4)), layers.Dense(3, name="last")])
    built.layers[-1].kernel.assign(np.random.default_rng(1).normal(size=(4, 3)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    built.compile(**sgd(), loss=loss, run_eagerly=True)
    return built


def normalised() -> keras.Model:
    first = layers.Normalization()
    first.adapt(X)
    return model(hidden=(first,))


def biases_exempt() -> keras.Model:
    built = model(**sgd(weight_decay=0.3))
    built.optimizer.exclude_from_weight_decay(var_names=["bias"])
    return built


def with_frozen_kernel() -> keras.Model:
    built = model(hidden=(layers.Dense(5, name="first"),))
    built.layers[0].kernel.trainable = False
    built.compile(**sgd(), loss="mse", run_eagerly=True)
    return built


def frozen_later() -> keras.Model:
    built = model(hidden=(layers.Dense(5),))
    built.layers[0].trainable = False
    built.compile(**sgd(), loss="mse", run_eagerly=True)
    return built


def patched() -> keras.Model:
    built = model()
    plain = built.compute_metrics
    built.compute_metrics = lambda *args, **kwargs: plain(*args, **kwargs)
    return built


REFUSALS = {
    "fedavg": federated.ModelRefused,
    "fedsgd": federated.ModelRefused,
    "private": privacy.ModelRefused,
    "shares": ModelError,
}

SAME = ""
"""Moves as Keras."""
TWICE = {"a": Y, "b": Y}


@dataclass(frozen=True)
class Case:
    """A model that asks for something; for each step what its refusal says, or `SAME`."""

    build: Callable[[], keras.Model]
    fedavg: str = SAME
    fedsgd: str = SAME
    private: str = SAME
    shares: str = SAME
    ask: str | None = None
    x: Any = field(default_factory=lambda: X)
    y: Any = field(default_factory=lambda: Y)
    moves: bool = True
    """Whether it moves otherwise than the plain model."""

    def expected(self, kind: str) -> str:
        return str(getattr(self, kind))

    @cached_property
    def fitted(self) -> tuple[list[np.ndarray], list[float]]:
        """The weights after `keras.Model.fit`, and the losses that it tells."""
        built = self.build()
        told = built.fit(self.x, self.y, batch_size=EXAMPLES, epochs=STEPS_MADE, shuffle=False, verbose=0)
        return [np.array(weight) for weight in built.get_weights()], told.history["loss"]


def refused(ask: str, *kinds: str) -> dict[str, str]:
    """By name, by these steps."""
    return dict.fromkeys(kinds, ask)


def evaluating(name: str) -> Case:
    return Case(lambda: model(own(name, passing_on(name))), moves=False)


def telling(name: str) -> Case:
    return Case(lambda: model(own(name, passing_on(name))), moves=False, shares=name)


def optimizing(name: str, value: Any, **more: Any) -> Case:
    return Case(lambda: model(**sgd(**{name: value} | more)), fedsgd=name)


def reduced(reduction: str, **refusals: str) -> Case:
    shares = SAME if reduction == "sum" else "reduc"
    return Case(lambda: model(loss=keras.losses.MeanSquaredError(reduction=reduction)), shares=shares, **refusals)


CASES = {
    "loss_weights": Case(lambda: model(loss_weights=[3.0])),
    "metrics": Case(lambda: model(metrics=["mae"]), shares="'mae'", moves=False),
    "weighted_metrics": Case(lambda: model(weighted_metrics=["mae"]), shares="weighted_metrics", moves=False),
    "run_eagerly": Case(lambda: model(), moves=False),
    "jit_compile": Case(lambda: model(jit_compile=True, run_eagerly=False), moves=False),
    "steps_per_execution": Case(lambda: model(steps_per_execution=2), moves=False),
    "train_step": Case(lambda: model(own("train_step", flipped)), **refused("train_step", "fedsgd", "private", "shares")),
    "compute_loss": Case(lambda: model(own("compute_loss", tripled)), **refused("compute_loss", "private", "shares")),
    "compute_metrics": telling("compute_metrics"),
    "get_metrics_result": telling("get_metrics_result"),
    "reset_metrics": telling("reset_metrics"),
    "metrics_names": Case(lambda: model(own("metrics_names", property(lambda self: ["loss"]))), moves=False, shares="metrics_names"),
    "metrics of one's own": Case(
        lambda: model(own("metrics", property(lambda self: super(type(self), self).metrics))),
        moves=False,
        **refused("metrics of one's own", "private", "shares"),
    ),
    "test_step": evaluating("test_step"),
    "make_test_function": evaluating("make_test_function"),
    "evaluate": evaluating("evaluate"),
    "test_on_batch": evaluating("test_on_batch"),
    "call": Case(lambda: model(own("call", doubled)), shares="call"),
    "__call__": Case(lambda: model(own("__call__", passing_on("__call__"))), shares="__call__", moves=False),
    "compute_mask": Case(lambda: model(own("compute_mask", passing_on("compute_mask"))), shares="compute_mask", moves=False),
    "make_train_function": Case(
        lambda: model(own("make_train_function", passing_on("make_train_function"))),
        moves=False,
        **refused("make_train_function", "fedsgd", "private", "shares"),
    ),
    "fit": Case(lambda: model(own("fit", passing_on("fit"))), moves=False, **refused("fit", *REFUSALS)),
    "train_on_batch": Case(
        lambda: model(own("train_on_batch", passing_on("train_on_batch"))),
        moves=False,
        **refused("train_on_batch", *REFUSALS),
    ),
    "a method of the model alone": Case(
        patched, ask="compute_metrics", moves=False, **refused("compute_metrics", "fedavg", "fedsgd", "shares")
    ),
    "learning_rate schedule": Case(
        lambda: model(**sgd(learning_rate=keras.optimizers.schedules.ExponentialDecay(RATE, 1, 0.1))), fedsgd="schedule"
    ),
    "weight_decay": Case(lambda: model(**sgd(weight_decay=0.3)), fedsgd="weight_decay"),
    "exclude_from_weight_decay": Case(biases_exempt, ask="weight_decay", **refused("exclude_from_weight_decay", "fedavg", "fedsgd")),
    "clipnorm": optimizing("clipnorm", 0.1),
    "clipvalue": optimizing("clipvalue", 0.05),
    "global_clipnorm": optimizing("global_clipnorm", 0.1),
    "use_ema": optimizing("use_ema", True, ema_momentum=0.5),
    "gradient_accumulation_steps": optimizing("gradient_accumulation_steps", 2),
    "loss_scale_factor": Case(lambda: model(**sgd(loss_scale_factor=8.0)), fedsgd="loss_scale_factor", moves=False),
    "optimizer of one's own": Case(lambda: model(optimizer=Slow(RATE)), fedsgd="optimizer of one's own", shares="Slow"),
    "LossScaleOptimizer": Case(
        lambda: model(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE))),
        moves=False,
        **refused("LossScaleOptimizer", "fedsgd", "private"),
    ),
    "reduction sum": reduced("sum"),
    "reduction none": reduced("none", private="reduction none"),
    "reduction mean_with_sample_weight": dataclasses.replace(reduced("mean_with_sample_weight"), moves=False),
    "several reductions": Case(
        lambda: two_outputs(loss={"a": "mse", "b": keras.losses.MeanSquaredError(reduction="sum")}),
        y=TWICE,
        **refused("several reductions", "private"),
        shares="several reductions",
    ),
    "several losses": Case(lambda: two_outputs(loss={"a": "mse", "b": "mae"}), y=TWICE),
    "loss_weights of several": Case(
        lambda: two_outputs(loss={"a": "mse", "b": "mae"}, loss_weights={"a": 3.0, "b": 0.5}), ask="loss_weights", y=TWICE
    ),
    "ignore_class": Case(ignoring, x=ROWS, y=LABELS, shares="ignore_class|one axis of classes"),
    "no loss": Case(lambda: model(loss=None, last=Held(3, use_bias=False)), **refused("loss", "private", "shares")),
    "regularizer": Case(lambda: model(last=layers.Dense(3, kernel_regularizer="l2", bias_regularizer="l1"))),
    "regularizer of several": Case(lambda: model(last=layers.Dense(3, kernel_regularizer="l2"), loss_weights=2.0), ask="regularizer"),
    "activity_regularizer": Case(lambda: model(last=layers.Dense(3, activity_regularizer="l2")), private="activity.regularizer"),
    "constraint": Case(lambda: model(last=layers.Dense(3, kernel_constraint=keras.constraints.MaxNorm(0.5)))),
    "frozen weights": Case(lambda: model(hidden=(layers.Dense(5, trainable=False),))),
    "a layer frozen later": Case(frozen_later, ask="frozen weights"),
    "a frozen kernel": Case(with_frozen_kernel, ask="frozen weights", **refused("trainable of .*kernel", "fedavg", "fedsgd")),
    "seed": Case(lambda: model(hidden=(layers.Dropout(0.5, seed=3),))),
    "dtype": Case(lambda: model(last=layers.Dense(3, dtype="mixed_bfloat16")), private="bfloat16", moves=False),
    "overwrite_with_gradient": Case(
        lambda: model(last=Overwritten(3)), **refused("overwrite_with_gradient", "fedsgd", "private", "shares")
    ),
    "add_loss of weights": Case(lambda: model(last=Held(3)), shares="add_loss"),
    "add_loss": Case(lambda: model(last=Pulled(3)), **refused("add_loss", "private", "shares")),
    "integer weights": Case(normalised),
}


PLAIN = Case(model)


async def by_strategy(case: Case, strategy: Any, rounds: int) -> list[np.ndarray]:
    """One owner in so many rounds."""
    source = (case.x, case.y) if isinstance(case.y, np.ndarray) else tf.data.Dataset.from_tensor_slices((case.x, case.y)).batch(EXAMPLES)
    held = GlobalModel(case.build, strategy, 0, None, None)
    trainer = Trainer()
    try:
        for number in range(rounds):
            task = held.task(number, moved=number)
            update = await trainer.train(task, Data(source), evaluates=False)
            held.step(task, Aggregate(update.delta, {}, update.examples, ()), 1)
    finally:
        await trainer.close()
    return [np.array(weight) for weight in held.model.get_weights()]


async def by_fedavg(case: Case) -> list[np.ndarray]:
    return await by_strategy(case, FedAvg(batch_size=None, local_epochs=STEPS_MADE), 1)


async def by_fedsgd(case: Case) -> list[np.ndarray]:
    return await by_strategy(case, FedSGD(eta=RATE), STEPS_MADE)


async def by_private(case: Case) -> list[np.ndarray]:
    """With next to no noise, and a norm that clips nothing."""
    built = PrivacyEngine("rdp").make_private(case.build(), noise_multiplier=1e-7, max_grad_norm=50.0)
    told = built.fit(case.x, case.y, batch_size=EXAMPLES, epochs=STEPS_MADE, verbose=0).history["loss"]
    np.testing.assert_allclose(told, case.fitted[1], rtol=1e-4)
    return [np.array(weight) for weight in built.get_weights()]


async def by_shares(case: Case) -> list[np.ndarray]:
    built = case.build()
    plan = compiled.plan(built)
    plan = msgspec.structs.replace(plan, optimizer=scheduled(built, plan.optimizer, 0, STEPS_MADE))
    values = dict(zip(plan.shapes, compiled.weights(built), strict=True))
    values |= {name: np.zeros(shape) for name, shape in plan.states.items()}
    targets = {array_name("y", place): y for place, y in enumerate(case.y.values() if isinstance(case.y, dict) else [case.y])}
    for number in range(STEPS_MADE):
        values = Trainers(step(plan, EXAMPLES, number), str(number)).real({**values, "x": case.x, **targets})
        del values["metric"]
    values = plan.finished(values)
    weights = [np.array(weight) for weight in built.get_weights()]
    for place, name in zip(compiled.places(built), plan.trained, strict=True):
        weights[place] = values[name]
    return weights


RUNS = {"fedavg": by_fedavg, "fedsgd": by_fedsgd, "private": by_private, "shares": by_shares}


async def check_random_layers(kind: str) -> None:
    """One step, on the masks that Keras draws from the state that the round gives, which is a function of its seed and number."""
    case = CASES["seed"]
    made = await by_strategy(case, FedAvg(batch_size=None) if kind == "fedavg" else FedSGD(eta=RATE), 1)
    built = case.build()
    (generator,) = training.seed_generators(built)
    generator.state.assign(np.random.default_rng([0, 0, 0, 0]).integers(1 << 31, size=2))
    built.fit(X, Y, batch_size=EXAMPLES, shuffle=False, verbose=0)
    for one, other in zip(made, built.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(75)
async def test_a_step_moves_as_keras_or_refuses_by_name(name, kind):
    case = CASES[name]
    said = case.expected(kind)
    if said:
        with pytest.raises(REFUSALS[kind], match=said):
            await RUNS[kind](case)
        return
    if name == "seed" and kind in ("fedavg", "fedsgd"):
        await check_random_layers(kind)
        return
    if name == "seed" and kind == "shares":  # draws that are known to all are not those of Keras, see protocols/training/test_layers.py
        made = await RUNS[kind](case)
        assert all(np.abs(one - np.array(old)).max() > 1e-4 for one, old in zip(made, case.build().get_weights(), strict=True))
        return
    after, _ = case.fitted
    before = [np.array(weight) for weight in case.build().get_weights()]
    made = await RUNS[kind](case)
    move = max(np.abs(one - other).max() for one, other in zip(after, before, strict=True))
    off = max(np.abs(one - other).max() for one, other in zip(made, after, strict=True))
    assert off <= {"shares": 0.02 * move, "private": 1e-5}.get(kind, 2e-6)


@pytest.mark.parametrize("name", CASES)
def test_each_case_asks_for_what_it_is_about(name):
    case = CASES[name]
    found = {one.name: one for one in asks.asks(case.build())}
    asked = found[case.ask or name]
    assert asked.name in str(asked)
    assert asked.said in str(asked)


MOVING = [name for name, case in CASES.items() if case.moves and case.x is X and case.y is Y]


@pytest.mark.parametrize("name", MOVING)
def test_each_case_moves_otherwise_than_the_plain_model(name):
    """Else a step that ignores what is asked would pass."""
    plain, _ = PLAIN.fitted
    asked, _ = CASES[name].fitted
    same = [one.shape == other.shape and np.allclose(one, other, atol=2e-3) for one, other in zip(plain, asked, strict=False)]
    assert not all(same)


def test_no_step_answers_what_no_case_is_about():
    known = {CASES[name].ask or name for name in CASES}
    answered = gradient.ANSWERED | training.ANSWERED | validation.ANSWERED | compiled.ANSWERED
    assert answered <= known
    assert known >= asks.HOW_IT_RUNS | asks.METRICS | asks.EVALUATION | asks.FUNCTION | asks.OPTIMIZER | asks.REDUCTIONS


NEW = {
    "an argument of compile": lambda patch: patch.setattr(
        internals, "compile_arguments", lambda model: {"optimizer": None, "loss": "mse", "sharpness": 2.0}
    ),
    "a method of keras.Model": lambda patch: patch.setattr(keras.Model, "sharpness", lambda self: None, raising=False),
    "a setting of optimizers": lambda patch: patch.setattr(
        keras.optimizers.Optimizer, "__init__", with_parameter(keras.optimizers.Optimizer.__init__)
    ),
}


def with_parameter(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that has one more parameter, in its signature."""

    def more(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    old = inspect.signature(function)
    extra = inspect.Parameter("sharpness", inspect.Parameter.KEYWORD_ONLY, default=None)
    kept = [one for one in old.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    more.__signature__ = old.replace(parameters=[*kept, extra])
    return more


@registered
class Sharp(keras.Sequential):
    """Replaces what a coming Keras may have."""

    def sharpness(self) -> None: ...


@registered
class Sharpened(keras.optimizers.SGD):
    """Has a setting that a coming Keras may have."""

    def __init__(self, *args: Any, sharpness: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"sharpness": 2.0}


@pytest.mark.parametrize("kind", RUNS)
@pytest.mark.parametrize("new", NEW)
async def test_what_nobody_knows_yet_is_refused(new, kind, monkeypatch):
    optimizer = Sharpened(RATE) if "optimizers" in new else keras.optimizers.SGD(RATE)
    NEW[new](monkeypatch)
    with pytest.raises(REFUSALS[kind], match="sharpness"):
        await RUNS[kind](Case(lambda: model(Sharp, optimizer=optimizer)))


def data_set(*more: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y, *more)).batch(EXAMPLES)


@pytest.mark.parametrize("kind", ["fedavg", "fedsgd"])
async def test_weights_of_examples_in_data_sets(kind):
    weights = random.uniform(0, 2, EXAMPLES).astype(np.float32)
    strategy, rounds = (FedAvg(local_epochs=STEPS_MADE), 1) if kind == "fedavg" else (FedSGD(eta=RATE), STEPS_MADE)
    held, trainer = GlobalModel(lambda: model(weighted_metrics=["mae"]), strategy, 0, None, None), Trainer()
    for number in range(rounds):
        task = held.task(number, moved=number)
        update = await trainer.train(task, Data(data_set(weights)), evaluates=False)
        held.step(task, Aggregate(update.delta, {}, update.examples, ()), 1)
    await trainer.close()
    built = model(weighted_metrics=["mae"])
    built.fit(X, Y, sample_weight=weights, batch_size=EXAMPLES, epochs=STEPS_MADE, shuffle=False, verbose=0)
    for one, other in zip(held.model.get_weights(), built.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


def test_owners_that_train_privately_refuse_what_private_fit_refuses():
    with pytest.raises(federated.SettingError, match="add_loss"):
        check_trained_privately(model(last=Pulled(3)), privacy.DPSGD(noise_multiplier=1.0, max_grad_norm=1.0))


@pytest.mark.parametrize("option", ["steps_per_epoch", "validation_steps", "validation_freq"])
def test_fit_on_shares_has_no_argument_that_it_would_ignore(option):
    with pytest.raises(TypeError, match=option):
        inspect.signature(SharedModel.fit).bind(None, X, Y, **{option: None})

"""A round that makes no step of the optimizer is an error of the owner whom it happens to, and never counts as an update of nothing."""

import dataclasses
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

from federated import (
    DPSGD,
    DataError,
    FedAvg,
    FedBuff,
    Federation,
    FedProx,
    FedSGD,
    ModelRefused,
    ProcessEngine,
    RayEngine,
    SecureAggregation,
    SettingError,
    simulated_owners,
)
from federated.models import blueprint
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import LocalTraining, Task

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype(np.float32)
Y = RNG.normal(size=(64, 2)).astype(np.float32)
SHORT, ENOUGH = (X[:8], Y[:8]), (X, Y)
K = 4
FORMS = {"arrays": lambda part: part, "tf.data": lambda part: tf.data.Dataset.from_tensor_slices(part).batch(4)}


def model(optimizer=None, kind=keras.Sequential, last=None, **settings):
    keras.utils.set_random_seed(1)
    built = kind([keras.Input((4,)), last or keras.layers.Dense(2)])
    built.compile(**{"optimizer": optimizer or keras.optimizers.SGD(0.1), "loss": "mse"} | settings)
    return built


def accumulating(steps=K, rate=0.1):
    return model(keras.optimizers.SGD(rate, gradient_accumulation_steps=steps))


def overflowing():
    return model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-4), initial_scale=1e38), loss_weights=[1000.0])


def accumulating_what_overflows():
    return model(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1, gradient_accumulation_steps=K), initial_scale=8.0))


@keras.saving.register_keras_serializable("steps")
class Idle(keras.Sequential):
    """Trains nothing."""

    def train_step(self, data):
        return {"loss": keras.ops.sum(data[1])}


@keras.saving.register_keras_serializable("steps")
class ByHand(keras.Sequential):
    """Moves its weights without an optimizer."""

    def train_step(self, data):
        self.trainable_variables[0].assign_add(keras.ops.ones_like(self.trainable_variables[0]))
        return {"loss": keras.ops.sum(data[1])}


@keras.saving.register_keras_serializable("steps")
class Twice(keras.Sequential):
    """Counts two gradients for each batch."""

    def train_step(self, data):
        super().train_step(data)
        return super().train_step(data)


def same(found, expected, atol=0.0):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


async def update_of(build, data, training=None):
    """What an owner gives in the first round."""
    built = build()
    task = Task(1, blueprint.draw(built), built.get_weights(), training or LocalTraining(batch_size=4))
    trainer = Trainer()
    try:
        return await trainer.train(task, Data(data), evaluates=False), built
    finally:
        await trainer.close()


async def played(build, parts, rounds=2, engine=None, **settings):
    settings = {"strategy": FedAvg(batch_size=4), "progress": False} | settings
    async with Federation(model=build, owners=simulated_owners(parts, engine=engine), **settings) as federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model.get_weights()


# No step at all.

NONE = {
    "accumulation": (accumulating, SHORT, f"gradient_accumulation_steps={K}, and this owner has fewer batches than that"),
    "overflow": (overflowing, SHORT, "finite when the loss is scaled.*initial_scale=1e\\+38"),
    "accumulation of what may overflow": (accumulating_what_overflows, SHORT, f"gradient_accumulation_steps={K}, and this owner has fewer"),
    "a step that does nothing": (lambda: model(kind=Idle), ENOUGH, "train_step of the model's class"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NONE)
async def test_an_update_without_a_step_is_an_error(name, form):
    build, part, told = NONE[name]
    with pytest.raises(DataError, match=told):
        await update_of(build, FORMS[form](part))


async def assert_costs_that_owner_only(build, part, told, engine=None, parts=(ENOUGH, ENOUGH), **settings):
    outcomes, found = await played(build, [*parts, part], engine=engine, **settings)
    _, expected = await played(build, list(parts), **settings)
    for outcome in outcomes:
        assert list(outcome.dropped) == ["owner-2"]
        with pytest.raises(AssertionError, match=told):
            raise AssertionError(outcome.dropped["owner-2"])
    same(found, expected)
    assert any((one != other).any() for one, other in zip(found, build().get_weights(), strict=True)), "the others have moved it"


@pytest.mark.parametrize(("strategy", "form"), [(FedAvg(batch_size=4), "arrays"), (FedProx(batch_size=4), "tf.data")], ids=["arrays", "tf"])
async def test_it_costs_that_owner_only(strategy, form):
    build, part, told = NONE["accumulation"]
    await assert_costs_that_owner_only(build, FORMS[form](part), told, parts=[FORMS[form](ENOUGH)] * 2, strategy=strategy)


async def test_hidden_rounds_find_it_too_and_tell_no_number_of_batches():
    build, part, told = NONE["accumulation"]
    outcomes, _ = await played(build, [part, *[ENOUGH] * 3], aggregation=SecureAggregation(threshold=0.5))
    assert all(list(outcome.dropped) == ["owner-0"] and outcome.failure is None for outcome in outcomes)
    assert told in outcomes[0].dropped["owner-0"]
    assert "2 batches" not in outcomes[0].dropped["owner-0"]


async def test_asynchronous_rounds_find_it_too():
    build, part, told = NONE["accumulation"]
    outcomes, found = await played(build, [part, ENOUGH], strategy=FedBuff(batch_size=4, buffer=1, concurrency=2), rounds=3)
    dropped = {name: why for outcome in outcomes for name, why in outcome.dropped.items()}
    assert list(dropped) == ["owner-0"]
    assert told in dropped["owner-0"]
    assert all(outcome.reported == ("owner-1",) for outcome in outcomes)
    assert any((one != other).any() for one, other in zip(found, build().get_weights(), strict=True))


@pytest.mark.long
@pytest.mark.parametrize("engine", [lambda: ProcessEngine(1), lambda: RayEngine(workers=1, cores=0.5)], ids=["processes", "ray"])
@pytest.mark.filterwarnings("ignore")  # Ray's own
async def test_every_engine_finds_it(engine):
    build, part, told = NONE["accumulation"]
    await assert_costs_that_owner_only(build, part, told, engine=engine())


async def test_the_owners_log_has_the_numbers(caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(DataError):
        await update_of(accumulating, SHORT)
    assert f"a round has 2 batches here, and a step of the optimizer needs the gradients of {K}" in caplog.text


PRIVATE = LocalTraining(noise_multiplier=1.0, max_grad_norm=1.0, rate=0.5)


async def test_dp_sgd_of_an_owner_refuses_it():
    with pytest.raises(DataError, match=r"fewer batches than that .* the sampling rate"):
        await update_of(accumulating, ENOUGH, PRIVATE)
    update, _ = await update_of(lambda: accumulating(2), ENOUGH, PRIVATE)
    assert any(array.any() for array in update.delta)


async def test_dp_sgd_is_refused_before_anything_runs():
    """There the number of batches is known: it is that of the rate."""
    privacy = DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5, delta=1e-5)
    with pytest.raises(SettingError, match=r"make 2 batches in a round, .* gradient_accumulation_steps=4"):
        await played(accumulating, [ENOUGH], privacy=privacy)


# Enough steps.


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [16, 24])
@pytest.mark.sample(2)
async def test_with_enough_batches_a_round_is_a_fit(rows, form):
    part = X[:rows], Y[:rows]
    update, built = await update_of(accumulating, FORMS[form](part), LocalTraining(batch_size=None, epochs=K) if form == "arrays" else None)
    before = built.get_weights()
    if form == "arrays":
        built.fit(*part, batch_size=rows, epochs=K, shuffle=False, verbose=0)
    else:
        built.fit(FORMS[form](part), verbose=0, shuffle=False)
    same([a + b for a, b in zip(before, update.delta, strict=True)], built.get_weights(), atol=1e-6)


async def test_gradients_that_are_left_over_are_told(caplog):
    """Six batches, and steps of four: `fit` keeps two for the next epoch, and the next round begins anew."""
    with caplog.at_level(logging.WARNING):
        await played(accumulating, [(X[:24], Y[:24])], rounds=2)
    assert caplog.text.count("the gradients of the last 2 of 6 batches of each round make no step") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        await played(accumulating, [(X[:24], Y[:24])], rounds=1, strategy=FedAvg(batch_size=4, local_epochs=2))
    assert "make no step" not in caplog.text, "within a round they are kept over epochs"


async def test_a_schedule_goes_by_batches_as_in_keras():
    def build():
        return accumulating(2, keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.1, 0.02]))

    data = tf.data.Dataset.from_tensor_slices((X[:16], Y[:16])).batch(4)
    _, found = await played(build, [data], rounds=3)
    fitted = build()
    for _ in range(3):
        fitted.fit(data, verbose=0, shuffle=False)
    same(found, fitted.get_weights(), atol=1e-6)


async def test_overflows_that_end_within_a_round_are_as_in_fit(caplog):
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    with caplog.at_level(logging.WARNING):
        update, built = await update_of(overflowing, data)
    assert "steps were left out, for gradients were not finite at LossScaleOptimizer(initial_scale=1e+38)" in caplog.text
    before = built.get_weights()
    built.fit(data, verbose=0, shuffle=False)
    assert 0 < int(built.optimizer.iterations) < 16, "some were left out"
    same([a + b for a, b in zip(before, update.delta, strict=True)], built.get_weights(), atol=1e-6)


STEPPING = {
    "by hand": lambda: model(kind=ByHand),
    "two gradients a batch": lambda: model(keras.optimizers.SGD(0.1, gradient_accumulation_steps=K), kind=Twice),
}


@pytest.mark.parametrize("name", STEPPING)
async def test_a_step_of_ones_own_that_moves_weights_counts(name):
    update, _ = await update_of(STEPPING[name], SHORT)
    assert any(array.any() for array in update.delta)


# Updates of nothing that are right, and others that are not.


@keras.saving.register_keras_serializable("steps")
def flat(truth, predicted):
    return keras.ops.mean(0.0 * predicted, axis=-1)


RIGHT = {
    "learning rate 0": lambda: model(keras.optimizers.SGD(0.0)),
    "a schedule at 0": lambda: model(keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([100], [0.0, 1.0]))),
    "gradients of 0": lambda: model(loss=flat),
}


@pytest.mark.parametrize("name", RIGHT)
async def test_steps_that_move_nothing_are_right(name):
    update, _ = await update_of(RIGHT[name], ENOUGH)
    assert not any(array.any() for array in update.delta)


def classes():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    return model(last=keras.layers.Dense(3), loss=loss)


UNCOUNTED = {
    "weights of examples": (model, (X, Y, np.zeros(64, np.float32))),
    "labels": (classes, (X, np.zeros(64, int))),
}


@pytest.mark.parametrize(("gradient", "form"), [(False, "arrays"), (False, "tf.data"), (True, "arrays")])
@pytest.mark.parametrize("name", UNCOUNTED)
async def test_data_of_which_nothing_counts_is_no_update_of_nothing(name, gradient, form):
    build, data = UNCOUNTED[name]
    with pytest.raises(DataError, match="nothing of this owner's data counts"):
        await update_of(build, FORMS[form](data), LocalTraining(batch_size=None if gradient else 4, gradient=gradient))
    some = (*data[:-1], data[-1].copy())
    some[-1][5] = 1
    update, _ = await update_of(build, FORMS[form](some), LocalTraining(batch_size=None if gradient else 4, gradient=gradient))
    assert any(array.any() for array in update.delta)


def frozen():
    return model(last=keras.layers.Dense(2, trainable=False))


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD(), FedBuff(buffer=1)], ids=lambda one: type(one).__name__)
async def test_a_model_of_which_nothing_is_trainable_is_refused_before_anything_runs(strategy):
    with pytest.raises(ModelRefused, match="none of the 2 weights of the model is trainable"):
        await played(frozen, [ENOUGH], strategy=strategy)


@pytest.mark.parametrize("training", [LocalTraining(), LocalTraining(gradient=True), dataclasses.replace(LocalTraining(), proximal=1.0)])
async def test_an_owner_refuses_to_train_it(training):
    with pytest.raises(ModelRefused, match="none of the 2 weights of the model is trainable"):
        await update_of(frozen, ENOUGH, training)


@keras.saving.register_keras_serializable("steps")
def of_labels(truth, predicted):
    return keras.ops.mean(truth, axis=-1)


async def test_a_loss_that_no_weight_has_a_part_in_has_no_gradient():
    """Keras' step refuses it as well."""
    with pytest.raises(DataError, match="the loss has no gradient by any weight"):
        await update_of(lambda: model(loss=of_labels), ENOUGH, LocalTraining(batch_size=None, gradient=True))

"""Adapters that Keras' configuration does not say, or not all of: owners build and train the same, or refuse by name."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from federated import FedAvg, Federation, ModelRefused, Policy, UpdateHeldBack, blueprint_digest, simulated_owners
from federated.consent.admission import Admission
from federated.models import blueprint
from federated.models.weights import moving
from federated.records.data import Data
from federated.runs.run_folder import digest as run_digest
from federated.tasks.update import LocalTraining, Task, base_digest

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 6)).astype(np.float32), np.arange(12) % 2
PARTS = [(X[:4], Y[:4]), (X[4:], Y[4:])]


def attending(rank=2, alpha=None, targets=("query", "value")):
    """An attention layer that is adapted as keras-hub does it: all is frozen, but for adapters in layers within layers."""
    keras.utils.set_random_seed(1)
    words = keras.Input((6,))
    x = keras.layers.Conv1D(4, 3, name="conv")(keras.layers.Reshape((6, 1))(words))
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    model = keras.Model(words, keras.layers.Dense(2, name="head")(keras.layers.Flatten()(x)))
    for layer in model.layers:
        layer.trainable = False
    for layer in model._flatten_layers(include_self=False):
        if layer.name in targets:
            layer.trainable = True
            layer.enable_lora(rank, lora_alpha=alpha)
    model.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize(
    ("alpha", "targets"),
    [
        pytest.param(None, ("query", "value"), marks=pytest.mark.long),
        (7, ("query", "conv")),
        pytest.param(0.5, ("head", "attention_output"), marks=pytest.mark.long),
    ],
    ids=["as keras-hub", "alpha above the rank", "alpha below the rank"],
)
async def test_rounds_of_adapters_are_fedavg_by_hand(alpha, targets):
    def build():
        return attending(alpha=alpha, targets=targets)

    strategy = FedAvg(batch_size=None)
    async with Federation(model=build, owners=simulated_owners(PARTS), strategy=strategy, progress=False) as federation:
        start = federation.weights
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert outcome.failure is None
        after = federation.weights
    expected = [np.zeros(array.shape) for array in start]
    for x, y in PARTS:
        model = build()
        model.set_weights(start)
        model.train_on_batch(x, y)
        expected = [total + len(x) / len(X) * array for total, array in zip(expected, model.get_weights(), strict=True)]
    trained = moving(build())
    assert any(trained)
    for before, array, right, moves in zip(start, after, expected, trained, strict=True):
        np.testing.assert_allclose(array, right, atol=1e-6)
        assert moves or (array == before).all()


def test_an_owner_knows_adapters_by_the_digest_of_the_model():
    plans = [blueprint.draw(attending(*said)) for said in ((2, None), (2, 7), (3, None))]
    for digest in (blueprint.digest, lambda plan: base_digest(plan, []), lambda plan: run_digest(plan, FedAvg(), 0, None)):
        assert len({digest(plan) for plan in plans}) == 3
    model = attending()
    task = Task(1, plans[1], model.get_weights(), LocalTraining(), sent=moving(model))
    admission = Admission(Policy(models=[blueprint_digest(model)]), None)
    with pytest.raises(UpdateHeldBack, match="digests of"):
        admission.admit(task, Data(PARTS[0]), hidden=False)


@pytest.fixture(scope="module")
def plan():
    return blueprint.draw(attending())


@pytest.mark.parametrize(
    "change",
    [
        lambda trained, adapters: "{",
        lambda trained, adapters: "[" * 100_000,
        lambda trained, adapters: [trained],
        lambda trained, adapters: [trained[1:], adapters],
        lambda trained, adapters: [[1] * len(trained), adapters],
        lambda trained, adapters: [trained, [[len(trained), 2, 2]]],
        lambda trained, adapters: [trained, [[-1, 2, 2]]],
        lambda trained, adapters: [trained, [[0, 2, 2]]],
        lambda trained, adapters: [trained, [[True, 2, 2]]],
        lambda trained, adapters: [trained, adapters + adapters],
        lambda trained, adapters: [trained, [[adapters[0][0], 0, 2]]],
        lambda trained, adapters: [trained, [[adapters[0][0], 2.0, 2]]],
        lambda trained, adapters: [trained, [[adapters[0][0], 2, float("inf")]]],
        lambda trained, adapters: [trained, [[adapters[0][0], 2, float("nan")]]],
        lambda trained, adapters: [trained, [[adapters[0][0], 2, "2"]]],
        lambda trained, adapters: [trained, [[adapters[0][0], 2, 2, 2]]],
    ],
)
def test_adapters_that_are_none_are_refused(change, plan):
    said = change(*json.loads(plan.adapters))
    with pytest.raises(ModelRefused, match="adapters that are none"):
        blueprint.build(dataclasses.replace(plan, adapters=said if isinstance(said, str) else json.dumps(said)))


def test_adapters_count_before_there_is_memory_for_them(plan):
    trained, adapters = json.loads(plan.adapters)
    adapters[0][1] = 1 << 40
    with pytest.raises(ModelRefused, match="more than"):
        blueprint.build(dataclasses.replace(plan, adapters=json.dumps([trained, adapters])))


def test_a_model_without_adapters_says_none():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert blueprint.draw(model).adapters == ""

"""What a private training on shares promises, from outside: an audit by `privacy`, and the accuracy of `PrivacyEngine`."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from sklearn.datasets import load_digits
from training_deployment import SCALE, Trainers

from privacy import Accountant, PrivacyEngine, audit
from privacy.plan import event
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan as plan_of
from protocols.owner.compiled import weights
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.losses import gradient_scale
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.private.settings import Private, fitted
from protocols.training.step import Plan, step

CANARIES, MULTIPLIER = 600, 0.5
FACTS = np.random.default_rng(1)


def scored(noise):
    """One step on those canaries that are included, each a feature of its own, and how far each feature's weight has moved."""
    canaries = audit.Canaries.of(np.eye(CANARIES, dtype=np.float32), np.full((CANARIES, 1), 5.0, np.float32))
    nodes, optimizer = (ProductLayer((0,), Weight("w", (CANARIES, 1))),), GradientDescent(1.0)
    private = fitted(Private(1.0, noise, CANARIES // 2), optimizer, 2 / (CANARIES // 2))
    plan = Plan(nodes, (CANARIES,), 1, (Variable("w", (CANARIES, 1)),), "mse", optimizer, private=private)
    x, y = canaries.x[canaries.included], canaries.y[canaries.included]
    moved = Trainers(step(plan, len(x))).real({"w": np.zeros((CANARIES, 1)), "x": x, "y": y})["w"]
    return moved.reshape(-1), canaries.included


def test_an_audit_of_one_run_finds_no_more_than_is_claimed_and_sees_noise_that_is_missing():
    """The strongest canaries there are: one example moves one weight, and all else stays. Against whom no server helps."""
    accountant = Accountant()
    accountant.record(event(1.0, MULTIPLIER * 2**0.5))
    claimed = accountant.epsilon(1e-5)
    guesses = (CANARIES // 4, CANARIES // 4)
    found = audit.one_run(*scored(MULTIPLIER), delta=1e-5, confidence=0.999, guesses=guesses).epsilon
    assert 0.1 * claimed < found <= claimed
    missing = audit.one_run(*scored(MULTIPLIER / 16), delta=1e-5, confidence=0.95, guesses=guesses).epsilon
    assert missing > 2 * found


def network(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([layers.Input((64,)), layers.Dense(32, "relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss, metrics=["accuracy"])
    return model


def on_shares(model, x, y, *, privacy, batch, epochs, seed):
    """What `SharedModel.fit` makes, in the simulator."""
    plan = plan_of(model)
    private = fitted(Private(privacy["max_grad_norm"], privacy["noise_multiplier"], batch), plan.optimizer, 1 / batch)
    plan = msgspec.structs.replace(plan, private=private)
    assert gradient_scale(plan.loss, plan.outputs) * plan.weight == 1
    values = {name: encode(one, SCALE) for name, one in zip(plan.shapes, weights(model), strict=True)}
    order, made = np.random.default_rng(seed), 0
    for _ in range(epochs):
        rows = order.permutation(len(x))
        for start in range(0, len(x), batch):
            some = rows[start : start + batch]
            given = {"x": encode(x[some], SCALE), "y": encode(np.eye(10)[y[some]], SCALE)}
            values = Trainers(step(plan, len(some)), str(made)).outputs({**values, **given})
            values, made = {name: values[name] for name in plan.shapes | plan.states}, made + 1
    assert not values["outside"].any()
    model.set_weights([decode(values[name], SCALE) for name in plan.shapes])
    return model


@pytest.mark.long
@pytest.mark.timeout(600)
def test_accuracy_is_that_of_the_privacy_engine_at_the_same_settings_within_one_percent():
    """The mean of four runs; on shares with the noise of both servers, sqrt(2) times as much."""
    data = load_digits()
    x, y = data.data.astype(np.float32) / 16, data.target
    privacy, batch, epochs = {"noise_multiplier": 0.6, "max_grad_norm": 1.0}, 120, 12
    found = []
    for seed in range(4):
        test = np.random.default_rng(seed).permutation(len(x)) < 357
        shares = on_shares(network(seed), x[~test], y[~test], privacy=privacy, batch=batch, epochs=epochs, seed=seed)
        engine = PrivacyEngine()
        plain = engine.make_private(network(seed), **privacy)
        plain.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        plain.fit(x[~test], y[~test], batch_size=batch, epochs=epochs, verbose=0)
        found.append([one.evaluate(x[test], y[test], verbose=0)[1] for one in (shares, plain)])
    mine, theirs = np.mean(found, axis=0)
    print(f"\non shares {mine:.4f}, PrivacyEngine {theirs:.4f}")
    assert min(mine, theirs) > 0.85
    assert mine > theirs - 0.01

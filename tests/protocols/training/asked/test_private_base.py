"""A private head on a frozen base: what the base gives of an example may be any number, and the example still adds at most C."""

import math

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.mpc.circuit import Circuit
from protocols.mpc.numbers.fixed_point import encode
from protocols.owner.compiled import plan as plan_of
from protocols.training.asked import FEATURES, BaseOutputs
from protocols.training.base import parts
from protocols.training.networks.losses import gradient_scale
from protocols.training.private.clipped import noisy
from protocols.training.private.settings import Private, fitted
from protocols.training.step import _network

FEATURE = 512.0
"""The largest number that can be stored."""


def one_value(x):
    return layers.Dense(2)(layers.Dense(3, trainable=False)(x))


def two_values(x):
    made = layers.Dense(3, trainable=False)(x)
    return layers.Add()([layers.Dense(2)(made), layers.Dense(2)(x)])


def cut(network, clip=1.0):
    """Base and head of a private network."""
    keras.utils.set_random_seed(1)
    start = keras.Input((4,))
    model = keras.Model(start, network(start))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    plan = plan_of(model)
    scale = gradient_scale(plan.loss, plan.outputs)
    private = fitted(Private(clip / scale, 0.0, 1), plan.optimizer, scale)
    return parts(msgspec.structs.replace(plan, private=private), 1)


def features(base, given):
    """What the workers hold of one example, as ring elements."""
    circuit = BaseOutputs(base).circuit(1)
    return Trainers(Circuit(circuit.ops, circuit.values, {FEATURES: circuit.wires[FEATURES]})).outputs(given)[FEATURES]


def norm(plan, given):
    """The length of the private sum of one example, exactly."""
    network = _network(plan, 1, 1.0)
    draft = network.draft.copy()
    gradients = noisy(draft, plan.private, network.gradients)
    bits = {name: bit for name, (_, bit) in gradients.items()}
    outputs = Trainers(draft.circuit({name: at for name, (at, _) in gradients.items()})).outputs(given)
    most = max(bits.values())
    square = sum((int(x) << (most - bits[name])) ** 2 for name, one in outputs.items() for x in one.view(np.int64).reshape(-1))
    return math.isqrt(square) * 2.0**-most


@pytest.mark.parametrize("size", [1.0, 100.0, 1000.0, 1e9], ids=["usual", "squares wrap around", "far outside", "any ring elements"])
@pytest.mark.parametrize("network", [one_value, two_values], ids=["one value", "several values"])
def test_no_example_adds_more_than_the_bound_whatever_its_features_are(network, size):
    base, head = cut(network)
    random = np.random.default_rng(3)
    found = []
    for _ in range(6):
        weights = {name: encode(random.normal(size=shape) * size, SCALE) for name, shape in base.shapes.items()}
        x = encode(random.uniform(-FEATURE, FEATURE, (1, 4)), SCALE)
        small = {name: encode(random.normal(size=shape) * 1e-3, SCALE) for name, shape in head.trained.items()}
        given = weights | small | {"x": features(base, weights | {"x": x}), "y": encode([[5.0, -5.0]], SCALE)}
        found.append(norm(head, given))
    assert max(found) <= head.private.clip
    assert max(found) > 0.9 or size > 1

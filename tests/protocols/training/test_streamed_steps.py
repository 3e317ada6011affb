"""Steps whose randomness comes in segments: bit for bit what the same randomness gives as a whole."""

import keras
import msgspec
import numpy as np
import pytest
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan, weights
from protocols.training.private.settings import Private
from protocols.training.step import step

BATCH = 4
CROSS_ENTROPY = keras.losses.CategoricalCrossentropy(from_logits=True)


def dense():
    return [layers.Input((5,)), layers.Dense(6, "relu"), layers.Dense(4, "sigmoid"), layers.Dense(3)]


def convolutions():
    return [layers.Input((6, 6, 2)), layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(), layers.Dense(3)]


KINDS = {
    "dense, a cross-entropy": (dense, CROSS_ENTROPY, lambda: keras.optimizers.SGD(0.1)),
    "dense, squares and velocities": (dense, "mse", lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True)),
    "convolutions, Adam": (convolutions, CROSS_ENTROPY, lambda: keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize("segment", ["each operation", "an eighth", "a half"])
@pytest.mark.parametrize("last", [False, True], ids=["within", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_segments_give_the_shares_and_bytes_of_the_whole_step(kind, last, segment):
    parts, loss, optimizer = KINDS[kind]
    keras.utils.set_random_seed(1)
    model = keras.Sequential(parts())
    model.compile(optimizer(), loss)
    planned = plan(model)
    circuit = step(planned, BATCH, last=last)
    size = circuit.layout.bytes_per_example
    most = {"each operation": 1, "an eighth": size // 8, "a half": size // 2}[segment]
    rng = np.random.default_rng(0)
    values = dict(zip(planned.shapes, (encode(array, SCALE) for array in weights(model)), strict=True))
    values |= {name: np.zeros(shape, np.uint64) for name, shape in planned.states.items()}
    values["x"] = encode(rng.uniform(-1, 1, (BATCH, planned.inputs)), SCALE)
    values["y"] = encode(np.eye(3)[rng.integers(0, 3, BATCH)], SCALE if loss == "mse" else 1.0)
    whole, found = Trainers(circuit, kind).run(values), Trainers(circuit, kind, segment=most).run(values)
    largest = max(circuit.layout.sizes(1).values())
    assert all(part.size(1) <= max(most, largest) for part in circuit.segments(most))
    assert len(circuit.segments(most)) > 1
    for i in (0, 1):
        assert found.results[i].keys() == whole.results[i].keys()
        for name, share in whole.results[i].items():
            np.testing.assert_array_equal(found.results[i][name], share, err_msg=name)
    assert found.sent == whole.sent
    assert found.rounds >= whole.rounds


def test_segments_of_a_private_step_have_the_noise_of_both_servers():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(dense())
    model.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY)
    planned = plan(model)
    values = dict(zip(planned.shapes, (encode(array, SCALE) for array in weights(model)), strict=True))
    values |= {name: np.zeros(shape, np.uint64) for name, shape in planned.states.items()}
    values |= {"x": encode(np.full((BATCH, 5), 0.1), SCALE), "y": encode(np.eye(3)[[0, 1, 2, 0]], SCALE)}
    clipped, noisy = (
        Trainers(step(msgspec.structs.replace(planned, private=Private(1.0, noise, BATCH, digits=24)), BATCH), segment=1).outputs(values)
        for noise in (0.0, 100.0)
    )
    for name in (one.name for one in planned.variables if len(one.shape) > 1):
        difference = decode(noisy[name] - clipped[name], SCALE)
        assert 0.5 < difference.std() / (0.1 / BATCH * 100.0 * 2**0.5) < 2

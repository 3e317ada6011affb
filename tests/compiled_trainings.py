"""Compiled Keras models that are trained on shares in the simulator and by `keras.Model.fit`, from the same weights in the same order."""

import keras
import msgspec
import numpy as np
from keras import layers
from training_deployment import SCALE, Trainers

from protocols.datasets.dataset import SharedDataset
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.owner.compiled import plan
from protocols.owner.compiled_loss import expects
from protocols.owner.compiled_optimizer import scheduled
from protocols.owner.fit.heads import heads
from protocols.owner.stored import described, encoded
from protocols.owner.targets import check_targets, check_told, fitted
from protocols.training.circuits import StepCircuits
from protocols.training.networks.losses import compared, metric_bits
from protocols.training.networks.micro_batches import none_yet
from protocols.training.terms import TrainingTerms

EXAMPLES, BATCH, EPOCHS = 10, 4, 2
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(EXAMPLES, 4)).astype(np.float32)
LABELS = RANDOM.integers(3, size=EXAMPLES)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
TRUTHS = (LABELS > 0).astype(np.int64)
MANY = RANDOM.integers(2, size=(EXAMPLES, 3)).astype(np.float32)
NUMBERS = RANDOM.normal(size=(EXAMPLES, 3)).astype(np.float32)
SGD = keras.optimizers.SGD


def model(outputs=3, last=None, hidden=(), optimizer=None, **settings):
    """Always with the same weights, some of whose outputs lie between the thresholds of metrics."""
    keras.utils.set_random_seed(2)
    built = keras.Sequential([layers.Input((4,)), *hidden, last or layers.Dense(outputs)])
    random = np.random.default_rng(2)
    for weight in built.trainable_weights:
        weight.assign(random.normal(size=weight.shape) * 0.6)
    built.compile(**{"optimizer": optimizer or SGD(0.1), "loss": "mse"} | settings)
    return built


def stored(name, array):
    values, content = encoded(name, np.asarray(array), None)
    return values, SharedDataset(described(name, values, content, handle=name.encode()), b"")


def trained(built, y, micro_batch=None):
    """What `SharedModel.fit(shuffle=False)` makes and tells: the weights in the end, loss and metric of each epoch."""
    (x, features), (targets, labels) = stored("x", X), stored("y", y)
    made = msgspec.structs.replace(fitted(plan(built), (labels,), BATCH), value=True)
    check_targets(expects(heads(built)[0]), labels, made.loss)
    check_told(made.loss, labels)
    terms = TrainingTerms(b"run", made, features.dataset, labels.dataset, BATCH, None, 1 << 29, False, "model", micro_batch=micro_batch)
    optimizer = scheduled(built, made.optimizer, 0, EPOCHS * terms.steps(0), made.weight)
    made = msgspec.structs.replace(made, optimizer=optimizer)
    steps = StepCircuits(msgspec.structs.replace(terms, plan=made))
    targets = terms.targets(targets)
    values = {name: encode(weight.numpy(), SCALE) for name, weight in zip(made.shapes, built.trainable_weights, strict=True)}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in made.states.items()}
    told, number = [], 0
    for epoch in range(EPOCHS):
        sums = {"metric": 0, "loss": 0}
        for index, rows in enumerate(terms.rows(epoch), 1):
            last = index == terms.steps(epoch)
            for part, (micro, some) in enumerate(steps.micro_batches(rows, last=last)):
                circuit, like = steps.at(micro, number), steps.like(micro)
                given = none_yet(circuit) | values | {"x": x[some], "y": targets[some]}
                found = Trainers(circuit, f"{number} {part}", like).outputs(given)
                sums = {name: total + found.pop(name) for name, total in sums.items()}
                values = {name: number for name, number in values.items() if name in made.shapes | made.states} | found
            number += 1
        assert not values["outside"].any()
        count, bits = EXAMPLES * compared(made.loss, made.outputs), (32 - made.sums.lost, metric_bits(made.loss, made.sums))
        found = [decode(sums[name], 2.0**-bit)[0] / count for name, bit in zip(("loss", "metric"), bits, strict=True)]
        told.append((made.weight * found[0], found[1]))
    values = made.finished(values)
    return [decode(values[name], SCALE) for name in made.shapes], np.array(told)


def same_as_keras(build, y, metric=None, near=0.02, micro_batch=None):
    weights, told = trained(build(), y, micro_batch)
    reference = build()
    before = [np.array(weight) for weight in reference.get_weights()]
    history = reference.fit(X, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0).history
    for one, expected, start in zip(weights, reference.get_weights(), before, strict=True):
        np.testing.assert_allclose(one, expected, atol=near * np.abs(expected - start).max() + 2e-4)
    np.testing.assert_allclose(told[:, 0], history["loss"], rtol=0.01, atol=0.005)
    if metric:
        np.testing.assert_allclose(told[:, 1], history[metric], rtol=2e-3, atol=1e-4)

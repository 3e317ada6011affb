"""Networks that are trained on shares in the simulator beside `keras.Model.fit`, from the same weights in the same order."""

import keras
import numpy as np
from training_deployment import SCALE, Trainers

from deployment import key
from protocols.mpc.numbers.fixed_point import decode, encode
from protocols.mpc.operations.drawn import Drawn
from protocols.owner.compiled import places, weights
from protocols.owner.compiled import plan as plan_of
from protocols.training.networks.ended import array_name
from protocols.training.step import step

EXAMPLES, BATCH, EPOCHS = 8, 4, 2


def compiled(build, rate=1 / 16, loss="mse"):
    """A model with random weights, all of which matter."""
    keras.utils.set_random_seed(1)
    model = build()
    random = np.random.default_rng(2)
    for weight in model.trainable_weights:
        size = (1 / np.prod(weight.shape[:-1])) ** 0.5 if "kernel" in weight.name else 0.2
        weight.assign(random.normal(size=weight.shape) * size + ("gamma" in weight.name))
    model.compile(keras.optimizers.SGD(rate), loss)
    return model


def data(model, classes=0):
    """Features, or indices below `classes`, and targets."""
    random = np.random.default_rng(3)
    shape = (EXAMPLES, *model.input_shape[1:])
    x = random.integers(classes, size=shape) if classes else random.normal(size=shape)
    return x.astype(np.float32), random.normal(size=(EXAMPLES, *model.output_shape[1:])).astype(np.float32)


def on_shares(model, x, y, *, epochs=EPOCHS, batch=BATCH):
    """The weights after some epochs, in the order of `get_weights`, and the metric of each step.

    Of several inputs or outputs `x` or `y` is a list.
    """
    after, told = zip(*steps_on_shares(model, x, y, epochs=epochs, batch=batch), strict=True)
    return after[-1], list(told)


def steps_on_shares(model, x, y, *, epochs=EPOCHS, batch=BATCH):
    """Yield the weights after each step, in the order of `get_weights` before the first one, and its metric."""
    plan = plan_of(model)
    values = {name: encode(number, SCALE) for name, number in zip(plan.shapes, weights(model), strict=True)}
    values |= {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
    before, circuit = [np.array(weight) for weight in model.get_weights()], step(plan, batch)
    both = {kind: given if isinstance(given, list) else [given] for kind, given in (("x", x), ("y", y))}
    arrays = {array_name(kind, place): one for kind, given in both.items() for place, one in enumerate(given)}
    count = len(arrays["x"])
    for number in range(epochs * count // batch):
        rows = slice(number * batch % count, number * batch % count + batch)
        given = {name: encode(array[rows].reshape(batch, -1), SCALE) for name, array in arrays.items()}
        values = Trainers(circuit, str(number)).outputs(values | given)
        metric = decode(values.pop("metric"), SCALE**2)[0]
        after = list(before)
        for place, name in zip(places(model), plan.shapes, strict=False):
            after[place] = decode(values[name], SCALE).reshape(after[place].shape)
        yield after, metric
    assert not values["outside"].any()


def drawn_tables(circuit, number):
    """What is drawn in a step of `on_shares`, by name."""
    return {op.name: op.table(key(f"drawn{number}")) for op in circuit.ops if isinstance(op, Drawn)}

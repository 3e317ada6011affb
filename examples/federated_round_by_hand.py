"""One federated round by hand: three owners train on digits of their own, and only what they have learned is averaged.

Nothing here is a federation yet: it is what one does, step by step, so that each value can be looked at.
"""

import keras
import numpy as np
from keras import layers

import digits
from federated import FedAvg, Updates, partition

OWNERS = ["north", "east", "west"]


def build_model() -> keras.Model:
    """A softmax regression."""
    model = keras.Sequential([layers.Input((28, 28, 1)), layers.Flatten(), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


keras.utils.set_random_seed(1)
data = digits.load()
parts = partition(data.x_train, data.y_train, owners=3, by="label", seed=1)
model = build_model()
start = model.get_weights()
print(f"before: {model.evaluate(data.x_test, data.y_test, verbose=0)[1]:.1%} of 2,000 test images are right")

deltas, examples = [], []
for name, (x, y) in zip(OWNERS, parts, strict=True):
    model.set_weights(start)  # each begins at the same global weights
    model.fit(x, y, batch_size=32, verbose=0)
    alone = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
    deltas.append([after - before for after, before in zip(model.get_weights(), start, strict=True)])
    examples.append(len(x))
    print(f"{name} has {len(x)} images of the digits {sorted(set(y.tolist()))}; alone it gets to {alone:.1%}")

mean = [np.average(arrays, axis=0, weights=examples) for arrays in zip(*deltas, strict=True)]
weights, _ = FedAvg().step(1, start, Updates(mean), {})
model.set_weights(weights)
print(f"together: {model.evaluate(data.x_test, data.y_test, verbose=0)[1]:.1%}")

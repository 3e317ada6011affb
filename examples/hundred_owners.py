"""A hundred owners in one process: each holds about 80 images of a few digits, and a model is trained on all of them.

Owners drop out, and no two have the same kinds of digits, yet the model comes to within a point of one that is trained on all images in
one place. Give addresses instead of `simulated_owners(...)`, and the same script runs on a hundred machines.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

import keras
from keras import layers

import digits
from federated import FedAvgM, Federation, PlainMean, partition, simulated_owners


def build_model() -> keras.Model:
    """A small convolutional network."""
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


def centralised(data: digits.Digits) -> float:
    """What one gets who has all images."""
    keras.utils.set_random_seed(1)
    model = build_model()
    model.fit(data.x_train, data.y_train, batch_size=32, epochs=8, verbose=0)
    return float(model.evaluate(data.x_test, data.y_test, verbose=0)[1])


async def main(rounds: int) -> None:
    """Three owners in ten take part in a round; one in twenty of them drops out."""
    data = digits.load()
    central = centralised(data)
    keras.utils.set_random_seed(1)
    parts = partition(data.x_train, data.y_train, owners=100, alpha=0.5, seed=0)
    federation = Federation(
        model=build_model,
        owners=simulated_owners(parts, dropout=0.05, seed=7),
        strategy=FedAvgM(fraction=0.3, local_epochs=1, batch_size=16, beta=0.9),
        aggregation=PlainMean(),
        evaluation=(data.x_test, data.y_test),
    )
    async with federation:
        async for outcome in federation.rounds(rounds):
            print(outcome, flush=True)
    picture = Path(tempfile.gettempdir()) / "hundred_owners.png"
    federation.history.plot(picture)
    accuracy = federation.history[-1].metrics["test_accuracy"]
    print(f"the curves are in {picture}")
    print(f"2,000 test images: {accuracy:.1%} are right; trained in one place: {central:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    asyncio.run(main(parser.parse_args().rounds))

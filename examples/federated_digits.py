"""Federated learning on one machine: 20 owners who each hold a few kinds of digits train one model together."""

import asyncio

import keras
from keras import layers

import digits
from federated import FedAvg, Federation, PlainMean, partition, simulated_owners


def build_model() -> keras.Model:
    """A small convolutional network."""
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


async def main() -> None:
    """Ten rounds; one owner in twenty drops out of each."""
    keras.utils.set_random_seed(1)
    data = digits.load()
    parts = partition(data.x_train, data.y_train, owners=20, alpha=0.5, seed=0)
    federation = Federation(
        model=build_model,
        owners=simulated_owners(parts, dropout=0.05, seed=7),
        strategy=FedAvg(local_epochs=2, batch_size=32),
        aggregation=PlainMean(),
    )
    async with federation:
        async for outcome in federation.rounds(10):
            print(outcome, flush=True)
    accuracy = federation.model.evaluate(data.x_test, data.y_test, verbose=0)[1]
    print(f"accuracy on 2,000 test images: {accuracy:.1%}")


if __name__ == "__main__":
    asyncio.run(main())

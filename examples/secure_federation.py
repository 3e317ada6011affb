"""Ten owners train one model on digits, and nobody sees what one of them has learned: not the aggregator, not the servers.

First in the single-server form, where owners mask what they send and one of them drops out in every round; then in the two-server form, on
two worker processes that are started for it.
"""

import asyncio

import keras
from keras import layers

import digits
from federated import Aggregation, FedAvg, Federation, SecureAggregation, SharedAggregation, partition, simulated_owners
from protocols import Cluster, Worker

ROUNDS = 4


def build_model() -> keras.Model:
    """A small network."""
    model = keras.Sequential([layers.Input((28, 28, 1)), layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.2), loss=loss, metrics=["accuracy"])
    return model


async def train(aggregation: Aggregation, data: digits.Digits) -> float:
    """The accuracy after a few rounds."""
    keras.utils.set_random_seed(1)
    parts = partition(data.x_train, data.y_train, owners=10, alpha=1.0, seed=0)
    federation = Federation(
        model=build_model,
        owners=simulated_owners(parts, dropouts={n: [f"owner-{n}"] for n in range(1, ROUNDS + 1)}),
        strategy=FedAvg(local_epochs=2, batch_size=32),
        aggregation=aggregation,
        evaluation=(data.x_test, data.y_test),
    )
    async with federation:
        async for outcome in federation.rounds(ROUNDS):
            print(" ", outcome, flush=True)
    return federation.history[-1].metrics["test_accuracy"]


async def main() -> None:
    """Both forms."""
    data = digits.load()
    print("masked, one server:")
    masked = await train(SecureAggregation(threshold=0.7), data)
    print("shared, two servers:")
    async with Cluster(Worker("localhost:0"), Worker("localhost:0"), crypto_provider=Worker("localhost:0")) as cluster:
        shared = await train(SharedAggregation(cluster), data)
    print(f"accuracy on 2,000 test images: masked {masked:.1%}, shared {shared:.1%}")


if __name__ == "__main__":
    asyncio.run(main())

"""Train on digits that nobody sees, serve what nobody knows: `python examples/trained_and_served.py [images] [--equals]`.

Images, labels and weights are secret-shared between two servers. The trained shares are served as they lie: a client asks them, the owner
trains on, and the client asks again. No weight is opened at any time, not even to the owner. Three worker processes are started here.
"""

import asyncio
import sys

import keras
from keras import layers

import digits
from protocols import Cluster, Worker, connect, share

ASKED = 12


def build() -> keras.Model:
    """784-32-10 with ReLU and a softmax, plain gradient descent."""
    keras.utils.set_random_seed(1)
    hidden = [layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([layers.Input((28, 28, 1)), *hidden], name="digits")
    model.compile(optimizer=keras.optimizers.SGD(0.2), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


async def main(images: int, *, equals: bool) -> None:
    """Trains, serves, trains on and serves again."""
    data = digits.load()
    x, y = data.x_train[:images], data.y_train[:images]
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, me) if equals else Cluster(julia, greg, crypto_provider=me) as cluster:
        shared = await share(build(), cluster)
        for version in (1, 2):
            stops = [keras.callbacks.EarlyStopping("val_accuracy", restore_best_weights=True)]
            async for epoch in shared.fit(x, y, epochs=2, batch_size=64, validation_split=0.2, callbacks=stops):
                print(epoch, flush=True)
            metrics = await shared.evaluate(data.x_test[:200], data.y_test[:200])
            print(f"version {version}: accuracy {metrics['accuracy']:.1%} on 200 test images", flush=True)
            serving = asyncio.create_task(shared.serve(num_requests=1, ahead=ASKED))
            while not serving.done() and not await shared.prepared():
                pass
            async with connect(cluster, "digits") as remote:
                answers = await remote.query(data.x_test[:ASKED])
            await serving
            right = int((answers.argmax(1) == data.y_test[:ASKED]).sum())
            print(f"version {version}: {right} of {ASKED} answers to the client are right", flush=True)
    print("no weight was opened", flush=True)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--equals"]
    asyncio.run(main(int(given[0]) if given else 2000, equals="--equals" in sys.argv))

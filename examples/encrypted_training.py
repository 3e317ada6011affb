"""Train on digits that nobody sees: `python examples/encrypted_training.py [images] [epochs] [dense|convolutional] [--equals]`.

Images, labels and weights are secret-shared between two servers; the crypto provider sees masks only. With `--equals` there is no crypto
provider: the three workers are equals, and one of them helps the other two. Three worker processes are started here. At the end the owner
reveals the trained model and compares it with one that Keras has trained in the clear, in the same order of the images.
"""

import asyncio
import sys

import keras
from keras import layers

import digits
from protocols import Cluster, Worker, share


def build(kind: str) -> keras.Model:
    """784-128-10 with ReLU, or a convolution and a max pooling before the last layer; plain gradient descent."""
    keras.utils.set_random_seed(1)
    hidden = {
        "dense": [layers.Flatten(), layers.Dense(128, activation="relu")],
        "convolutional": [layers.Conv2D(8, 5, strides=2, activation="relu"), layers.MaxPooling2D(), layers.Flatten()],
    }
    model = keras.Sequential([layers.Input((28, 28, 1)), *hidden[kind], layers.Dense(10)], name="digits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
    return model


async def main(images: int, epochs: int, kind: str, *, equals: bool) -> None:
    """Trains on shares, then in the clear, and prints both accuracies."""
    data = digits.load()
    x_train, y_train = data.x_train[:images], data.y_train[:images]
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, me) if equals else Cluster(julia, greg, crypto_provider=me) as cluster:
        x, y = await cluster.store("features", x_train), await cluster.store("labels", y_train)
        shared = await share(build(kind), cluster)
        async for epoch in shared.fit(x, y, epochs=epochs, batch_size=128, shuffle=False):
            print(epoch, flush=True)
        trained = await shared.reveal()
    plain = build(kind)
    plain.fit(x_train, y_train, epochs=epochs, batch_size=128, shuffle=False, verbose=0)
    for name, model in (("shares", trained), ("the clear", plain)):
        accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
        print(f"trained on {name}: accuracy {accuracy:.1%} on 2,000 test images", flush=True)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--equals"]
    images, epochs, kind = (*given, *("8000", "1", "dense")[len(given) :])
    asyncio.run(main(int(images), int(epochs), kind, equals="--equals" in sys.argv))

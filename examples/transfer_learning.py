"""A hospital's few images, and a base that somebody else has trained: `python examples/transfer_learning.py [images]`.

The base has seen thousands of images in the clear, of the digits from 0 to 4. The hospital has a few hundred of the digits from 5 to 9,
which nobody may see: images, labels and the new head are secret-shared between two servers, and so is the base, for it is its owner's.
The base is frozen: it is computed once for all epochs. Beside it, the same head with Keras in the clear, and the same network trained on
shares from the beginning, without the base. Three worker processes are started here; it takes a minute.
"""

import asyncio
import sys

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

import digits
from protocols import Cluster, Worker, share

FIRST, BATCH, EPOCHS, TESTED = 5, 32, 6, 400

Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def features() -> keras.Model:
    """Two convolutions with BatchNormalization: 28 x 28 pixels to 32 features."""
    return keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(32, 3, strides=2, use_bias=False),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
        ],
        name="base",
    )


def with_head(base: keras.Model, name: str) -> keras.Model:
    """A head of two layers for five classes on the base, compiled."""
    head = [layers.Dense(32, activation="relu"), layers.Dense(FIRST)]
    model = keras.Sequential([layers.Input((28, 28, 1)), base, *head], name=name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def learned_elsewhere(data: digits.Digits) -> keras.Model:
    """A base that tells the digits from 0 to 4 apart, frozen."""
    seen = data.y_train < FIRST
    model = with_head(features(), "elsewhere")
    model.fit(data.x_train[seen], data.y_train[seen], batch_size=64, epochs=4, verbose=0)
    base = model.layers[0]
    base.trainable = False
    return base


async def on_shares(cluster: Cluster, model: keras.Model, few: Images, tested: Images) -> float:
    """Train on shares; return the accuracy on other images, computed on shares as well."""
    async with await share(model, cluster) as shared:
        async for epoch in shared.fit(*few, epochs=EPOCHS, batch_size=BATCH, shuffle=False):
            print(f"{model.name}, {epoch}", flush=True)
        metrics = await shared.evaluate(*tested)
    return metrics["accuracy"]


async def main(images: int) -> None:
    """Trains a head on a base, in the clear and on shares, and the same network without what the base has learned."""
    keras.utils.set_random_seed(1)
    data = digits.load()
    mine, others = data.y_train >= FIRST, data.y_test >= FIRST
    few = data.x_train[mine][:images], data.y_train[mine][:images] - FIRST
    tested = data.x_test[others][:TESTED], data.y_test[others][:TESTED] - FIRST
    model = with_head(learned_elsewhere(data), "on_the_base")
    start = model.get_weights()
    model.fit(*few, epochs=EPOCHS, batch_size=BATCH, shuffle=False, verbose=0)
    clear = model.evaluate(*tested, verbose=0, return_dict=True)["accuracy"]
    model = with_head(model.layers[0], "on_the_base")  # compiled anew, as training on shares begins
    model.set_weights(start)
    julia, greg, me = (Worker("localhost:0") for _ in range(3))
    async with Cluster(julia, greg, crypto_provider=me) as cluster:
        head = await on_shares(cluster, model, few, tested)
        whole = await on_shares(cluster, with_head(features(), "without_it"), few, tested)
    print(f"{len(tested[1])} other images: {head:.1%} with the base; {clear:.1%} with Keras in the clear; {whole:.1%} without the base")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 480))

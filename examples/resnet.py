"""ResNet-20 on digits in colour, asked without showing it an image: `python examples/resnet.py`.

The network of He et al. (2016, arXiv:1512.03385, section 4.2) for images of 32 x 32 x 3. Batch normalisation uses its moving averages, as
it does in Keras at inference, and costs nothing: it is folded into the convolutions.
"""

import argparse
import asyncio
import contextlib

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

import digits
from protocols import Cluster, RemoteModel, Worker, connect, share
from protocols.errors import NotServed

Images = npt.NDArray[np.float32]


def build() -> keras.Model:
    """Three stages of three blocks with 16, 32 and 64 channels; no softmax."""
    inputs = layers.Input((32, 32, 3))
    x = normalised(inputs, 16, 3)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(3):
            strides = 2 if stage > 0 and block == 0 else 1
            shortcut = x if strides == 1 else normalised(x, filters, 1, strides, relu=False)
            y = normalised(x, filters, 3, strides)
            x = layers.ReLU()(layers.Add()([shortcut, normalised(y, filters, 3, relu=False)]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name="resnet20")


def normalised(x: keras.KerasTensor, filters: int, size: int, strides: int = 1, *, relu: bool = True) -> keras.KerasTensor:
    """A convolution, batch normalisation, and a rectifier or none."""
    x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x) if relu else x


def colour(images: Images, seed: int) -> Images:
    """Digits of 28 x 28 in a colour, on another, of 32 x 32 x 3."""
    random = np.random.default_rng(seed)
    ink = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    front, back = random.uniform(0.5, 1, (len(images), 1, 1, 3)), random.uniform(0, 0.5, (len(images), 1, 1, 3))
    return (ink * front + (1 - ink) * back).astype(np.float32)


def train(images: int = 3200) -> keras.Model:
    """A pass over some of the training images; prints the accuracy on others."""
    data = digits.load()
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=loss, metrics=["accuracy"])
    model.fit(colour(data.x_train[:images], 0), data.y_train[:images], batch_size=32, verbose=0)
    accuracy = model.evaluate(colour(data.x_test[:500], 1), data.y_test[:500], verbose=0)[1]
    print(f"trained on {images:,} images, accuracy on 500 others: {accuracy:.1%}", flush=True)
    return model


async def answer(remote: RemoteModel, x: Images) -> npt.NDArray[np.float64]:
    """The logits, as soon as the owner, who starts beside us, serves."""
    while True:
        with contextlib.suppress(NotServed):
            return np.asarray(await remote.query(x), np.float64)
        await asyncio.sleep(0.01)


async def main(images: int) -> None:
    """Trains, shares, and asks about three images."""
    data, model = digits.load(), train(images)
    x, samples = colour(data.x_test[:3], 1), colour(data.x_train[:64], 2)
    async with (
        Cluster(Worker("localhost:0"), Worker("localhost:0"), crypto_provider=Worker("localhost:0")) as cluster,
        await share(model, cluster, calibration=samples) as shared,
        connect(cluster, "resnet20") as remote,
    ):
        serving = asyncio.create_task(shared.serve(1))
        logits = await answer(remote, x)
        await serving
        assert remote.last is not None
        print(f"Actual: {data.y_test[:3].tolist()}, predicted without seeing them: {logits.argmax(1).tolist()}")
        print(f"furthest from Keras: {np.abs(logits - model.predict(x, verbose=0)).max():.5f}")
        print(f"{remote.last.seconds:.2f} s, {remote.last.rounds} rounds")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3200, help="images to train on, up to 8,000")
    asyncio.run(main(parser.parse_args().images))

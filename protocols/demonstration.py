"""Encrypted prediction on this machine, with nothing but what is in the package: `confide demo`.

`digits.npz` has the first 1,500 training and 100 test images of `examples/mnist_10k.npz` (see README.md for the credit). A model is
trained on them, which takes seconds, rather than shipped: so what is shared is what was seen to be trained, by the Keras that is here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.keras_models.installed import require_keras
from privacy.keras_models.quiet import begin_keras
from protocols.client.connection import connect
from protocols.clusters.worker import Worker
from protocols.concurrency import at_once
from protocols.errors import InputError
from protocols.owner.cluster import Cluster
from protocols.owner.placement import share

if TYPE_CHECKING:
    import keras

EPOCHS = 8
MOST = 100
"""Images that can be asked for."""


class Digits(NamedTuple):
    """Images (n, 28, 28, 1) float32 from 0 to 1, labels (n,) from 0 to 9."""

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


def digits() -> Digits:
    """1,500 images to train on and 100 to ask for."""
    with resources.files("protocols").joinpath("digits.npz").open("rb") as source, np.load(source) as file:
        x_train, x_test = (file[name][..., None].astype(np.float32) / 255 for name in ("x_train", "x_test"))
        return Digits(x_train, file["y_train"].astype(np.int64), x_test, file["y_test"].astype(np.int64))


def trained(data: Digits) -> keras.Model:
    """Train a small CNN for a few seconds; no softmax: the largest logit is the answer."""
    require_keras("the demonstration")
    begin_keras()
    import keras  # noqa: PLC0415  takes seconds, and workers never need it
    from keras import layers  # noqa: PLC0415

    keras.utils.set_random_seed(1)
    stack = [
        layers.Conv2D(16, 3),
        layers.AveragePooling2D(2),
        layers.ReLU(),
        layers.Conv2D(32, 3),
        layers.AveragePooling2D(2),
        layers.ReLU(),
    ]
    model = keras.Sequential([layers.Input((28, 28, 1)), *stack, layers.Flatten(), layers.Dense(10)], name="digits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=loss, metrics=["accuracy"])
    model.fit(data.x_train, data.y_train, batch_size=32, epochs=EPOCHS, verbose=0)
    return model


async def demonstrate(images: int, say: Callable[[str], None]) -> None:
    """Train, share the model among three worker processes, and ask it for images one by one.

    Args:
        images: how many, from 1 to 100.
        say: is told in a line what happens.

    Raises:
        InputError: so many images are not there.
        ProtocolError: workers cannot be started, or do not answer.
    """
    if not 1 <= images <= MOST:
        raise InputError(f"{images} images were asked for; {MOST} are there")
    data = digits()
    model = await asyncio.to_thread(trained, data)
    accuracy = model.evaluate(data.x_test, data.y_test, verbose=0)[1]
    say(f"trained a Keras model on {len(data.x_train):,} images in {EPOCHS} epochs, accuracy on {MOST} others: {accuracy:.0%}")
    expected = model.predict(data.x_test[:images], verbose=0)
    first, second, provider = (Worker("localhost:0") for _ in range(3))
    async with (
        Cluster(first, second, crypto_provider=provider) as cluster,
        await share(model, cluster, name="digits") as shared,
    ):
        say(f"shared it among three processes: servers at {first.address} and {second.address}, crypto provider at {provider.address}")
        answers: list[npt.NDArray[np.float64]] = []
        await at_once(shared.serve(images), _ask(cluster, data, images, answers, say))
    same = int((np.argmax(answers, axis=1) == expected.argmax(1)).sum())
    say(f"the same answer as Keras for {same} of {images} images, largest error of a logit {np.abs(answers - expected).max():.5f}")


async def _ask(cluster: Cluster, data: Digits, images: int, answers: list[npt.NDArray[np.float64]], say: Callable[[str], None]) -> None:
    """Add the logits of each image to the answers."""
    async with connect(cluster, "digits") as remote:
        for i in range(images):
            answers.append((await remote.query(data.x_test[i : i + 1]))[0])
            cost = remote.last
            assert cost is not None
            say(
                f"image {i}: actual {data.y_test[i]}, predicted {answers[i].argmax()}; {cost.seconds * 1e3:.1f} ms, {cost.rounds} rounds, "
                f"{cost.servers[0].sent:,} bytes between the servers each way"
            )

"""All of it together: data of two hospitals, a model that nobody sees in training, and a bound for what it says about each image.

`python examples/all_together.py [images] [epochs]`. Two hospitals leave shares of their digits with three workers and go. A third party
trains a network on all of them: neither data nor weights nor gradients are seen by anybody. Each image's gradient is clipped, and each of
the two servers adds noise to the sum, on shares, so that what is revealed in the end says little about any one image. What that costs is
written to a ledger before each epoch.
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from two_hospitals import HOSPITALS, leave, worker

import digits
from privacy import DPSGD, Ledger
from protocols import Cluster, Worker, share

PRIVACY = DPSGD(noise_multiplier=4.0, max_grad_norm=1.0, max_epsilon=3.0, delta=1e-5)


def build() -> keras.Model:
    """784-32-10 with ReLU."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((784,)), layers.Dense(32, activation="relu"), layers.Dense(10)], name="digits")
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


async def train(root: Path, urls: list[str], epochs: int, batch_size: int) -> keras.Model:
    """The third party: it is told how much is spent, and gets the model in the end."""
    julia, greg, me = map(Worker, urls)
    ledger = Ledger(root / "ledger.sqlite", data="digits of both", max_epsilon=3.0, delta=1e-5)
    async with Cluster(julia, greg, crypto_provider=me, auto_managed=False) as cluster:
        x = await cluster.load("north.x", "south.x", grants=root / "grants")
        y = await cluster.load("north.y", "south.y", grants=root / "grants")
        async with await share(build(), cluster) as shared:
            async for epoch in shared.fit(x, y, epochs=epochs, batch_size=batch_size, privacy=PRIVACY, ledger=ledger):
                print(epoch, flush=True)
            return await shared.reveal()


async def main(root: Path, images: int, epochs: int) -> None:
    """Runs all parties, one after the other."""
    data = digits.load()
    x, y = data.x_train[:images].reshape(-1, 784), data.y_train[:images]
    for name, rows in zip(HOSPITALS, (slice(None, images // 3), slice(images // 3, None)), strict=True):
        np.savez(root / f"{name}.npz", x=x[rows], y=y[rows])
    started = await asyncio.gather(*(worker(root, name) for name in ("julia", "greg", "me")))
    processes, urls = [process for process, _ in started], [url for _, url in started]
    try:
        for name in HOSPITALS:
            await leave(root, name, urls)
        trained = await train(root, urls, epochs, batch_size=images // 10)
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await process.communicate()
    accuracy = trained.evaluate(data.x_test.reshape(-1, 784), data.y_test, verbose=0)[1]
    print(f"trained on shares, with noise: accuracy {accuracy:.1%} on 2,000 test images", flush=True)


if __name__ == "__main__":
    arguments = [int(number) for number in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder), *arguments, *(4000, 6)[len(arguments) :]))

"""All of it together: data of two hospitals, a model that nobody sees, a bound for what it says about each image, answers with noise.

`python examples/all_together.py [images] [epochs]`. Two hospitals leave shares of their digits with three workers and go. A third party
trains a network on all of them: neither data nor weights nor gradients are seen by anybody. Each image's gradient is clipped, and each of
the two servers adds noise to the sum, on shares, so that the model says little about any one image, however often it is asked. What that
costs is written to a ledger before each epoch. The trained shares are served as they lie: no weight is opened, not even in the end.
Accuracy is computed on shares. A client's answers are clipped and get noise of their own, which limits, with the number of answers, how
much it can learn of the weights.
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from two_hospitals import HOSPITALS, leave, worker

import digits
from privacy import DPSGD, Ledger
from protocols import Cluster, NoisyAnswers, Worker, connect, share

Array = npt.NDArray[Any]
PRIVACY = DPSGD(noise_multiplier=4.0, max_grad_norm=1.0, max_epsilon=3.0, delta=1e-5)
ANSWERS = NoisyAnswers(clip=2.0, noise_multiplier=0.05, max_epsilon=4000.0)  # of a whole model: it costs much, see `NoisyAnswers`
ASKED, TESTED = 12, 500


def build() -> keras.Model:
    """784-32-10 with ReLU."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((784,)), layers.Dense(32, activation="relu"), layers.Dense(10)], name="digits")
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


async def train_and_serve(root: Path, urls: list[str], epochs: int, batch_size: int, new: tuple[Array, Array]) -> None:
    """The third party: it is told how much is spent, and how many test images are right. A client of it gets answers."""
    julia, greg, me = map(Worker, urls)
    x_new, y_new = new
    ledger = Ledger(root / "ledger.sqlite", data="digits of both", max_epsilon=3.0, delta=1e-5)
    async with Cluster(julia, greg, crypto_provider=me, auto_managed=False) as cluster:
        x = await cluster.load("north.x", "south.x", grants=root / "grants")
        y = await cluster.load("north.y", "south.y", grants=root / "grants")
        async with await share(build(), cluster, answers=ANSWERS) as shared:
            async for epoch in shared.fit(x, y, epochs=epochs, batch_size=batch_size, privacy=PRIVACY, ledger=ledger):
                print(epoch, flush=True)
            metrics = await shared.evaluate(x_new[:TESTED], y_new[:TESTED])
            print(f"trained on shares, with noise: accuracy {metrics['accuracy']:.1%} on {TESTED} test images", flush=True)
            promised = shared.guarantee
            assert promised is not None
            print(f"a client gets {promised.answers} answers: epsilon {promised.epsilon:,.0f} about all weights together", flush=True)
            serving = asyncio.create_task(shared.serve(num_requests=1, ahead=ASKED))
            while not serving.done() and not await shared.prepared():
                pass
            async with connect(cluster, "digits") as remote:
                answers = await remote.query(x_new[:ASKED])
            await serving
    right = int((answers.argmax(1) == y_new[:ASKED]).sum())
    print(f"{right} of {ASKED} noisy answers to the client are right; no weight was opened", flush=True)


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
        new = data.x_test.reshape(-1, 784), data.y_test
        await train_and_serve(root, urls, epochs, images // 10, new)
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await process.communicate()


if __name__ == "__main__":
    arguments = [int(number) for number in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder), *arguments, *(4000, 6)[len(arguments) :]))

"""Two hospitals leave shares of their digits with three workers and go; a third party trains on all of them and sees none.

`python examples/two_hospitals.py [images] [epochs]`. Each worker keeps its part of the data and of the training in a folder of its own,
encrypted. After the first epoch one of the servers is killed, as with a power cut; it is started again, and the training goes on from
the last checkpoint.
"""

import asyncio
import contextlib
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from pathlib import Path

import keras
import numpy as np
from keras import layers

import digits
from protocols import Cluster, Worker, share
from protocols.errors import WorkerLost

CONFIDE = (sys.executable, "-m", "federated.command")  # the command `confide`
HOSPITALS = ("north", "south")


async def worker(root: Path, name: str, address: str = "localhost:0") -> tuple[Process, str]:
    """`confide worker` with a folder for shares; the process, and where it is reached."""
    process = await create_subprocess_exec(*CONFIDE, "worker", address, "--data", str(root / name), "--log-level", "warning", stdout=PIPE)
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().split()[1]


async def leave(root: Path, name: str, urls: list[str]) -> None:
    """`confide share` at a hospital: its images and labels, both in one file."""
    among = [word for url in urls for word in ("--worker", url)]
    command = [*CONFIDE, "share", str(root / f"{name}.npz"), *among, "--classes", "10", "--out", str(root / "grants")]
    process = await create_subprocess_exec(*command)
    if await process.wait():
        raise SystemExit(f"{name} could not share its data")


def build() -> keras.Model:
    """784-64-10 with ReLU and momentum."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((784,)), layers.Dense(64, activation="relu"), layers.Dense(10)], name="digits")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model


async def train(root: Path, urls: list[str], epochs: int, kill: Process | None = None) -> keras.Model:
    """The script of the third party: the same whenever it is started."""
    julia, greg, me = map(Worker, urls)
    async with Cluster(julia, greg, crypto_provider=me, auto_managed=False) as cluster:
        x = await cluster.load("north.x", "south.x", grants=root / "grants")
        y = await cluster.load("north.y", "south.y", grants=root / "grants")
        async with await share(build(), cluster) as shared:
            async for epoch in shared.fit(x, y, epochs=epochs, batch_size=128, folder=root / "training", resume=True, save_every=5):
                print(epoch, flush=True)
                if kill is not None:
                    kill.kill()
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
        with contextlib.suppress(WorkerLost):
            await train(root, urls, epochs, kill=processes[1])
        print("greg was killed and is started again", flush=True)
        await processes[1].wait()
        processes[1], _ = await worker(root, "greg", urls[1].partition("://")[2])
        trained = await train(root, urls, epochs)
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
            await process.communicate()
    accuracy = trained.evaluate(data.x_test.reshape(-1, 784), data.y_test, verbose=0)[1]
    print(f"trained on shares of both: accuracy {accuracy:.1%} on 2,000 test images", flush=True)


if __name__ == "__main__":
    arguments = [int(number) for number in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder), *arguments, *(4000, 3)[len(arguments) :]))

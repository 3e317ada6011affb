"""Small Keras models, real worker processes on loopback, and randomness that comes in segments."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from protocols import Cluster, Worker
from protocols.serving.supply import Supply


def workers() -> list[Worker]:
    return [Worker("localhost:0") for _ in range(3)]


@pytest.fixture(scope="session")
def running() -> Iterator[list[str]]:
    """The addresses of three worker processes, for all tests: it takes them two seconds to start."""
    command = [sys.executable, "-m", "protocols.workers.worker_process", "localhost:0"]
    with contextlib.ExitStack() as stack:  # closing standard input ends them
        start = (subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3))
        processes = [stack.enter_context(process) for process in start]
        for process in processes:
            process.stdin.write(f"{os.urandom(32).hex()} {os.getpid()}\n")
            process.stdin.flush()
        yield [process.stdout.readline().split()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]


@pytest.fixture
async def cluster(running):
    """A cluster of workers that stay. What a test leaves there is gone with the block."""
    first, second, third = map(Worker, running)
    async with Cluster(first, second, crypto_provider=third) as cluster:
        yield cluster


@pytest.fixture
async def own_cluster():
    """A cluster of new workers, which a test may kill."""
    first, second, third = workers()
    async with Cluster(first, second, crypto_provider=third) as cluster:
        yield cluster


@pytest.fixture
def largest(monkeypatch):
    """The most bytes that any supply has held, and the memory that it may hold."""
    seen = []
    run = Supply._prepared

    async def noted(self, number, dealt):
        seen.append((self.held, self.reserved, number))
        await run(self, number, dealt)

    monkeypatch.setattr(Supply, "_prepared", noted)
    return seen


async def other_size(given, number, words, piece):
    await piece(given, number, words[1:])


async def again(given, number, words, piece):
    await piece(given, number, words)
    await piece(given, number, words)


async def one_before(given, number, words, piece):
    await piece(given, number + 1, words)


async def never(given, number, words, piece):
    await asyncio.Event().wait()


@pytest.fixture(params=[other_size, again, one_before, never])
def fault(request):
    """What a provider does with a segment in place of `piece(given, number, words)`, which sends it."""
    return request.param


def small_cnn(name: str = "small", seed: int = 0):
    """8 x 8 images, four classes."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.AveragePooling2D(2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ],
        name=name,
    )


@pytest.fixture(scope="session")
def model():
    return small_cnn()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="session")
def expected(model, images):
    return model.predict(images, verbose=0)

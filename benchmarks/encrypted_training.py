"""What it costs to train on shares: `python -m benchmarks.encrypted_training [--network mlp|A|B|D] [--optimizer NAME] [--epochs N]`.

Softmax cross-entropy, batch 128, 8,000 digits, everything secret: three worker processes on loopback, two servers and a crypto provider
or, with --equals, three equals. Prints seconds a step with the dealing at the same time, without the time that servers wait for
randomness (online), and for Keras in the clear; megabytes and rounds a step; and the accuracy on 2,000 test images of both after training
from the same weights in the same order.

`mlp` is 784-128-10. A, B and D are the networks of the tables of Keller and Sun (arXiv:2107.00501): A is 784-128-128-10; B two
convolutions 16 of 5x5, each with ReLU and max pooling 2x2, then 100-10; D a convolution 5 of 5x5 with strides 2, then 100-10.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from protocols import Cluster, Worker, share
from protocols.owner.epochs import Epoch

DIGITS = Path(__file__).parents[1] / "examples" / "mnist_10k.npz"
BATCH = 128
MEMORY = 1 << 30
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.03, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.001),
    "amsgrad": lambda: keras.optimizers.Adam(0.001, amsgrad=True),
}


NETWORKS = {
    "mlp": lambda: [layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10)],
    "A": lambda: [layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(128, "relu"), layers.Dense(10)],
    "B": lambda: [*_convolution(), *_convolution(), layers.Flatten(), layers.Dense(100, "relu"), layers.Dense(10)],
    "D": lambda: [layers.Conv2D(5, 5, 2, activation="relu"), layers.Flatten(), layers.Dense(100, "relu"), layers.Dense(10)],
}


def _convolution() -> list[Any]:
    return [layers.Conv2D(16, 5, activation="relu"), layers.MaxPooling2D()]


def network(name: str, optimizer: str) -> Any:
    """One of the networks, compiled, from fixed weights."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((28, 28, 1)), *NETWORKS[name]()], name=name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss=loss, metrics=["accuracy"])
    return model


async def encrypted(model: Any, x: Any, y: Any, epochs: int, equals: bool) -> tuple[list[Epoch], Any]:
    """The epochs on shares, and the model."""
    first, second, third = (Worker("localhost:0") for _ in range(3))
    async with Cluster(first, second, third) if equals else Cluster(first, second, crypto_provider=third) as cluster:
        stored = await cluster.store("x", x), await cluster.store("y", y)
        shared = await share(model, cluster)
        made = [epoch async for epoch in shared.fit(*stored, epochs=epochs, batch_size=BATCH, shuffle=False, memory=MEMORY)]
        return made, await shared.reveal()


def plaintext(name: str, optimizer: str, x: Any, y: Any, epochs: int) -> tuple[float, Any]:
    """Seconds a step of Keras after a step that compiles, and the model."""
    network(name, optimizer).fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
    model = network(name, optimizer)
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / epochs / -(-len(x) // BATCH), model


def measure(name: str, optimizer: str, epochs: int, equals: bool) -> dict[str, float]:
    """All figures by name; those of epochs are of the fastest."""
    with np.load(DIGITS) as file:
        x, x_test = (file[part].reshape(-1, 28, 28, 1).astype(np.float32) / 255 for part in ("x_train", "x_test"))
        y, y_test = (file[part].astype(np.int64) for part in ("y_train", "y_test"))
    made, trained = asyncio.run(encrypted(network(name, optimizer), x, y, epochs, equals))
    seconds, plain = plaintext(name, optimizer, x, y, epochs)
    fastest = min(made, key=lambda epoch: epoch.seconds)
    return {
        "seconds a step, with dealing": fastest.seconds,
        "seconds a step, online": min(epoch.online for epoch in made),
        "seconds a step, Keras in the clear": seconds,
        "rounds a step": fastest.rounds,
        "MB a step between the servers, both ways": fastest.bytes / 1e6,
        "MB a step dealt": fastest.dealt / 1e6,
        "accuracy, trained on shares": float(trained.evaluate(x_test, y_test, verbose=0)[1]),
        "accuracy, trained in the clear": float(plain.evaluate(x_test, y_test, verbose=0)[1]),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--equals", action="store_true", help="three equals instead of two servers and a crypto provider")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.network, arguments.optimizer, arguments.epochs, arguments.equals)
    if arguments.json:
        json.dump(figures, sys.stdout)
        return
    for name, value in figures.items():
        print(f"{name:42} {value:.4f}")


if __name__ == "__main__":
    main()

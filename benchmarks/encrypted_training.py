"""What it costs to train on shares: `python -m benchmarks.encrypted_training [--epochs N] [--optimizer NAME] [--deep] [--json]`.

MLP 784-128-10, or 784-128-128-10 with --deep, softmax cross-entropy, SGD, Adam or AMSGrad, batch 128, 8,000 digits, everything secret:
three worker processes on loopback. Prints seconds a step with the dealing at the same time, without the time that servers wait for
randomness (online), and for Keras in the clear; megabytes and rounds a step; and the accuracy on 2,000 test images of both after training
from the same weights in the same order.
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

from protocols import Cluster, Worker, share
from protocols.training.fitting import Epoch

DIGITS = Path(__file__).parents[1] / "examples" / "mnist_10k.npz"
BATCH = 128
MEMORY = 1 << 30
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adam": lambda: keras.optimizers.Adam(0.001),
    "amsgrad": lambda: keras.optimizers.Adam(0.001, amsgrad=True),
}


def network(optimizer: str = "sgd", *, deep: bool = False) -> Any:
    """The MLP, compiled, from fixed weights."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    hidden = [layers.Dense(128, activation="relu") for _ in range(1 + deep)]
    model = keras.Sequential([layers.Input((784,)), *hidden, layers.Dense(10)], name="mlp")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss=loss, metrics=["accuracy"])
    return model


async def encrypted(x: Any, y: Any, epochs: int, model: Any) -> tuple[list[Epoch], Any]:
    """The epochs on shares, and the model."""
    first, second, third = (Worker("localhost:0") for _ in range(3))
    async with Cluster(first, second, crypto_provider=third) as cluster:
        stored = await cluster.store("x", x), await cluster.store("y", y)
        shared = await share(model, cluster)
        made = [epoch async for epoch in shared.fit(*stored, epochs=epochs, batch_size=BATCH, shuffle=False, memory=MEMORY)]
        return made, await shared.reveal()


def plaintext(x: Any, y: Any, epochs: int, optimizer: str, deep: bool) -> tuple[float, Any]:
    """Seconds a step of Keras after a step that compiles, and the model."""
    network(optimizer, deep=deep).fit(x[:BATCH], y[:BATCH], batch_size=BATCH, verbose=0)
    model = network(optimizer, deep=deep)
    start = time.perf_counter()
    model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / epochs / -(-len(x) // BATCH), model


def measure(epochs: int, optimizer: str, deep: bool) -> dict[str, float]:
    """All figures by name; those of epochs are of the fastest."""
    with np.load(DIGITS) as file:
        x, x_test = (file[name].reshape(-1, 784).astype(np.float32) / 255 for name in ("x_train", "x_test"))
        y, y_test = (file[name].astype(np.int64) for name in ("y_train", "y_test"))
    made, trained = asyncio.run(encrypted(x, y, epochs, network(optimizer, deep=deep)))
    seconds, plain = plaintext(x, y, epochs, optimizer, deep)
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
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--deep", action="store_true", help="784-128-128-10, network A of published tables")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.epochs, arguments.optimizer, arguments.deep)
    if arguments.json:
        json.dump(figures, sys.stdout)
        return
    for name, value in figures.items():
        print(f"{name:42} {value:.4f}")


if __name__ == "__main__":
    main()

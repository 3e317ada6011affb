"""What it costs to train on shares: `python -m benchmarks.encrypted_training [--network NAME] [--optimizer NAME] [--epochs N]`.

Softmax cross-entropy, batch 128, 8,000 digits, everything secret: three worker processes on loopback, two servers and a crypto provider
or, with --equals, three equals. Prints seconds a step with the dealing at the same time, without the time that servers wait for
randomness (online), and for Keras in the clear; megabytes and rounds a step; and the accuracy on 2,000 test images of both after training
from the same weights in the same order.

`mlp` is 784-128-10. A, B and D are the networks of the tables of Keller and Sun (arXiv:2107.00501): A is 784-128-128-10; B two
convolutions 16 of 5x5, each with ReLU and max pooling 2x2, then 100-10; D a convolution 5 of 5x5 with strides 2, then 100-10.
`resnet20` is that of `examples/resnet.py`, on digits of 32 x 32 x 3 in colour, batch 32: some steps (`--examples 320`) take minutes.

Peers, measured after it in the same run: `--spu PYTHON` (one that has `spu` installed; `mlp` with SGD only) and `--mp-spdz FOLDER` (where
MP-SPDZ is built; `mlp` and A with SGD or Adam).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
from keras import layers

from protocols import Cluster, Worker, share
from protocols.owner.epochs import Epoch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import resnet

import digits

PEERS = Path(__file__).parent / "peers"
PEER_STEPS = 20
BATCHES = {"resnet20": 32}
BATCH = 128
SAMPLES = 64
"""Images by which windows of predictions are set, where they have no proof; training needs none."""
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
    model = resnet.build() if name == "resnet20" else keras.Sequential([layers.Input((28, 28, 1)), *NETWORKS[name]()], name=name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss=loss, metrics=["accuracy"])
    return model


async def encrypted(model: Any, x: Any, y: Any, epochs: int, batch: int, equals: bool) -> tuple[list[Epoch], Any]:
    """The epochs on shares, and the model."""
    first, second, third = (Worker("localhost:0") for _ in range(3))
    async with Cluster(first, second, third) if equals else Cluster(first, second, crypto_provider=third) as cluster:
        stored = await cluster.store("x", x), await cluster.store("y", y)
        shared = await share(model, cluster, calibration=x[:SAMPLES], input_range=(0.0, 1.0))
        made = [epoch async for epoch in shared.fit(*stored, epochs=epochs, batch_size=batch, shuffle=False, memory=MEMORY)]
        return made, await shared.reveal()


def plaintext(model: Any, x: Any, y: Any, epochs: int, batch: int) -> float:
    """Seconds a step of Keras; the function of a step is compiled before, on batches of all sizes."""
    model.optimizer.build(model.trainable_variables)
    before = [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]
    some = min(len(x), 2 * batch + len(x) % batch)
    model.fit(x[:some], y[:some], batch_size=batch, verbose=0)
    for variable, value in zip((*model.variables, *model.optimizer.variables), before, strict=True):
        variable.assign(value)
    start = time.perf_counter()
    model.fit(x, y, batch_size=batch, epochs=epochs, shuffle=False, verbose=0)
    return (time.perf_counter() - start) / epochs / -(-len(x) // batch)


def measure(name: str, optimizer: str, epochs: int, equals: bool, examples: int) -> dict[str, float]:
    """All figures by name; those of epochs are of the fastest."""
    data, batch = digits.load(), BATCHES.get(name, BATCH)
    x, x_test = data.x_train[:examples], data.x_test
    if name == "resnet20":
        x, x_test = resnet.colour(x, 0), resnet.colour(x_test, 1)
    y = data.y_train[:examples]
    made, trained = asyncio.run(encrypted(network(name, optimizer), x, y, epochs, batch, equals))
    plain = network(name, optimizer)
    seconds = plaintext(plain, x, y, epochs, batch)
    fastest = min(made, key=lambda epoch: epoch.seconds)
    return {
        "seconds a step, with dealing": fastest.seconds,
        "seconds a step, online": min(epoch.online for epoch in made),
        "seconds a step, Keras in the clear": seconds,
        "times Keras": fastest.seconds / seconds,
        "rounds a step": fastest.rounds,
        "MB a step between the servers, both ways": fastest.bytes / 1e6,
        "MB a step dealt": fastest.dealt / 1e6,
        "accuracy, trained on shares": float(trained.evaluate(x_test, data.y_test, verbose=0)[1]),
        "accuracy, trained in the clear": float(plain.evaluate(x_test, data.y_test, verbose=0)[1]),
    }


def peers(name: str, optimizer: str, ours: float, spu: str | None, mp_spdz: str | None) -> dict[str, float]:
    """Seconds a step of those that are there, and how many times ours."""
    found: dict[str, float] = {}
    if spu is not None:
        seconds = json.loads(_told([spu, str(PEERS / "spu_training.py"), str(PEER_STEPS)]))
        found |= {"seconds a step, SPU": min(seconds), "SPU, times ours": min(seconds) / ours}
    if mp_spdz is not None:
        told = json.loads(_told([sys.executable, str(PEERS / "mp_spdz.py"), mp_spdz, name, optimizer, str(PEER_STEPS)]))
        found |= {"seconds a step, MP-SPDZ": told["seconds"], "MP-SPDZ, times ours": told["seconds"] / ours}
    return found


def _told(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=[*NETWORKS, "resnet20"], default="mlp")
    parser.add_argument("--examples", type=int, default=8000, help="digits that are trained on, up to 8,000")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    parser.add_argument("--equals", action="store_true", help="three equals instead of two servers and a crypto provider")
    parser.add_argument("--spu", metavar="PYTHON", help="measure SPU as well; `mlp` with SGD only")
    parser.add_argument("--mp-spdz", metavar="FOLDER", help="measure MP-SPDZ as well; `mlp` and A, SGD and Adam only")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    name, optimizer = arguments.network, arguments.optimizer
    if arguments.spu and (name, optimizer) != ("mlp", "sgd"):
        parser.error("--spu is written for --network mlp --optimizer sgd only")
    if arguments.mp_spdz and not (name in ("mlp", "A") and optimizer in ("sgd", "adam")):
        parser.error("--mp-spdz is written for --network mlp or A, --optimizer sgd or adam only")
    figures = measure(name, optimizer, arguments.epochs, arguments.equals, arguments.examples)
    figures |= peers(name, optimizer, figures["seconds a step, with dealing"], arguments.spu, arguments.mp_spdz)
    if arguments.json:
        json.dump(figures, sys.stdout)
        return
    for name, value in figures.items():
        print(f"{name:42} {value:.4f}")


if __name__ == "__main__":
    main()

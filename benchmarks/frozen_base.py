"""A new head on a frozen base, trained on shares: `python -m benchmarks.frozen_base [--side N] [--examples N] [--epochs N] [--json]`.

MobileNetV2 (alpha 0.35, as `keras.applications` builds it) learns digits in colour in the clear for a moment, so that its statistics are
those of images, and is frozen; a dense layer of 10 classes on its 1,280 features is trained on shares, SGD with momentum, batches of 32.
The base is computed once in a fit: prints the seconds of that, and of an epoch beside an epoch of the head alone, which is given the
features; and how far losses and weights are from those of Keras. Three worker processes on loopback, everything secret.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np
from keras import layers
from rich.console import Console
from rich.table import Table

from protocols import Cluster, Worker, share
from protocols.owner.epochs import Epoch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import resnet

import digits

BATCH, SAMPLES = 32, 16
BARS = {"an epoch, times that of the head alone": 2.0}


def images(count: int, side: int) -> tuple[Any, Any]:
    """Digits in colour, (count, side, side, 3), and what they show."""
    data = digits.load()
    x = resnet.colour(data.x_train[:count], 0)
    return np.asarray(keras.ops.image.resize(x, (side, side)), np.float32), data.y_train[:count]


def trained_base(x: Any, y: Any) -> keras.Model:
    """MobileNetV2 without its head, frozen."""
    keras.utils.set_random_seed(0)
    base = keras.applications.MobileNetV2(x.shape[1:], alpha=0.35, include_top=False, weights=None, pooling="avg")
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.8
    model = keras.Sequential([base, layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.002), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=BATCH, epochs=4, verbose=0)
    base.trainable = False
    return base


def headed(base: keras.Model | None, shape: tuple[int, ...]) -> keras.Model:
    """The head, on the base or alone, compiled, from fixed weights."""
    keras.utils.set_random_seed(1)
    body = [base] if base is not None else []
    model = keras.Sequential([layers.Input(shape), *body, layers.Dense(10)], name="head" if base is None else "headed")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model


async def fitted(cluster: Cluster, model: keras.Model, x: Any, y: Any, epochs: int, **how: Any) -> tuple[list[Epoch], list[float], Any]:
    """Epochs on shares, the seconds at which each was told, and the trained model."""
    stored = await cluster.store(f"x of {model.name}", x), await cluster.store(f"y of {model.name}", y)
    async with await share(model, cluster, **how) as shared:
        started, made, times = time.perf_counter(), [], []
        async for epoch in shared.fit(*stored, epochs=epochs, batch_size=BATCH, shuffle=False, metrics=["loss"], progress=False):
            made.append(epoch)
            times.append(time.perf_counter() - started)
        return made, times, await shared.reveal()


async def measure(count: int, side: int, epochs: int) -> dict[str, float]:
    """All figures by name."""
    x, y = images(count, side)
    base = trained_base(x, y)
    features = base.predict(x, verbose=0)
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as cluster:
        alone, alone_at, _ = await fitted(cluster, headed(None, features.shape[1:]), features, y, epochs)
        made, at, trained = await fitted(cluster, headed(base, x.shape[1:]), x, y, epochs, calibration=x[:SAMPLES], input_range=(0.0, 1.0))
    model = headed(base, x.shape[1:])
    losses = model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0).history["loss"]
    whole, head = (float(np.diff(times).min()) for times in (at, alone_at))
    weights = zip(trained.get_weights(), model.get_weights(), strict=True)
    return {
        "seconds of an epoch": whole,
        "seconds of an epoch of the head alone": head,
        "an epoch, times that of the head alone": whole / head,
        "rounds a step": made[-1].rounds,
        "rounds a step of the head alone": alone[-1].rounds,
        "MB a step, dealing included": (made[-1].bytes + made[-1].dealt) / 1e6,
        "MB a step of the head alone": (alone[-1].bytes + alone[-1].dealt) / 1e6,
        "seconds of the base, once a fit": at[0] - whole,
        "seconds of the base for an image": (at[0] - whole) / count,
        "largest difference of a loss from Keras": max(abs(epoch.logs["loss"] - loss) for epoch, loss in zip(made, losses, strict=True)),
        "largest difference of a weight from Keras": max(float(np.abs(mine - theirs).max()) for mine, theirs in weights),
    }


def show(figures: dict[str, float]) -> None:
    """The table for people."""
    table = Table("figure", "measured", "bar", title="a head on a frozen MobileNetV2, trained on shares, three processes on loopback")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}", f"<= {BARS[name]:g}" if name in BARS else "")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=96, help="of the images")
    parser.add_argument("--examples", type=int, default=320, help="up to 8,000")
    parser.add_argument("--epochs", type=int, default=5, help="at least 2: the first one is that which waits for the base")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = asyncio.run(measure(arguments.examples, arguments.side, max(2, arguments.epochs)))
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)

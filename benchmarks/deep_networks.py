"""Encrypted prediction of ResNet-20 and of a two-layer transformer encoder: one example, beside plaintext Keras on the same cores.

`python -m benchmarks.deep_networks [--json]`. Real worker processes over websockets on loopback. ResNet-20 learns digits in colour; the
encoder learns which of two words a sentence has more often. Both are given sample inputs for their windows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np
import numpy.typing as npt
from keras import layers, ops
from rich.console import Console
from rich.table import Table

from benchmarks.prediction import ready, timed, until_served
from protocols import Cluster, Worker, connect, share

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import resnet

import digits

WORDS, STEPS, WIDTH, HEADS = 64, 32, 32, 4
BARS = {"ResNet-20": {"milliseconds": 1500.0, "largest_logit_error": 0.02}, "transformer": {"largest_logit_error": 0.02}}


class Network(NamedTuple):
    """A trained model, examples it has not seen, samples for its windows, and the range of its inputs."""

    model: keras.Model
    x: npt.NDArray[Any]
    samples: npt.NDArray[Any]
    input_range: tuple[float, float]


class TokenAndPosition(layers.Layer):  # type: ignore[misc, unused-ignore]
    """A row of a table for each token, and one for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = layers.Embedding(WORDS, WIDTH), layers.Embedding(STEPS, WIDTH)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """The sum of both."""
        return self.words(x) + self.positions(ops.arange(0, STEPS, 1))


class Encoder(layers.Layer):  # type: ignore[misc, unused-ignore]
    """Attention and two dense layers, each added to its input and normalised (Vaswani et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
        self.dense = keras.Sequential([layers.Dense(4 * WIDTH, activation="gelu"), layers.Dense(WIDTH)])
        self.first, self.second = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """(steps, width) to the same."""
        x = self.first(x + self.attention(x, x))
        return self.second(x + self.dense(x))


def transformer() -> Network:
    """Two encoders, trained for an epoch on which of the words 1 and 2 is there more often."""
    keras.utils.set_random_seed(0)
    start = layers.Input((STEPS,), dtype="int32")
    x = Encoder()(Encoder()(TokenAndPosition()(start)))
    model = keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)), name="transformer")
    random = np.random.default_rng(0)
    tokens = np.where(random.random((6000, STEPS)) < 0.3, random.integers(1, 3, (6000, STEPS)), random.integers(0, WORDS, (6000, STEPS)))
    labels = (tokens == 1).sum(1) > (tokens == 2).sum(1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=loss, metrics=["accuracy"])
    model.fit(tokens[:5000], labels[:5000], batch_size=32, verbose=0)
    print(f"transformer: accuracy {model.evaluate(tokens[5000:], labels[5000:], verbose=0)[1]:.1%}", flush=True)
    return Network(model, tokens[5000:], tokens[:256], (0.0, WORDS - 1.0))


def residual() -> Network:
    """ResNet-20, trained on digits in colour."""
    data = digits.load()
    return Network(resnet.train(), resnet.colour(data.x_test, 1), resnet.colour(data.x_train[:64], 2), (0.0, 1.0))


async def measure(cluster: Cluster, network: Network, repeats: int) -> dict[str, float]:
    """Median milliseconds with randomness dealt ahead and without, what it costs, and how far from Keras."""
    model, x, samples, input_range = network
    expected = model.predict(x[:repeats], verbose=0)
    errors, encrypted, plaintext = [], [], []
    started = time.perf_counter()
    async with await share(model, cluster, name="ahead", calibration=samples, input_range=input_range) as shared:
        figures = {"seconds_to_share": time.perf_counter() - started}
        async with connect(cluster, "ahead") as remote:
            serving = asyncio.create_task(shared.serve(1_000_000, reveal=["logits"], memory=8 * shared.bytes_per_example, ahead=2))
            await until_served(remote, x[:1])
            for i in range(repeats):
                await ready(shared, 1)
                started = time.perf_counter()
                logits = await remote.query(x[i : i + 1])
                encrypted.append(time.perf_counter() - started)
                errors.append(float(np.abs(logits - expected[i]).max()))
                plaintext.append(await timed(lambda i=i: model(x[i : i + 1], training=False).numpy()))  # type: ignore[misc]
            assert remote.last is not None
            cost, servers = remote.last, remote.last.servers
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    figures |= {"milliseconds": 1e3 * statistics.median(encrypted), "plaintext_milliseconds": 1e3 * statistics.median(plaintext)}
    figures |= {"milliseconds_with_dealing": 1e3 * await with_dealing(cluster, network, repeats)}
    figures |= {"rounds": cost.rounds, "bytes_online_each_way": servers[0].sent, "bytes_offline": servers[1].dealt}
    return figures | {"largest_logit_error": max(errors), "largest_logit": float(np.abs(expected).max())}


async def with_dealing(cluster: Cluster, network: Network, repeats: int) -> float:
    """Median seconds where nothing is dealt before the query: chunks of one example, none ahead."""
    model, x, samples, input_range = network
    async with (
        await share(model, cluster, name="unprepared", calibration=samples, input_range=input_range) as shared,
        connect(cluster, "unprepared") as remote,
    ):
        serving = asyncio.create_task(shared.serve(repeats + 1, reveal=["logits"], memory=shared.bytes_per_example))
        await until_served(remote, x[:1])
        seconds = [await timed(lambda i=i: remote.query(x[i : i + 1])) for i in range(repeats)]  # type: ignore[misc]
        await serving
    return statistics.median(seconds)


async def main(quick: bool) -> dict[str, dict[str, float]]:
    """Both networks, one after the other."""
    networks = {"ResNet-20": residual(), "transformer": transformer()}
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as cluster:
        return {name: await measure(cluster, network, 5 if quick else 50) for name, network in networks.items()}


def show(figures: dict[str, dict[str, float]]) -> None:
    """The table for people."""
    table = Table("figure", *figures, "bar", title="encrypted prediction of one example, three processes on loopback")
    for name in next(iter(figures.values())):
        bars = ", ".join(f"{network} <= {bar[name]:g}" for network, bar in BARS.items() if name in bar)
        table.add_row(name.replace("_", " "), *(f"{column[name]:,.4g}" for column in figures.values()), bars)
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = asyncio.run(main(arguments.quick))
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)

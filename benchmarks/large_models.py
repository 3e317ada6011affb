"""Peak memory of the workers, and seconds, for models whose randomness does not fit memory: it is streamed.

`python -m benchmarks.large_models [NAME ...] [--json]`; names: ResNet-50, encoder (as large as BERT-base, 128 tokens) and VGG16.
Real worker processes over websockets on loopback, random weights. The peak of a worker is the most memory that its process ever had
resident (VmHWM), from its start on. Linux only. Takes minutes, and for VGG16 about 12 GB for all processes together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from rich.console import Console
from rich.table import Table

from benchmarks.prediction import ready
from protocols import Cluster, Worker, connect, share

LAYERS, WIDTH, TOKENS, HEADS = 12, 768, 128, 12
SIDE = 224


class Case(NamedTuple):
    """A model, examples, the range of its inputs, the memory with which it is served, and the bar for a worker's peak in MB."""

    model: keras.Model
    x: npt.NDArray[Any]
    input_range: tuple[float, float]
    memory: int
    bar: float | None


class Encoder(layers.Layer):  # type: ignore[misc, unused-ignore]
    """A layer of BERT (Devlin et al., 2019): attention and two dense layers, each added to its input and normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = layers.MultiHeadAttention(heads, width // heads)
        self.wide, self.narrow = layers.Dense(4 * width, activation="gelu"), layers.Dense(width)
        self.first, self.second = layers.LayerNormalization(epsilon=1e-3), layers.LayerNormalization(epsilon=1e-3)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """(tokens, width) to the same."""
        x = self.first(x + self.attention(x, x))
        return self.second(x + self.narrow(self.wide(x)))


def encoder(count: int = LAYERS, width: int = WIDTH, tokens: int = TOKENS, heads: int = HEADS) -> Case:
    """An encoder as large as that of BERT-base, with two classes."""
    keras.utils.set_random_seed(0)
    start = layers.Input((tokens, width))
    x = start
    for _ in range(count):
        x = Encoder(width, heads)(x)
    model = keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)), name="encoder")
    examples = np.random.default_rng(0).normal(0, 1, (2, tokens, width)).clip(-3, 3).astype(np.float32)
    return Case(model, examples, (-3.0, 3.0), 640 << 20, 2500.0)


def images(build: Callable[..., keras.Model], memory: int, bar: float | None, side: int = SIDE) -> Case:
    """A model of `keras.applications` on random images."""
    keras.utils.set_random_seed(0)
    model = build(weights=None, classifier_activation=None, input_shape=(side, side, 3))
    return Case(model, np.random.default_rng(0).random((2, side, side, 3)).astype(np.float32), (0.0, 1.0), memory, bar)


CASES: dict[str, Callable[[], Case]] = {
    "ResNet-50": lambda: images(keras.applications.ResNet50, 256 << 20, 700.0),
    "encoder": encoder,
    "VGG16": lambda: images(keras.applications.VGG16, 512 << 20, None),
}


def worker_processes() -> list[int]:
    """The processes of the workers that this process has started, in the order in which they were."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if entry.name.isdigit() and parent == os.getpid() and b"worker_process" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def peak(process: int | str = "self") -> float:
    """The most memory that a process had resident, in MB."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


async def measure(case: Case, name: str) -> dict[str, float]:
    """Share a model, ask for both examples one after the other, and look at the workers."""
    model, x, input_range, memory, _ = case
    expected = model.predict(x, batch_size=1, verbose=0)
    workers, others = [Worker("localhost:0") for _ in range(3)], worker_processes()
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2], timeout=600.0) as cluster:
        processes = [process for process in worker_processes() if process not in others]
        started = time.perf_counter()
        async with await share(model, cluster, name=name, calibration=x, input_range=input_range) as shared:
            figures: dict[str, float] = {"parameters": float(model.count_params()), "seconds_to_share": time.perf_counter() - started}
            figures["megabytes_of_randomness"] = shared.bytes_per_example / 1e6
            print(f"{name}: {figures}, owner {peak():.0f} MB, workers {[peak(p) for p in processes]}", flush=True)
            serving = asyncio.create_task(shared.serve(2, reveal=["logits"], memory=memory))
            async with connect(cluster, name) as remote:
                await ready(shared, 1)
                found = []
                for example in (x[:1], x[1:]):
                    started = time.perf_counter()
                    found.append(await remote.query(example, timeout=600.0))
                    figures[f"seconds_of_query_{len(found)}"] = time.perf_counter() - started
                assert remote.last is not None
                cost, servers = remote.last, remote.last.servers
            await serving
        figures |= {f"peak_megabytes_{who}": peak(p) for who, p in zip(("server_0", "server_1", "provider"), processes, strict=True)}
        figures["peak_megabytes_owner"] = peak()
    figures |= {"rounds": cost.rounds, "bytes_online_each_way": servers[0].sent, "bytes_offline": servers[1].dealt}
    figures |= {"largest_error": float(np.abs(np.concatenate(found) - expected).max()), "largest_output": float(np.abs(expected).max())}
    return figures


def show(figures: dict[str, dict[str, float]]) -> None:
    """The table for people."""
    table = Table("figure", *figures, title="one example at a time, three processes on loopback")
    for name in next(iter(figures.values())):
        table.add_row(name.replace("_", " "), *(f"{column[name]:,.4g}" for column in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of " + ", ".join(CASES) + "; all if none is named")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = {name: asyncio.run(measure(CASES[name](), name)) for name in arguments.names or CASES}
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)

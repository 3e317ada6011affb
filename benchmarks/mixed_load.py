"""One image beside large batches: how long a client with one image waits alone, and beside a client with batches of 512.

`python -m benchmarks.mixed_load [--json]`. Three worker processes over websockets on loopback, and both clients in this process; the two
loads take turns, so that whatever else this machine does falls on both.
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
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.prediction import MEMORY, MODEL, ready, timed, until_served
from protocols import Cluster, RemoteModel, Worker, connect, share

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits
import train

BATCH = 512
TURNS = 3
QUERIES = 25
PAUSE = 0.02
"""Seconds between two queries of the client with one image."""
BAR = 2.0
"""How many times as long as alone one image may take beside large batches."""


async def one_by_one(remote: RemoteModel, x: np.ndarray[Any, Any]) -> list[float]:
    """Seconds for each of `QUERIES` images."""
    seconds = []
    for i in range(QUERIES):
        seconds.append(await timed(lambda i=i: remote.query(x[i : i + 1])))  # type: ignore[misc]
        await asyncio.sleep(PAUSE)
    return seconds


class Batches:
    """A client that asks one large batch after the other as long as the block lasts; `images` have been answered."""

    def __init__(self, remote: RemoteModel, x: np.ndarray[Any, Any]) -> None:
        self.images = 0
        self._remote, self._x = remote, x

    async def __aenter__(self) -> Batches:
        self._stopping = False
        self._asking = asyncio.create_task(self._ask())
        await asyncio.sleep(0.5)  # the queues fill
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await self._asking

    async def _ask(self) -> None:
        while not self._stopping:
            await self._remote.query(self._x)
            self.images += len(self._x)


def quantiles(seconds: list[float], name: str) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    return {f"{name}_ms": 1e3 * statistics.median(seconds), f"{name}_ms_95th_percentile": 1e3 * sorted(seconds)[int(0.95 * len(seconds))]}


async def measure() -> dict[str, float]:
    """Both loads, in turns."""
    model = keras.models.load_model(MODEL) if MODEL.exists() else train.train(MODEL)
    x = digits.load().x_test
    first, second, provider = (Worker("localhost:0") for _ in range(3))
    alone, beside, images, spent = [], [], 0, 0.0
    async with (
        Cluster(first, second, crypto_provider=provider) as cluster,
        await share(model, cluster, name="mixed") as shared,
        connect(cluster, "mixed") as remote,
        connect(cluster, "mixed") as large,
    ):
        serving = asyncio.create_task(shared.serve(1_000_000, reveal=["logits"], memory=MEMORY, ahead=2 * BATCH))
        await until_served(remote, x[:1])
        for _ in range(TURNS):
            await ready(shared, 2 * BATCH)  # alone is without dealing
            alone += await one_by_one(remote, x)
            started = time.perf_counter()
            async with Batches(large, x[:BATCH]) as batches:
                beside += await one_by_one(remote, x)
            images, spent = images + batches.images, spent + time.perf_counter() - started
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    figures = quantiles(alone, "alone") | quantiles(beside, "beside_batches")
    return figures | {"times_as_long": figures["beside_batches_ms"] / figures["alone_ms"], "images_per_s_of_the_batches": images / spent}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = asyncio.run(measure())
    if arguments.json:
        print(json.dumps({"confide": result}, indent=2))
    else:
        table = Table("figure", "measured", "bar", title=f"one image beside a client with batches of {BATCH}")
        for name, value in result.items():
            table.add_row(name.replace("_", " "), f"{value:,.4g}", f"<= {BAR:g}" if name == "times_as_long" else "")
        Console().print(table)

"""Encrypted prediction of the tutorial's CNN: latency, throughput, rounds, bytes, agreement, beside plaintext on the same cores.

`python -m benchmarks.prediction [--equals] [--json]`. Real worker processes over websockets on loopback, two servers and a crypto provider
or three equals; plaintext Keras alternates with the encrypted queries in the same run. Peers' figures on two shared cores are printed
beside ours; they were measured elsewhere and are good to about 30 %.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "2")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from protocols import Cluster, RemoteModel, SharedModel, Worker, connect, share
from protocols.errors import NotServed

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits
import train

MODEL = Path(__file__).with_name("mnist.keras")
MEMORY = 1 << 30
BATCH = 128
PEERS = {
    "TF Encrypted 0.9.1 ABY3": {"batch_1_ms": "81-101", "images_per_s": "52", "megabytes": "2.2"},
    "CrypTen 0.4.1, trusted third party": {"batch_1_ms": "208-421", "images_per_s": "93-118", "megabytes": "2.9"},
    "SPU 0.9.5 ABY3": {"batch_1_ms": "168-248", "images_per_s": "67", "megabytes": "1.5"},
}


async def timed(work: Callable[[], Any]) -> float:
    """Seconds for one call, awaited if need be."""
    started = time.perf_counter()
    result = work()
    if asyncio.iscoroutine(result):
        await result
    return time.perf_counter() - started


async def ready(shared: SharedModel, examples: int) -> None:
    """Waits until randomness for so many examples is dealt."""
    while await shared.prepared() < examples:
        await asyncio.sleep(0.005)


async def until_served(remote: RemoteModel, x: np.ndarray[Any, Any]) -> None:
    """Waits for the owner's `serve`, which starts beside us."""
    while True:
        try:
            await remote.query(x)
            return
        except NotServed:
            await asyncio.sleep(0.01)


async def latency(shared: SharedModel, remote: RemoteModel, model: keras.Model, x: np.ndarray[Any, Any], repeats: int) -> dict[str, float]:
    """Median milliseconds for one image with randomness dealt ahead, and of plaintext, taking turns."""
    encrypted, plaintext = [], []
    for i in range(repeats):
        await ready(shared, 8)
        image = x[i % len(x)][None]
        encrypted.append(await timed(lambda image=image: remote.query(image)))  # type: ignore[misc]
        plaintext.append(await timed(lambda image=image: model(image, training=False).numpy()))  # type: ignore[misc]
    return {
        "batch_1_ms": 1e3 * statistics.median(encrypted),
        "batch_1_ms_90th_percentile": 1e3 * sorted(encrypted)[int(0.9 * repeats)],
        "batch_1_plaintext_ms": 1e3 * statistics.median(plaintext),
    }


async def latency_with_dealing(cluster: Cluster, model: keras.Model, x: np.ndarray[Any, Any], repeats: int) -> dict[str, float]:
    """Median milliseconds for one image where nothing is dealt before the query: chunks of one example, none ahead."""
    async with await share(model, cluster, name="unprepared") as shared, connect(cluster, "unprepared") as remote:
        size = shared.bytes_per_example
        serving = asyncio.create_task(shared.serve(repeats + 1, reveal=["logits"], memory=size))
        await until_served(remote, x[:1])
        seconds = [await timed(lambda i=i: remote.query(x[i % len(x)][None])) for i in range(repeats)]  # type: ignore[misc]
        await serving
    return {"batch_1_with_dealing_ms": 1e3 * statistics.median(seconds)}


async def throughput(
    shared: SharedModel, remote: RemoteModel, model: keras.Model, x: np.ndarray[Any, Any], repeats: int
) -> dict[str, float]:
    """Images a second at batch 128: dealt ahead; with the dealing on the same cores; plaintext."""
    ahead, plaintext = [], []
    for _ in range(repeats):
        await ready(shared, BATCH)
        ahead.append(await timed(lambda: remote.query(x[:BATCH])))
        plaintext.append(await timed(lambda: model(x[:BATCH], training=False).numpy()))
    many = np.concatenate([x[:BATCH]] * 40)
    before = await shared.prepared()
    seconds = await timed(lambda: remote.query(many))
    return {
        "batch_128_images_per_s": BATCH / statistics.median(ahead),
        "batch_128_plaintext_images_per_s": BATCH / statistics.median(plaintext),
        "images_per_s_with_dealing": (len(many) - before) / seconds,
    }


async def agreement(remote: RemoteModel, model: keras.Model, x: np.ndarray[Any, Any]) -> dict[str, float]:
    """All test images against plaintext, logits and labels."""
    expected = model.predict(x, verbose=0)
    logits = np.concatenate([await remote.query(x[i : i + 500]) for i in range(0, len(x), 500)])
    labels = np.concatenate([await remote.query(x[i : i + 500], reveal="label") for i in range(0, len(x), 500)])
    return {
        "images": len(x),
        "same_argmax": int((logits.argmax(1) == expected.argmax(1)).sum()),
        "same_label": int((labels == expected.argmax(1)).sum()),
        "largest_logit_error": float(np.abs(logits - expected).max()),
    }


async def costs(remote: RemoteModel, x: np.ndarray[Any, Any]) -> dict[str, float]:
    """Rounds and bytes for one image."""
    await remote.query(x[:1], reveal="label")
    assert remote.last is not None
    label_rounds = remote.last.rounds
    await remote.query(x[:1])
    last = remote.last
    return {
        "rounds": last.rounds,
        "rounds_label": label_rounds,
        "bytes_online_each_way": last.servers[0].sent,
        "bytes_offline": last.servers[1].dealt,
        "bytes_client_up": last.uploaded,
        "bytes_client_down": last.downloaded,
    }


async def costs_of_malicious_clients(cluster: Cluster, model: keras.Model, x: np.ndarray[Any, Any]) -> dict[str, float]:
    """The same where servers cut inputs into their range, and milliseconds for one image with randomness dealt ahead."""
    async with await share(model, cluster, name="clamped", clients="malicious") as shared, connect(cluster, "clamped") as remote:
        serving = asyncio.create_task(shared.serve(1_000_000, memory=MEMORY))
        await until_served(remote, x[:1])
        found = await costs(remote, x)
        seconds = []
        for i in range(20):
            await ready(shared, 8)
            seconds.append(await timed(lambda i=i: remote.query(x[i][None])))  # type: ignore[misc]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    told = ("rounds", "rounds_label", "bytes_online_each_way", "bytes_offline")
    return {f"malicious_clients_{name}": found[name] for name in told} | {"malicious_clients_batch_1_ms": 1e3 * statistics.median(seconds)}


async def measure(quick: bool, equals: bool) -> dict[str, float]:
    """Everything, in one run."""
    model = keras.models.load_model(MODEL) if MODEL.exists() else train.train(MODEL)
    x = digits.load().x_test
    workers = [Worker("localhost:0") for _ in range(3)]
    started = time.perf_counter()
    async with Cluster(*workers) if equals else Cluster(workers[0], workers[1], crypto_provider=workers[2]) as cluster:
        figures: dict[str, float] = {"seconds_to_start_three_workers": time.perf_counter() - started}
        async with await share(model, cluster, name="mnist", clients="semi-honest") as shared, connect(cluster, "mnist") as remote:
            serving = asyncio.create_task(shared.serve(1_000_000, memory=MEMORY, ahead=3 * BATCH))
            await until_served(remote, x[:1])
            figures |= await costs(remote, x)
            figures |= await latency(shared, remote, model, x, 50 if quick else 300)
            figures |= await throughput(shared, remote, model, x, 5 if quick else 20)
            figures |= await agreement(remote, model, x[: 500 if quick else len(x)])
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        figures |= await costs_of_malicious_clients(cluster, model, x)
        figures |= await latency_with_dealing(cluster, model, x, 20 if quick else 100)
    return figures


BARS = {
    "batch_1_ms": ("<=", 10),
    "batch_1_with_dealing_ms": ("<=", 30),
    "batch_128_images_per_s": (">=", 1000),
    "images_per_s_with_dealing": (">=", 400),
    "bytes_online_each_way": ("<=", 70_000),
    "bytes_offline": ("<=", 260_000),
    "rounds": ("<=", 12),
    "same_argmax": (">=", 1998),
    "largest_logit_error": ("<=", 0.01),
}


def show(figures: dict[str, float]) -> None:
    """The table for people."""
    table = Table("figure", "measured", "bar", title="encrypted prediction of the tutorial's CNN, three processes on loopback")
    for name, value in figures.items():
        bar = "{} {:,}".format(*BARS[name]) if name in BARS else ""
        table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else f"{value:,}", bar)
    peers = Table("peer, measured elsewhere on two cores", "batch 1, ms", "images/s at batch 128", "MB a query")
    for name, row in PEERS.items():
        peers.add_row(name, *row.values())
    console = Console()
    console.print(table)
    console.print(peers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, 500 images")
    parser.add_argument("--equals", action="store_true", help="three equals instead of two servers and a crypto provider")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the figures
        result = asyncio.run(measure(arguments.quick, arguments.equals))
    if arguments.json:
        print(json.dumps({"confide": result, "peers": PEERS}, indent=2))
    else:
        show(result)

"""What it costs to be seen: encrypted prediction with JSON logs, an audit log and metrics that are read, beside the same without.

`python -m benchmarks.observing [--before FOLDER] [--blocks N] [--control] [--json]`. Two clusters of three real workers on loopback; blocks
of queries go to one and the other in turns, so that whatever else the machine does meets both. Reported are queries a second and the
processor time of the workers for a query, which a busy machine changes less: the middle of the ratios of neighbouring blocks. With
`--before` the workers without run the code of another folder, such as a checkout of before. With `--control` neither side is seen.
`--swap` starts the side that is seen first. On a busy machine the control differs by some per cent, too: less
says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import numpy.typing as npt

from federated.machines.node_figures import figures
from protocols import Cluster, RemoteModel, Worker, connect, share
from protocols.errors import NotServed

SCRAPED_EVERY = 5.0
"""Seconds."""
SEEN = ("--log-format", "json", "--log-level", "info")
BATCHES = {1: 60, 128: 6}
"""Examples of a query -> queries of a block."""
LIMIT = 1.02
"""What it may cost, at most."""


@dataclass
class Side:
    """Three workers, and what was measured of them.

    Attributes:
        name: with or without.
        processes: of the workers.
        addresses: of them.
        rates: batch -> queries a second of each block.
        costs: batch -> processor seconds of the workers for a query, of each block.
    """

    name: str
    processes: list[asyncio.subprocess.Process]
    addresses: list[str]
    rates: dict[int, list[float]] = field(default_factory=dict)
    costs: dict[int, list[float]] = field(default_factory=dict)

    def processor(self) -> float:
        """Seconds that the workers have computed."""
        threads = [path for process in self.processes for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")]
        return sum(int(path.read_text().split()[0]) for path in threads) / 1e9

    async def block(self, remote: RemoteModel, x: npt.NDArray[np.float64], queries: int) -> None:
        """Ask a few times, and write down what it took."""
        processor, began = self.processor(), time.perf_counter()
        for _ in range(queries):
            await remote.query(x)
        seconds = time.perf_counter() - began
        self.rates.setdefault(len(x), []).append(queries / seconds)
        self.costs.setdefault(len(x), []).append((self.processor() - processor) / queries)


@contextlib.asynccontextmanager
async def side(name: str, folder: Path, code: str | None, *, seen: bool) -> AsyncIterator[Side]:
    """Three workers, with a log and an audit log in a folder, or without."""
    environment = os.environ | ({} if code is None else {"PYTHONPATH": code})
    processes: list[asyncio.subprocess.Process] = []
    try:
        for place in range(3):
            more = [*SEEN, "--audit", str(folder / f"audit-{place}")] if seen else []
            command = [sys.executable, "-m", "federated.command", "worker", "127.0.0.1:0", *more]
            with (folder / f"{name}-{place}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=log, env=environment)
            processes.append(process)
        addresses = []
        for process in processes:
            assert process.stdout is not None
            addresses.append((await process.stdout.readline()).decode().split()[1].removeprefix("ws://"))
        yield Side(name, processes, addresses)
    finally:
        for process in processes:
            process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))


async def read_metrics(addresses: list[str]) -> None:
    """Read the metrics of the workers as Prometheus does, three times as often as by its defaults."""
    while True:
        await asyncio.sleep(SCRAPED_EVERY)
        for address in addresses:
            assert not (await figures(f"ws://{address}", None)).missing


def network() -> keras.Model:
    """The multilayer perceptron of the tutorials."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input((784,)), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(10)]
    return keras.Sequential(layers, name="net")


async def asked(stack: contextlib.AsyncExitStack, one: Side) -> RemoteModel:
    """Share the network with the workers of a side; return it as a client asks it."""
    workers = [Worker(address) for address in one.addresses]
    cluster = await stack.enter_async_context(Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False))
    shared = await stack.enter_async_context(await share(network(), cluster))
    serving = asyncio.create_task(shared.serve(1_000_000))
    stack.callback(serving.cancel)
    remote = await stack.enter_async_context(connect(cluster, "net"))
    while True:
        with contextlib.suppress(NotServed):
            await remote.query(np.zeros((1, 784)))
            return remote
        await asyncio.sleep(0.01)


async def measure(before: str | None, blocks: int, batches: list[int], *, control: bool, swap: bool) -> dict[str, dict[str, float]]:
    """Measure both sides in turns; return for each batch what it costs to be seen."""
    found: dict[str, dict[str, float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = [side("without", folder, before, seen=False), side("seen", folder, before if control else None, seen=not control)]
        started = [await stack.enter_async_context(one) for one in (sides[::-1] if swap else sides)]
        without, seen = started[::-1] if swap else started
        remotes = {one.name: await asked(stack, one) for one in started}
        reading = asyncio.create_task(read_metrics([] if control else seen.addresses))
        stack.callback(reading.cancel)
        inputs = {batch: np.random.default_rng(0).random((batch, 784)) for batch in batches}
        for batch, x in inputs.items():
            for one in (without, seen):
                await one.block(remotes[one.name], x, BATCHES[batch])
            for one in (without, seen):
                one.rates.clear()
                one.costs.clear()
            for number in range(blocks):
                for one in (without, seen) if number % 2 else (seen, without):
                    await one.block(remotes[one.name], x, BATCHES[batch])
                    await asyncio.sleep(0.3)  # what is dealt ahead belongs to this block
            if reading.done():
                reading.result()
            found[str(batch)] = summary(without.rates[batch], seen.rates[batch], without.costs[batch], seen.costs[batch])
    return found


def summary(rates: list[float], seen_rates: list[float], costs: list[float], seen_costs: list[float]) -> dict[str, float]:
    """What it costs: above 1 is slower."""
    slower = [one / other for one, other in zip(rates, seen_rates, strict=True)]
    return {
        "queries_per_s_without": statistics.median(rates),
        "queries_per_s_seen": statistics.median(seen_rates),
        "time": statistics.median(slower),
        "processor": statistics.median(other / one for one, other in zip(costs, seen_costs, strict=True)),
        "processor_ms_without": 1000 * statistics.fmean(costs),
        "processor_ms_seen": 1000 * statistics.fmean(seen_costs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", help="folder with the code that the workers without run")
    parser.add_argument("--blocks", type=int, default=20, help="blocks of each batch and side")
    parser.add_argument("--batch", type=int, action="append", choices=list(BATCHES), help="examples of a query; both, unless given")
    parser.add_argument("--control", action="store_true", help="see neither side: what is found then is noise")
    parser.add_argument("--swap", action="store_true", help="start the side that is seen first")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    result = asyncio.run(measure(given.before, given.blocks, given.batch or list(BATCHES), control=given.control, swap=given.swap))
    if given.json:
        print(json.dumps(result))
    else:
        for batch in given.batch or list(BATCHES):
            one = result[str(batch)]
            print(f"batch {batch}: time x {one['time']:.4f}, processor x {one['processor']:.4f} (bar {LIMIT}); {one}")

"""What a federated round costs: `python -m benchmarks.federated_rounds [--json] [--rounds N] [--flower PYTHON]`.

The owners are trivial: what comes back is the weights plus one. Simulated owners are in this process, owners of the network in processes
of their own, over websockets on loopback. With `--flower` (a Python that has `flwr[simulation]`) Flower does the same in the same run,
one after the other; without it the documented figures of Flower 1.42 on two cores stand in, marked with a star.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.table import Table

from actors import Actor, ActorSystem, ChildProcess, exit_with_parent, message
from federated import Evaluation, FedAvg, Federation, Owner, Task, Update

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Case:
    """So many owners with so many float32 parameters; Flower's documented seconds, and the ratio that is to be reached."""

    kind: str
    owners: int
    parameters: int
    documented: float
    bar: float | None


CASES = [
    Case("simulation", 10, 100_000, 0.103, 1 / 10),
    Case("simulation", 10, 1_000_000, 0.264, None),
    Case("simulation", 100, 100_000, 0.844, 1 / 10),
    Case("simulation", 100, 1_000_000, 1.73, 1 / 5),
    Case("simulation", 1000, 100_000, 20.2, 1 / 20),
    Case("network", 2, 1_000_000, 0.057, 1 / 2),
    Case("network", 10, 1_000_000, 0.21, 1 / 2),
    Case("network", 2, 10_000_000, 1.14, 1 / 2),
    Case("network", 10, 10_000_000, 6.17, 1 / 2),
]
WARM = 2
"""First rounds that do not count."""


def plus_one(task: Task) -> Update:
    delta = [np.ones_like(array) for array in task.weights]
    for array in delta:
        array.flags.writeable = False  # as a DataOwner does: it leaves without being copied
    return Update(task.round, delta, 1, {})


class Trivial:
    """An owner that is no Keras model: anything with these messages is an owner."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def train(self, task: Task) -> Update:
        return plus_one(task)

    async def evaluate(self, task: Task) -> Evaluation:
        return Evaluation(task.round, 0, {})


class TrivialActor(Actor):
    @message
    async def train(self, task: Task) -> Update:
        return plus_one(task)

    @message
    async def evaluate(self, task: Task) -> Evaluation:
        return Evaluation(task.round, 0, {})


class Far:
    """A trivial owner in another process."""

    def __init__(self, system: ActorSystem, url: str) -> None:
        self._system, self.name = system, url

    async def train(self, task: Task) -> Update:
        return await (await self._system.connect(self.name, TrivialActor)).with_options(timeout=None).train(task)

    async def evaluate(self, task: Task) -> Evaluation:
        return Evaluation(task.round, 0, {})


def model_of(parameters: int) -> keras.Model:
    import keras

    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(parameters, use_bias=False, kernel_initializer="zeros")])
    model.compile(optimizer="sgd", loss="mse")
    return model


async def rounds(owners: list[Owner], parameters: int, count: int) -> list[float]:
    """Seconds of each round, as a caller of `rounds` sees them."""
    federation, seconds = Federation(model=lambda: model_of(parameters), owners=owners, strategy=FedAvg(), progress=False), []
    async with federation:
        began = time.perf_counter()
        async for outcome in federation.rounds(count + WARM):
            seconds.append(time.perf_counter() - began)
            if outcome.failure:
                raise RuntimeError(str(outcome))
            began = time.perf_counter()
        moved = federation.model.get_weights()[0]
    if not np.allclose(moved, count + WARM, atol=1e-3):
        raise RuntimeError("the owners' updates did not arrive as they should")
    return seconds[WARM:]


async def simulated(owners: int, parameters: int, count: int) -> list[float]:
    return await rounds([Trivial(f"owner-{i}") for i in range(owners)], parameters, count)


async def networked(owners: int, parameters: int, count: int) -> list[float]:
    async with contextlib.AsyncExitStack() as stack:
        children = [await ChildProcess.start("benchmarks.federated_rounds", "owner") for _ in range(owners)]
        for child in children:
            stack.push_async_callback(child.stop)
        system = await stack.enter_async_context(ActorSystem())
        return await rounds([Far(system, f"{child.address}/owner") for child in children], parameters, count)


async def be_owner() -> None:
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(TrivialActor, name="owner")
        print(f"ready {system.address}", flush=True)
        await exit_with_parent()


@dataclass(frozen=True)
class Result:
    """Median seconds a round."""

    kind: str
    owners: int
    parameters: int
    seconds: float
    flower: float
    documented: bool
    ratio: float
    bar: float | None


def flower(python: str | None, case: Case, count: int) -> tuple[float, bool]:
    """Flower's median, and whether it is the documented one."""
    if python is None:
        return case.documented, True
    script = Path(__file__).parent / "peers" / "flower.py"
    command = [python, str(script), case.kind, str(case.owners), str(case.parameters), str(count + WARM)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    return statistics.median(json.loads(done.stdout.splitlines()[-1])[WARM:]), False


def measured(case: Case, python: str | None, count: int) -> Result:
    work = {"simulation": simulated, "network": networked}[case.kind]
    seconds = statistics.median(asyncio.run(work(case.owners, case.parameters, count)))
    other, documented = flower(python, case, count)
    return Result(case.kind, case.owners, case.parameters, seconds, other, documented, seconds / other, case.bar)


def table(results: Iterable[Result]) -> Table:
    shown = Table("", "owners", "parameters", "confide, s", "Flower, s", "ratio", "bar")
    for one in results:
        star = "*" if one.documented else ""
        bar = "" if one.bar is None else f"{'[green]' if one.ratio <= one.bar else '[red]'}{one.bar:.3f}[/]"
        cells = f"{one.seconds:.4f}", f"{one.flower:.4f}{star}", f"{one.ratio:.4f}", bar
        shown.add_row(one.kind, f"{one.owners:,}", f"{one.parameters:,}", *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--flower", metavar="PYTHON")
    arguments = parser.parse_args()
    results = [measured(case, arguments.flower, arguments.rounds) for case in CASES]
    if arguments.json:
        print(json.dumps([asdict(one) for one in results], indent=1))
    else:
        Console(width=100).print(table(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["owner"]:
        asyncio.run(be_owner())
    else:
        main()

"""What a securely aggregated round costs: `python -m benchmarks.secure_rounds [--json] [--rounds N]`.

Owners and aggregator are in one process on this machine; training is trivial (every weight grows by one), the cryptography is all real.
Weights are 1, updates are within +-8, as in the runs of Flower 1.42's SecAgg+ on two cores whose seconds stand beside ours. Flower's
neighbourhoods are 13 (15) with thresholds 8 (9); ours 14 (16) with thresholds 10 (11): more than two thirds, which an aggregator that
does not follow the protocol makes necessary. `error` is the largest difference to the plain mean,
`failed` counts rounds in which too many neighbours of one owner had dropped out: they are played again, and not in the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from federated import Evaluation, OwnerDropped, OwnMasker, SecureAggregation, Task, Update
from federated.owners.masker import Masker
from federated.rounds.gathering import Gathering
from federated.rounds.rounds import RoundBook
from federated.tasks.update import Blueprint, LocalTraining
from protocols.secure_aggregation.session import MaskedVector


@dataclass(frozen=True)
class Case:
    """So many owners and float32 parameters on a graph; Flower's seconds without and with 10 % dropouts; the ratio to be reached."""

    owners: int
    parameters: int
    degree: int
    flower: tuple[float | None, float | None]
    bar: float


CASES = [
    Case(50, 1_000_000, 14, (6.9, None), 1 / 10),
    Case(100, 100_000, 16, (11.1, 10.2), 1 / 10),
    Case(50, 1_000_000, 49, (33.0, 41.0), 1 / 15),
    Case(100, 100_000, 99, (208.0, None), 1 / 40),
]


class Vanishing(OwnMasker):
    async def mask(self, session: bytes, sealed: dict[int, bytes]) -> MaskedVector:
        raise OwnerDropped("gone")


class Owner:
    """Its update is its own, so that the mean can be checked; it may vanish after it has shared its secrets, where that costs most."""

    def __init__(self, number: int, parameters: int, *, vanishes: bool) -> None:
        self.name = f"owner-{number}"
        self.delta = np.full(parameters, 1 + number / 1000, np.float32)
        self._own = (Vanishing if vanishes else OwnMasker)(self.train)

    async def train(self, task: Task) -> Update:
        return Update(task.round, [self.delta], 1, {})

    async def evaluate(self, task: Task) -> Evaluation:
        return Evaluation(task.round, 0, {})

    async def masker(self) -> Masker:
        return self._own


class Unlucky(Exception):
    """Too many neighbours of an owner have vanished: on a sparse graph that happens in some rounds."""


async def played(case: Case, dropouts: float, number: int) -> tuple[float, float]:
    """Seconds of one round, and the largest error."""
    task = Task(number, Blueprint("", ""), [np.zeros(case.parameters, np.float32)], LocalTraining())
    lost = round(dropouts * case.owners)
    owners = [Owner(i, case.parameters, vanishes=i < lost) for i in range(case.owners)]
    book = RoundBook(number, [owner.name for owner in owners], quorum=1, weights=task.weights)
    gathering = Gathering(book, {owner.name: owner for owner in owners}, task, progress=lambda _: None)
    aggregation = SecureAggregation(threshold=0.66, most_examples=1, degree=case.degree)
    began = time.perf_counter()
    aggregate = await aggregation.gather(gathering, single_updates=False)
    seconds = time.perf_counter() - began
    if aggregate is None:
        raise Unlucky(f"the round failed: {book.failure}")
    mean = np.mean([float(owner.delta[0]) for owner in owners[lost:]])
    return seconds, float(np.abs(aggregate.delta[0] - mean).max())


@dataclass(frozen=True)
class Result:
    """Median seconds a round."""

    owners: int
    parameters: int
    graph: str
    dropouts: float
    seconds: float
    flower: float | None
    ratio: float | None
    bar: float
    error: float
    failed: int


async def measured(case: Case, dropouts: float, rounds: int) -> Result:
    runs: list[tuple[float, float]] = []
    failed = 0
    while len(runs) < rounds + 1:
        try:
            runs.append(await played(case, dropouts, len(runs) + failed + 1))
        except Unlucky:
            failed += 1
            if failed > rounds:
                raise
    runs = runs[1:]
    seconds = statistics.median(run[0] for run in runs)
    flower = case.flower[0 if dropouts == 0 else 1]
    graph = "complete" if case.degree == case.owners - 1 else f"{case.degree} neighbours"
    ratio = None if flower is None else seconds / flower
    return Result(case.owners, case.parameters, graph, dropouts, seconds, flower, ratio, case.bar, max(run[1] for run in runs), failed)


async def all_of_them(rounds: int) -> list[Result]:
    return [await measured(case, dropouts, rounds) for case in CASES for dropouts in (0.0, 0.1)]


def table(results: list[Result]) -> Table:
    shown = Table("owners", "parameters", "graph", "dropouts", "confide, s", "Flower*, s", "ratio", "bar", "error", "failed")
    for one in results:
        ratio = "" if one.ratio is None else f"{'[green]' if one.ratio <= one.bar else '[red]'}{one.ratio:.4f}[/]"
        flower = "" if one.flower is None else f"{one.flower:.1f}"
        start = f"{one.owners}", f"{one.parameters:,}", one.graph, f"{one.dropouts:.0%}", f"{one.seconds:.3f}"
        shown.add_row(*start, flower, ratio, f"{one.bar:.4f}", f"{one.error:.1e}", str(one.failed))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    results = asyncio.run(all_of_them(arguments.rounds))
    if arguments.json:
        print(json.dumps([asdict(one) for one in results], indent=1))
    else:
        Console(width=120).print(table(results))
        print("* as documented for version 1.42 on two cores of another day")


if __name__ == "__main__":
    main()

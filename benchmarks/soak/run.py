"""One soak: starts everything, brings faults, ends everything, and gives the findings."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.soak import enclosure
from benchmarks.soak.asking import Clients
from benchmarks.soak.faults import DISK, Stage, faketime, possible
from benchmarks.soak.findings import HEALED, Brought, Findings
from benchmarks.soak.oracle import Oracle
from benchmarks.soak.supervised import Supervised
from federated.machines import certificates
from federated.machines.cluster_file import ClusterFile
from federated.machines.node import computing_cluster
from protocols.storage.kept_models import KeptModels
from protocols.storage.vault import Vault

WORKERS = ("julia", "greg", "me")
ROLES = ("server", "server", "crypto_provider")
MODELS = ("ward", "ward-limited")
PAUSES = (1.0, 4.0)
"""Seconds between the end of one fault and the next."""
QUOTA = 60.0
"""Seconds after the last fault in which the quota is reached, if it was not before."""
CALM = 5.0
"""Seconds in which clients that have gone are forgotten."""


def addresses(enclosed: bool) -> list[str]:
    """Return where the workers listen."""
    if enclosed:
        return [f"wss://{host}:4000" for host in enclosure.wire(len(WORKERS))]
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in WORKERS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"wss://127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def cluster_file(folder: Path, reached: list[str], clients: list[str]) -> None:
    """Write cluster.toml and the certificates."""
    text = "".join(
        f'[nodes.{name}]\nrole = "{role}"\naddress = "{address}"\ndata = "{folder}/shares-{name}"\n'
        for name, role, address in zip(WORKERS, ROLES, reached, strict=True)
    )
    text += '[nodes.hospital]\nrole = "client"\n' + "".join(f'[nodes.{name}]\nrole = "client"\nmay = ["ask"]\n' for name in clients)
    (folder / "cluster.toml").write_text(text)
    certificates.issue(ClusterFile.read(folder / "cluster.toml").hosts, folder / "keys")


async def share_both(folder: Path, oracle: Oracle, quota: int) -> None:
    """Share the model twice, as its owner, who then goes."""
    import keras

    from protocols import share

    layers = keras.layers
    cluster = computing_cluster(folder / "cluster.toml", keys=folder / "keys", name="hospital")
    async with cluster:
        for name, requests in zip(MODELS, (10_000_000, quota), strict=True):
            model = keras.Sequential([layers.Input((12,)), layers.Dense(16), layers.ReLU(), layers.Dense(4)], name=name)
            model.set_weights(list(oracle.weights))
            async with await share(model, cluster, name=name, durable=folder / "rights") as shared:
                await shared.serve(requests, wait=False)


class Soak:
    """One soak.

    Args:
        folder: empty, of this soak only.
        minutes: of faults.
        seed: of faults and questions.
        clients: how many ask at a time.
        say: is told what happens.
    """

    def __init__(self, folder: Path, minutes: float, seed: int, clients: int, say: Callable[[str], None]) -> None:
        self._folder, self._minutes, self._say = folder, minutes, say
        self._draw, self._names = random.Random(seed), [f"analyst-{number}" for number in range(clients)]
        self.found = Findings(seed, quota=10 + int(5 * minutes), limited=MODELS[1])
        self._enclosed = enclosure.inside()
        self._seed = seed

    async def run(self) -> Findings:
        """Do all of it. Whatever happens, nothing that was started runs on."""
        library = faketime() if self._enclosed else None
        oracle = Oracle.drawn(self._seed)
        oracle.save(self._folder / "oracle.npz")
        cluster_file(self._folder, addresses(self._enclosed), self._names)
        workers = []
        for number, name in enumerate(WORKERS):
            clock = None
            if library is not None:
                clock = self._folder / f"{name}.clock", library
                clock[0].write_text("+0\n")
            workers.append(Supervised(name, self._folder, enclosure.within(number) if self._enclosed else [], clock))
            workers[-1].state.mkdir(mode=0o700)
            if self._enclosed:
                enclosure.small_disk(workers[-1].state, DISK)
        clients = Clients(self._folder, self._names, MODELS, self._seed)
        self.found.heard = clients.heard
        stage = Stage(workers, clients, self._draw, self._enclosed, library is not None)
        started = time.monotonic()
        looking = asyncio.create_task(self._look(workers))
        try:
            await asyncio.gather(*(worker.start() for worker in workers))
            self._say("three workers are ready")
            await share_both(self._folder, oracle, self.found.quota)
            self._say("two models are shared, and their owner is gone")
            await asyncio.sleep(CALM)
            before = [self._open(worker) for worker in workers]
            await clients.start()
            await self._answered(time.monotonic(), clients)
            started = time.monotonic()
            await self._faults(stage)
            self.found.seconds = time.monotonic() - started
            await self._quota_reached(clients)
            await clients.end()
            await asyncio.sleep(CALM)
            self.found.descriptors = {one.name: (count, self._open(one)) for one, count in zip(workers, before, strict=True)}
        finally:
            self.found.seconds = self.found.seconds or time.monotonic() - started
            looking.cancel()
            await clients.end(within=5.0)
            self.found.codes = dict(zip(WORKERS, await asyncio.gather(*(worker.end() for worker in workers)), strict=True))
            self._left(workers, clients)
        return self.found

    async def _faults(self, stage: Stage) -> None:
        can, self.found.skipped = possible(stage)
        end = time.monotonic() + 60 * self._minutes
        order = self._in_turn(list(can), [fault.weight for fault in can.values()])
        while time.monotonic() < end:
            await asyncio.sleep(self._draw.uniform(*PAUSES))
            kind, began = next(order), time.monotonic()
            whom = await can[kind].bring(stage)
            over = time.monotonic()
            healed = await self._answered(over, stage.clients)
            start = max(worker.starts[-1] for worker in stage.workers if worker.name == whom) if kind == "kill" else 0.0
            self.found.brought.append(Brought(kind, whom, began, over, healed, start))
            silence = self.found.brought[-1].silence(self.found.heard.times)
            known = "answers again" if healed is not None else f"no answer for {HEALED:g} s"
            self._say(f"{kind} ({whom}), {over - began:.1f} s: {known}, silence {silence:.1f} s, {len(self.found.heard.times)} answers")

    def _in_turn(self, kinds: list[str], weights: list[int]) -> Iterator[str]:
        """Yield each kind once, then as they are drawn."""
        first = list(kinds)
        self._draw.shuffle(first)
        yield from first
        while True:
            yield self._draw.choices(kinds, weights)[0]

    async def _answered(self, since: float, clients: Clients) -> float | None:
        """Wait for a right answer later than `since`; return when it came."""
        times = self.found.heard.times
        end = max(since, time.monotonic()) + HEALED
        while time.monotonic() < end:
            if times and times[-1] > since:
                return times[-1]
            if not clients.alive:
                raise RuntimeError("all clients have ended by themselves; --folder keeps clients.log, which says why")
            await asyncio.sleep(0.05)
        return None

    async def _quota_reached(self, clients: Clients) -> None:
        """Let clients ask on until one of them is told that the quota is spent."""
        end = time.monotonic() + QUOTA
        while time.monotonic() < end and clients.alive and not clients.heard.spent[MODELS[1]]:
            await asyncio.sleep(0.1)

    async def _look(self, workers: list[Supervised]) -> None:
        while True:
            for worker in workers:
                worker.look()
            await asyncio.sleep(1)

    def _open(self, worker: Supervised) -> int:
        worker.look()
        return worker.lives[-1].seen[-1][2] if worker.lives and worker.lives[-1].seen else 0

    def _left(self, workers: list[Supervised], clients: Clients) -> None:
        """Look at what is there when all have ended."""
        found = self.found
        found.clients = dict(clients.codes)
        found.lives = {worker.name: worker.lives for worker in workers}
        found.unasked = {worker.name: worker.unasked for worker in workers}
        if self._enclosed:
            found.processes = enclosure.others()
        for worker in workers:
            found.files += [str(path.relative_to(self._folder)) for path in sorted(worker.state.rglob("*")) if strange(path)]
            counted = {}
            with contextlib.closing(Vault.open(worker.state)) as vault:
                models, damaged = KeptModels(vault).found(frozenset({0, 1, 2}))
                for model in models:
                    counted[model.label.name] = model.counted.requests
                    model.counts.close()
                found.files += [f"{worker.name}: {name}: {why}" for name, why in damaged.items()]
            found.counted[worker.name] = (counted.get(MODELS[1], -1), counted.get(MODELS[0], -1))
        logs = sorted(self._folder.glob("*.log"))
        found.tracebacks = {path.name: path.read_text(errors="replace").count("Traceback (most recent call last)") for path in logs}


def strange(path: Path) -> bool:
    """Whether a file of a worker's folder is none that a worker keeps: of one that was begun and not ended, or of nobody."""
    ends = (".share", ".counts", ".counts-wal", ".counts-shm")
    return path.is_file() and path.name not in ("key", "lock") and not path.name.endswith(ends)

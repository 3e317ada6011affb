"""Models that stay, and workers that are killed: real processes, kill -9, as often as it takes."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from certified import PEOPLE, WORKERS, Certified, Machine, configured
from federated.command import app
from protocols import Cluster, Worker, connect, share
from protocols.errors import Busy, QuotaSpent, WorkerLost
from protocols.storage.kept_models import KeptModels
from protocols.storage.vault import Vault

ROOT = Path(__file__).parents[3]
NAMES = ("julia", "greg", "me")
X = np.random.default_rng(0).uniform(size=(50, 12)).astype(np.float32)
QUOTA = 120


def cluster_of(machines, equals: bool) -> Cluster:
    workers = [Worker(machine.address) for machine in machines]
    return Cluster(*workers, auto_managed=False) if equals else Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False)


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((12,)), layers.Dense(16), layers.ReLU(), layers.Dense(4)], name="small")


@pytest.mark.timeout(400)
@pytest.mark.long
@pytest.mark.parametrize("equals", [False, True])
async def test_each_worker_is_killed_again_and_again_while_clients_ask(tmp_path, equals):
    """No wrong answer, none beyond the quota, a unit lost at most for each request that a kill met, and nobody does anything."""
    model = network()
    expected = model.predict(X, verbose=0)
    machines = [Machine(tmp_path / name) for name in NAMES]
    answered, interrupted, ended = [], [], asyncio.Event()
    try:
        await asyncio.gather(*(machine.start() for machine in machines))
        async with cluster_of(machines, equals) as cluster, await share(model, cluster, durable=tmp_path) as shared:
            await shared.serve(QUOTA, wait=False)

        async def client(number: int) -> None:
            async with connect(cluster_of(machines, equals), "small", timeout=60) as remote:
                for turn in range(1000):
                    place = (7 * number + turn) % 48
                    try:
                        found = await remote.query(X[place : place + 2], timeout=60)
                    except QuotaSpent:
                        ended.set()
                        return
                    except (WorkerLost, Busy) as error:
                        interrupted.append(str(error))
                        continue
                    np.testing.assert_allclose(found, expected[place : place + 2], atol=0.005)
                    answered.append(place)
                    await asyncio.sleep(0.1)

        async def killer() -> int:
            kills = 0
            while not ended.is_set():
                machine = machines[kills % 3]
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), 1.5)
                before = len(answered)
                await machine.kill()
                await machine.start()
                kills += 1
                async with asyncio.timeout(60):
                    while len(answered) == before and not ended.is_set():
                        await asyncio.sleep(0.02)
            return kills

        async with asyncio.timeout(300):
            *_, kills = await asyncio.gather(*(client(number) for number in range(4)), killer())
    finally:
        await asyncio.gather(*(machine.kill() for machine in machines))
    assert kills >= 3
    assert not interrupted
    assert QUOTA - 4 * kills <= len(answered) <= QUOTA, (len(answered), kills)
    counted = {}
    for machine in machines:
        with contextlib.closing(Vault.open(machine.folder)) as vault:
            (found,), damaged = KeptModels(vault).found(frozenset({0, 1, 2}))
            counted[found.about.party] = found.counted
            found.counts.close()
        assert not damaged
    print(f"{len(answered)} answers, {kills} kills, counted {[counted[party].requests for party in range(3)]}")
    for party in range(3):
        assert len(answered) <= counted[party].requests <= QUOTA
        assert 2 * len(answered) <= counted[party].examples <= 2 * QUOTA
    assert counted[2].requests == QUOTA


class Node(Machine):
    """A `confide run NAME` of a cluster file, over wss."""

    def __init__(self, made: Certified, name: str) -> None:
        self.command = ["run", name, "--cluster", str(made.file), "--keys", str(made.keys)]
        self.process = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "federated.command", *self.command]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL, env=environment)
        while not (line := (await self.process.stdout.readline()).decode()).startswith("ready wss://"):
            assert line


async def confide(*arguments) -> tuple[int, str]:
    shown = await asyncio.to_thread(CliRunner().invoke, app, [str(one) for one in arguments], env={"COLUMNS": "300"})
    return shown.exit_code, shown.output


@pytest.mark.timeout(240)
@pytest.mark.long
async def test_over_tls_from_a_cluster_file_the_right_and_the_certificate_are_both_needed(tmp_path):
    made = configured(tmp_path, PEOPLE | {"other": 'role = "client"\n'}, keeps=True)
    model = network()
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "ward.keras")
    nodes = [Node(made, name) for name in WORKERS]
    where = ["--cluster", made.file, "--keys", made.keys, "--models", tmp_path / "rights", "--as"]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        code, shown = await confide("serve", tmp_path / "ward.keras", "--requests", 20, *where, "hospital")
        assert code == 0, shown
        async with connect(made.cluster("analyst"), "ward", owner="hospital") as remote:
            for number, node in enumerate(nodes):
                np.testing.assert_allclose(await remote.query(X[:3]), expected[:3], atol=0.005)
                await node.kill()
                asking = asyncio.create_task(remote.query(X[number : number + 2]))  # asked while it is away
                await node.start()
                np.testing.assert_allclose(await asking, expected[number : number + 2], atol=0.005)
            assert remote.owner == "hospital"
        code, shown = await confide("models", "limit", "ward", "--requests", 100, *where, "other")
        assert (code, "only who placed it may do this" in shown) == (1, True), shown
        code, shown = await confide("models", "stop", "ward", *where, "other")
        assert (code, "only who placed it may do this" in shown) == (1, True), shown
        code, shown = await confide("models", "list", *where, "hospital")
        assert (code, "served" in shown) == (0, True), shown
        code, shown = await confide("models", "stop", "ward", *where, "hospital")
        assert (code, "removed ward" in shown) == (0, True), shown
    finally:
        await asyncio.gather(*(node.kill() for node in nodes))

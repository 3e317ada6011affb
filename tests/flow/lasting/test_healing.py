"""Models that stay, and workers that are frozen, or told to end and started again: real processes, and clients that ask all along."""

import asyncio
import signal
import time

import keras
import numpy as np
import psutil
import pytest

from certified import Machine
from protocols import Cluster, Worker, connect, share
from protocols.errors import WorkerLost, WorkerUnreachable
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider

NAMES = ("julia", "greg", "me")
X = np.random.default_rng(0).uniform(size=(50, 12)).astype(np.float32)


def network():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential([layers.Input((12,)), layers.Dense(16), layers.ReLU(), layers.Dense(4)], name="small")


def cluster_of(machines) -> Cluster:
    workers = [Worker(machine.address) for machine in machines]
    return Cluster(*workers[:2], crypto_provider=workers[2], auto_managed=False)


@pytest.fixture
async def machines(tmp_path):
    made = [Machine(tmp_path / name) for name in NAMES]
    try:
        await asyncio.gather(*(machine.start() for machine in made))
        async with cluster_of(made) as cluster, await share(network(), cluster, durable=tmp_path) as shared:
            await shared.serve(100_000, wait=False)
        yield made
    finally:
        for machine in made:
            if machine.process is not None:
                await machine.kill()


@pytest.mark.timeout(400)
@pytest.mark.long
async def test_a_rolling_restart_fails_no_query(machines):
    """Four clients with a deadline of 30 s each; each worker is told to end, has ended what was under way, and is started again."""
    expected = network().predict(X, verbose=0)
    ended, answered, begun, silent = asyncio.Event(), [], [], []

    async def client(number: int) -> None:
        async with connect(cluster_of(machines), "small", timeout=30) as remote:
            place = number
            while not ended.is_set():
                found = await remote.query(X[place : place + 2], timeout=30)
                np.testing.assert_allclose(found, expected[place : place + 2], atol=0.005)
                answered.append(time.monotonic())
                place = (place + 7) % 48
                await asyncio.sleep(0.02)

    async def administrator() -> None:
        for machine in machines:
            before = len(answered)
            while len(answered) < before + 20:
                await asyncio.sleep(0.02)
            machine.process.send_signal(signal.SIGTERM)
            told = time.monotonic()
            assert await machine.process.wait() == 0
            machine.process._transport.close()
            down = time.monotonic()
            await machine.start()
            started, before = time.monotonic(), len(answered)
            begun.append((down - told, started - down))
            while len(answered) == before:
                await asyncio.sleep(0.01)
            silent.append(time.monotonic() - started)
        ended.set()

    async with asyncio.timeout(300):
        await asyncio.gather(administrator(), *(client(number) for number in range(4)))
    print(f"{len(answered)} answers; seconds to end and to start {begun}; silent after that {silent}")
    assert max(silent) <= 5


@pytest.mark.timeout(400)
@pytest.mark.long
async def test_a_worker_that_is_frozen_for_30_seconds_is_found_and_comes_back(machines):
    expected = network().predict(X, verbose=0)
    seen = []
    async with connect(cluster_of(machines), "small", timeout=30) as remote:
        for machine in machines:
            np.testing.assert_allclose(await remote.query(X[:2]), expected[:2], atol=0.005)
            before = {one: _links(one, machine) for one in machines if one is not machine}
            assert all(before.values())
            machine.process.send_signal(signal.SIGSTOP)
            begun = time.monotonic()
            try:
                asking = asyncio.create_task(remote.query(X[2:4], timeout=120))
                async with asyncio.timeout(30):
                    while any(before[one] & _links(one, machine) for one in before):
                        await asyncio.sleep(0.1)
                seen.append(time.monotonic() - begun)
                await asyncio.sleep(max(0.0, 30 - (time.monotonic() - begun)))
            finally:
                machine.process.send_signal(signal.SIGCONT)
            back = time.monotonic()
            np.testing.assert_allclose(await asking, expected[2:4], atol=0.005)
            print(f"found after {seen[-1]:.1f} s, answered {time.monotonic() - back:.1f} s after its end")
    assert max(seen) <= 20, seen  # 15 on a machine that is not busy


def _links(one: Machine, other: Machine) -> set[tuple[int, int]]:
    """The connections between two processes, as the first has them: its ports and those of the other."""

    def tcp(machine: Machine):
        return [each for each in psutil.Process(machine.process.pid).net_connections("tcp") if each.raddr and each.status == "ESTABLISHED"]

    theirs = {(each.raddr.port, each.laddr.port) for each in tcp(other)}
    return {(each.laddr.port, each.raddr.port) for each in tcp(one)} & theirs


@pytest.mark.parametrize("party", range(3))
async def test_a_worker_that_is_told_to_end_has_no_request_begun(three, party):
    model = keras.Sequential([keras.layers.Input((12,)), keras.layers.Dense(3)], name="small")
    await three.share(model, 10)
    async with connect(three.cluster, "small", timeout=10) as remote:
        await remote.query(X[:1])
        system = three.inner[three.place(party)].system
        name, kind = ("server", ComputeServer) if party < 2 else ("provider", CryptoProvider)
        await (await system.connect(f"{system.address}/{name}", kind)).drain()
        with pytest.raises(WorkerLost, match=r"did not answer 1 examples within 0.3 s \(.* has been told to end \(draining\)"):
            await remote.query(X[:1], timeout=0.3)
        await three.restart(three.place(party))
        assert (await remote.query(X[:1])).shape == (1, 3)
        assert three.kept(2).requests == 2


async def test_connect_says_what_it_has_waited_for(three, caplog):
    await three.share(keras.Sequential([keras.layers.Input((12,)), keras.layers.Dense(3)], name="small"), 10)
    await three.stop(three.place(1))
    with pytest.raises((WorkerUnreachable, WorkerLost), match=three.addresses[three.place(1)]):
        async with connect(three.cluster, "small", timeout=0.5):
            pass
    assert "connect waits" in caplog.text
    await three.start(three.place(1))

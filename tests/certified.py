"""Three workers as `confide run` starts them, over wss with certificates, and whoever else the cluster file names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

from federated.machines import certificates
from federated.machines.cluster_file import ClusterFile
from federated.machines.node import computing_cluster
from protocols import Cluster

WORKERS = ("julia", "greg", "me")
FEDERATION = """
import numpy as np
from federated import FedAvg, Federation


def data(name):
    x = np.random.default_rng(ord(name)).normal(size=(40, 4)).astype("float32")
    return x, (x.sum(1) > 0).astype(int)


def federation(owners):
    import keras
    def build():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model
    return Federation(model=build, owners=owners, strategy=FedAvg(batch_size=8), quorum=0.01)
"""
"""What a cluster file may name as data and federation: an aggregator and its owners, of one layer."""
PEOPLE = {"hospital": 'role = "client"\n', "analyst": 'role = "client"\nmay = ["ask"]\n'}


class Machine:
    """A `confide worker` that is killed and started again at the same port with the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, "127.0.0.1:0"
        self.process: Any = None

    async def start(self) -> None:
        command = [sys.executable, "-m", "federated.command", "worker", self.address, "--data", str(self.folder)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=DEVNULL, env=environment)
        line = (await self.process.stdout.readline()).decode()
        assert line.startswith("ready ws://"), line
        self.address = line.split()[1].removeprefix("ws://")

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        self.process._transport.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: others may only take them in between."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class Certified:
    """A folder with cluster.toml and keys, and the addresses of the three workers in it."""

    folder: Path
    addresses: tuple[str, str, str]

    @property
    def file(self) -> Path:
        """The cluster file."""
        return self.folder / "cluster.toml"

    @property
    def keys(self) -> Path:
        """The folder of the certificates."""
        return self.folder / "keys"

    def cluster(self, name: str) -> Cluster:
        """The three workers, as the holder of the certificate of this name uses them."""
        return computing_cluster(self.file, keys=self.keys, name=name)

    def tls(self, name: str) -> SSLContext:
        """What the holder of this certificate connects with."""
        context = certificates.encryption(self.keys, name).connect
        assert context is not None
        return context


def configured(folder: Path, people: Mapping[str, str] = PEOPLE, *, equals: bool = False, keeps: bool = False, more: str = "") -> Certified:
    """Write the cluster file and the certificates; workers that keep data have a folder for them."""
    addresses = tuple(f"wss://127.0.0.1:{port}" for port in free_ports(3))
    roles = ("server", "server", "server" if equals else "crypto_provider")
    data = f'data = "{folder}/shares-{{}}"\n' if keeps else ""
    text = "".join(
        f'[nodes.{name}]\nrole = "{role}"\naddress = "{address}"\n{data.format(name)}'
        for name, role, address in zip(WORKERS, roles, addresses, strict=True)
    )
    text += "".join(f"[nodes.{name}]\n{table}" for name, table in people.items()) + more
    made = Certified(folder, (addresses[0], addresses[1], addresses[2]))
    made.file.write_text(text)
    certificates.issue(ClusterFile.read(made.file).hosts, made.keys)
    return made


@contextlib.asynccontextmanager
async def running(
    made: Certified, *names: str, told: Callable[[str], list[str]] = lambda name: []
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Processes `confide run NAME`, by default of the three workers; all of them end with the block, and must end well.

    `told` says with which options each of them runs.
    """
    processes: list[asyncio.subprocess.Process] = []
    try:
        for name in names or WORKERS:
            command = [sys.executable, "-m", "federated.command", "run", name, "--cluster", str(made.file), "--keys", str(made.keys)]
            command += told(name)
            processes.append(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            line = await process.stdout.readline()
            assert line.startswith(b"ready wss://"), line
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        assert [await process.wait() for process in processes] == [0] * len(processes)

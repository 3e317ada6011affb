"""Nodes that run while their certificates change: a worker as a process of its own, an owner's node; and what `confide status` says."""

import asyncio
import contextlib
import os
import signal
import sys

import pytest
from typer.testing import CliRunner

from actors import ActorSystem, ConnectFailed
from authorities import HOST, Members, shown
from federated.command import app
from federated.machines import node
from federated.machines.cluster_file import ClusterFile
from protocols.workers.compute_server import ComputeServer

CLUSTER = '[nodes.julia]\nrole = "server"\naddress = "{address}"\n\n[nodes.a]\nrole = "client"\n'
OWNER = """
[nodes.hub]
role = "aggregator"
address = "wss://127.0.0.1:1"
federation = "ward_data:none"
rounds = 1

[nodes.ward]
role = "owner"
address = "wss://127.0.0.1:9"
listen = "wss://127.0.0.1:0"
data = "ward_data:data"
"""
WARD = "import numpy as np\n\ndef data(name):\n    return np.zeros((4, 2), 'float32'), np.zeros(4)\n"


@pytest.fixture
def members(tmp_path):
    made = Members(tmp_path)
    made.add("julia", "server", HOST)
    made.add("a", "client", may=("ask",))
    made.add("b", "client", may=("ask",))
    return made


@contextlib.asynccontextmanager
async def worker(members):
    """A process `confide worker`; gives it and its address."""
    keys = members.keys("julia")
    own = ["--certificate", f"{keys}/julia.pem", "--key", f"{keys}/julia.key", "--authority", f"{keys}/ca.pem"]
    command = [sys.executable, "-m", "federated.command", "worker", f"{HOST}:0", *own]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    try:
        yield process, (await line(process, "ready ")).removeprefix("ready ")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


async def line(process, start):
    async with asyncio.timeout(120):
        while text := (await process.stdout.readline()).decode():
            if text.startswith(start):
                return text.rstrip()
    raise AssertionError(f"it ended before it said {start!r}: {(await process.stderr.read()).decode()[-2000:]}")


async def status(tmp_path, address, members, *options):
    (tmp_path / "cluster.toml").write_text(CLUSTER.format(address=address))
    arguments = ["status", "--cluster", str(tmp_path / "cluster.toml"), "--keys", str(members.keys("a")), *options]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    return result.exit_code, result.output


async def test_a_worker_takes_new_certificates_and_cuts_off_who_is_revoked_without_a_restart(members, tmp_path):
    a, b = members.credentials("a"), members.credentials("b")
    async with (
        worker(members) as (process, address),
        ActorSystem(connect_ssl=a.connect) as ours,
        ActorSystem(connect_ssl=b.connect) as theirs,
    ):
        at_a, at_b = [await system.connect(f"{address}/server", ComputeServer) for system in (ours, theirs)]
        old = await shown(address, b.connect)
        code, out = await status(tmp_path, address, members)
        assert (code, f"{old.not_valid_after_utc:%Y-%m-%d}" in out) == (0, True), out

        members.renew("julia", days=10)
        process.send_signal(signal.SIGHUP)
        assert "julia until" in await line(process, "certificates: ")
        new = await shown(address, b.connect)
        assert new.serial_number != old.serial_number
        assert await at_a.names() == await at_b.names() == []  # over the connections that they had
        code, out = await status(tmp_path, address, members)
        assert (code, "9 days left" in out) == (3, True), out
        assert (await status(tmp_path, address, members, "--warn-days", "5"))[0] == 0

        watching = asyncio.create_task(ours.watch(at_a))
        await asyncio.sleep(0)
        members.revoke("a", "julia")
        process.send_signal(signal.SIGHUP)
        assert "1 revoked" in await line(process, "certificates: ")
        assert "1008 the certificate of 'a' was revoked on" in (await watching).reason
        assert await at_b.names() == []
        with pytest.raises(ConnectFailed, match="403 the certificate of 'a' was revoked on"):
            await at_a.names()
        code, out = await status(tmp_path, address, members)
        said = " ".join(row.rpartition("│")[0].rpartition("│")[2].strip() for row in out.splitlines())  # the last column, however wide
        assert (code, "the certificate of 'a' was revoked" in said) == (1, True), out
        process.terminate()
        log = (await process.stderr.read()).decode()
        assert await process.wait() == 0
        assert "the certificate of 'julia' expires on" in log  # a warning
        assert "was closed: the certificate of 'a' was revoked on" in log
        assert "a connection from 127.0.0.1 was refused: the certificate of 'a' was revoked on" in log
        assert "BEGIN" not in log


async def test_a_node_of_an_owner(members, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "cluster.toml").write_text(OWNER)
    (tmp_path / "ward_data.py").write_text(WARD)
    keys, said = members.add("ward", "owner", HOST), asyncio.Queue()
    running = asyncio.create_task(node.run("ward", ClusterFile.read(tmp_path / "cluster.toml"), keys, said.put_nowait))
    try:
        async with asyncio.timeout(60):
            address = (await said.get()).removeprefix("ready ")
            a = members.credentials("a")
            old = (await shown(address, a.connect)).serial_number
            members.renew("ward")
            os.kill(os.getpid(), signal.SIGHUP)
            assert (await said.get()).startswith("certificates: ward until")
            assert (await shown(address, a.connect)).serial_number != old
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

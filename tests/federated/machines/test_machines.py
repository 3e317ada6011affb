"""Several machines as real processes of `confide`, over TLS on loopback: killed, restarted, interrupted, refused."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from certified import FEDERATION, free_ports
from federated.machines.certificates import issue

ROOT = Path(__file__).parents[3]
CONFIDE = (sys.executable, "-m", "federated.command")
CLUSTER = """
[nodes.hub]
role = "aggregator"
address = "wss://127.0.0.1:{port}"
federation = "hospital:federation"
rounds = {rounds}
patience = 1
save = "model.keras"

[nodes.a]
role = "owner"
data = "hospital:data"

[nodes.b]
role = "owner"
data = "hospital:data"
evaluation = "hospital:data"
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with code and keys; the cluster file comes with `write`."""
    (tmp_path / "hospital.py").write_text(FEDERATION)
    issue({"hub": "127.0.0.1", "a": None, "b": None}, tmp_path / "keys")
    write(tmp_path)
    return tmp_path


def write(folder, *, port=0, rounds=1_000_000):
    (folder / "cluster.toml").write_text(CLUSTER.format(port=port, rounds=rounds))


class Machine:
    """A process of `confide`, and the lines that it prints. They are read all the time, so that it never waits for its reader."""

    def __init__(self, process):
        self.process, self.lines, self._next = process, [], 0
        self._more = asyncio.Condition()
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async for line in self.process.stdout:
            await self._add(line.decode())
        await self._add("")

    async def _add(self, line):
        async with self._more:
            self.lines.append(line)
            self._more.notify_all()

    async def line(self, start):
        """Goes on until a line begins so."""
        while True:
            async with self._more:
                await self._more.wait_for(lambda: self._next < len(self.lines))
            line = self.lines[self._next]
            assert line, f"it ended before it printed {start!r}:\n{''.join(self.lines[-30:])}"
            self._next += 1
            if line.startswith(start):
                return line.rstrip()

    async def reports(self, owners):
        """Goes on until a round of so many of two owners is over."""
        while f": {owners} of 2 owners" not in await self.line("round "):
            pass

    async def rest(self):
        """All that it prints until it ends, and its exit code."""
        await self.reading
        return "".join(self.lines[self._next :]), await self.process.wait()

    async def end(self, how):
        self.process.send_signal(how)
        return await self.rest()


@contextlib.asynccontextmanager
async def confide(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    process = await asyncio.create_subprocess_exec(*CONFIDE, *arguments, cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT)
    machine = Machine(process)
    try:
        yield machine
    finally:
        if process.returncode is None:
            process.kill()
        await machine.rest()


def running(folder, name, keys="keys"):
    return confide(folder, "run", name, "--cluster", "cluster.toml", "--keys", str(keys))


async def shown(folder, *arguments):
    async with confide(folder, *arguments) as machine:
        return await machine.rest()


async def started(folder, hub):
    """Waits for the hub, and writes its port into the cluster file."""
    address = (await hub.line("ready ")).removeprefix("ready ")
    write(folder, port=int(address.rpartition(":")[2]))
    return address


@pytest.mark.timeout(300)  # TensorFlow is imported five times
@pytest.mark.long
async def test_owners_and_the_aggregator_are_killed_and_come_back(folder):
    async with running(folder, "hub") as hub, contextlib.AsyncExitStack() as stack:
        address = await started(folder, hub)
        a, b = [await stack.enter_async_context(running(folder, name)) for name in "ab"]
        await hub.reports(2)

        await b.end(signal.SIGKILL)
        await hub.line("b has left")
        await hub.reports(1)
        await hub.line("  b dropped: OwnerDropped: b is away: ")
        out, code = await shown(folder, "status", "--cluster", "cluster.toml", "--keys", "keys")
        assert code == 1
        assert "1 of 2 owners have joined" in out
        assert "has not joined" in out

        b = await stack.enter_async_context(running(folder, "b"))
        await hub.line("b has joined")
        await hub.reports(2)

        await hub.end(signal.SIGKILL)
        for owner in (a, b):
            await owner.line(f"not joined to {address}")
        again = await stack.enter_async_context(running(folder, "hub"))
        assert await again.line("ready ") == f"ready {address}"
        await again.reports(2)
        out, code = await shown(folder, "status", "--cluster", "cluster.toml")
        assert code == 0
        assert out.count("ready") == 3

        for machine, how, expected in ((a, signal.SIGINT, 130), (b, signal.SIGTERM, 143), (again, signal.SIGINT, 130)):
            out, code = await machine.end(how)
            assert code == expected
            assert "Traceback" not in out
            assert "Task" not in out


@pytest.mark.long
async def test_forged_names_and_other_authorities_are_refused(folder, tmp_path):
    forged, strange = tmp_path / "forged", tmp_path / "strange"
    forged.mkdir()
    for end in (".pem", ".key"):
        shutil.copy(folder / "keys" / f"b{end}", forged / f"a{end}")
    shutil.copy(folder / "keys" / "ca.pem", forged)
    issue({"a": None}, strange)
    async with running(folder, "hub") as hub:
        address = await started(folder, hub)
        async with running(folder, "a", forged) as forger, running(folder, "a", strange) as stranger:
            out, code = await forger.rest()
            assert code == 1
            assert out == "the certificate of this connection is that of 'b', not of 'a'\n"
            assert "certificate verify failed" in await stranger.line(f"not joined to {address}")
            await hub.line("refused: the holder of the certificate of 'b' from 127.0.0.1, who wanted to join as 'a'")
            assert not any("has joined" in line for line in hub.lines)
            _, code = await stranger.end(signal.SIGINT)
            assert code == 130
        out, code = await hub.end(signal.SIGINT)
        assert code == 130
        assert "Traceback" not in out


async def test_servers_and_the_provider_of_a_cluster_file(tmp_path):
    roles = {"julia": "server", "greg": "server", "me": "crypto_provider"}

    def place(addresses):
        nodes = (f'[nodes.{name}]\nrole = "{role}"\naddress = "{addresses[name]}"\n' for name, role in roles.items())
        (tmp_path / "cluster.toml").write_text("".join(nodes))

    addresses = {name: f"wss://127.0.0.1:{port}" for name, port in zip(roles, free_ports(3), strict=True)}
    place(addresses)
    issue(dict.fromkeys(roles, "127.0.0.1"), tmp_path / "keys")
    async with running(tmp_path, "julia") as julia, running(tmp_path, "greg") as greg, running(tmp_path, "me") as me:
        machines = {"julia": julia, "greg": greg, "me": me}
        assert {name: (await machine.line("ready ")).removeprefix("ready ") for name, machine in machines.items()} == addresses
        out, code = await shown(tmp_path, "status", "--cluster", "cluster.toml")
        assert code == 0, out
        assert out.count("ready") == 3
        assert out.count("models: none") == 2
        _, code = await greg.end(signal.SIGTERM)
        assert code == 0
        out, code = await shown(tmp_path, "status", "--cluster", "cluster.toml")
        assert code == 1
        assert "not ready" in out

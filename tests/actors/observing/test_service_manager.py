"""What systemd is told: ready, alive as long as the loop runs, ending."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from actors.observing.service_manager import announced


@contextlib.contextmanager
def manager(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.setblocking(False)
        yield channel


async def told(channel) -> str:
    return (await asyncio.get_running_loop().sock_recv(channel, 4096)).decode()


@pytest.mark.parametrize("abstract", [False, True])
async def test_it_says_that_it_is_ready_alive_and_ending(tmp_path, abstract):
    name = f"confide-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(f"\0{name}" if abstract else name) as channel:
        environment = {"NOTIFY_SOCKET": f"@{name}" if abstract else name, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())}
        async with announced(environment):
            assert [await told(channel) for _ in range(4)] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"]
        while (line := await told(channel)) == "WATCHDOG=1":
            pass
        assert line == "STOPPING=1"


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}])
async def test_signs_of_life_are_sent_if_they_are_asked_of_this_process(tmp_path, more):
    with manager(str(tmp_path / "notify")) as channel:
        async with announced({"NOTIFY_SOCKET": str(tmp_path / "notify"), **more}):
            assert await told(channel) == "READY=1"
        assert await told(channel) == "STOPPING=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "/nobody/is/here"}])
async def test_without_a_manager_that_can_be_told_it_runs_all_the_same(environment):
    async with announced(environment):
        pass


async def test_a_worker_tells_its_manager(tmp_path):
    """The command of the unit file: READY=1 when it can be reached, then WATCHDOG=1, and STOPPING=1 after SIGTERM."""
    with manager(str(tmp_path / "notify")) as channel:
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "600000",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "federated.command", "worker", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE, env=environment
        )
        assert await told(channel) == "READY=1"
        assert (await process.stdout.readline()).startswith(b"ready ws://")
        assert await told(channel) == "WATCHDOG=1"
        assert await told(channel) == "WATCHDOG=1"
        process.send_signal(signal.SIGTERM)
        while (line := await told(channel)) == "WATCHDOG=1":
            pass
        assert line == "STOPPING=1"
        assert await process.wait() == 0

"""The command `confide` as a person meets it: what it prints, and plain errors without a traceback."""

import asyncio

import pytest
from typer.testing import CliRunner

from actors import ActorSystem
from federated import sharing
from federated.command import app
from protocols import command
from protocols.workers.compute_server import ComputeServer


def run(*arguments: str) -> tuple[int, str]:
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exception is None or isinstance(shown.exception, SystemExit)
    return shown.exit_code, shown.output


async def test_status_of_a_worker_that_is_there_and_one_that_is_not():
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(ComputeServer, name="server")
        code, shown = await asyncio.to_thread(run, "status", system.address)
        assert code == 0
        assert "ready" in shown
        code, shown = await asyncio.to_thread(run, "status", system.address, "localhost:9")
    assert code == 1
    assert "unreachable" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("status", "localhost"), "expected 'host:port'"),
        (("status", "[abc]:x"), "'[abc]:x' is not the address of a worker"),
        (("status", "[::1"), "'[::1' is not the address of a worker"),
        (("status", "--cluster", "[ward]/cluster.toml"), "[ward]/cluster.toml cannot be read"),
        (("share", "--list", "--equals", "--cluster", "cluster.toml"), "--equals goes with --worker"),
        (("worker", "localhost"), "expected 'host:port'"),
        (("worker", "0.0.0.0:0"), "give --certificate, --key and --authority, or --allow-plaintext"),
        (("share", "--list", *("--worker", "192.0.2.1:1") * 3), "ws://192.0.2.1:1 is not on this machine: give --cluster"),
        (("worker", "localhost:0", "--key", __file__), "all three"),
        (
            ("worker", "localhost:0", *(word for name in ("certificate", "key", "authority") for word in (f"--{name}", __file__))),
            "no certificate",
        ),
    ],
)
def test_errors_are_one_line(arguments, complaint):
    code, shown = run(*arguments)
    assert code == 1
    assert complaint in shown
    assert "Traceback" not in shown


async def test_what_workers_and_people_write_in_brackets_is_shown(monkeypatch):
    """Rich would take it for markup."""

    async def states(workers):
        return [(True, "[ward] model") for _ in workers]

    monkeypatch.setattr(command, "worker_states", states)
    code, shown = await asyncio.to_thread(run, "status", "[fe80::1]:4000")
    assert code == 0
    assert "[fe80::1]:4000" in shown
    assert "[ward] model" in shown


async def test_data_are_left_with_three_equals_by_their_addresses(monkeypatch):
    asked = []

    async def show(among, console):
        asked.append(among())

    monkeypatch.setattr(sharing, "show", show)
    workers = [word for port in (4000, 4001, 4002) for word in ("--worker", f"localhost:{port}")]
    for more in ((), ("--equals",)):
        code, shown = await asyncio.to_thread(run, "share", "--list", *workers, *more)
        assert code == 0, shown
    assert [cluster.equals for cluster in asked] == [False, True]


async def test_a_port_in_use():
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        code, shown = await asyncio.to_thread(run, "worker", system.address)
    assert code == 1
    assert "in use by another process" in shown

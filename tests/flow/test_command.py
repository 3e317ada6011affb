"""The command `confide` as a person meets it: what it prints, and plain errors without a traceback."""

import asyncio

import pytest
from typer.testing import CliRunner

from actors import ActorSystem
from federated.command import app
from protocols.compute_server import ComputeServer


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
        (("worker", "localhost"), "expected 'host:port'"),
        (("worker", "0.0.0.0:0"), "not encrypted"),
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


async def test_a_port_in_use():
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        code, shown = await asyncio.to_thread(run, "worker", system.address)
    assert code == 1
    assert "in use by another process" in shown

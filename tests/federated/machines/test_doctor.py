"""What `confide doctor` says where something is not as it should be; `test_seen.py` has it look at workers that run."""

import json
import socket

import pytest
from typer.testing import CliRunner

from federated.command import app
from federated.doctor import machine, nodes
from federated.doctor.prediction import Route
from federated.machines.cluster_status import NodeState
from federated.machines.node_figures import Page
from protocols.mpc.engine.loops import Costs
from protocols.workers.worker_process import Encryption

WORKERS = "".join(f'[nodes.{name}]\nrole = "{role}"\naddress = "{{scheme}}://127.0.0.1:{{{name}}}"\n' for name, role in
                  (("julia", "server"), ("greg", "server"), ("me", "crypto_provider")))  # fmt: skip


@pytest.fixture
def taken():
    """A port of this machine that something else has."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = CliRunner().invoke(app, ["doctor", *arguments, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    assert told["ok"] == (done.exit_code == 0)
    return done.exit_code, {one["about"]: one for one in told["findings"]}


def test_this_machine_is_well():
    code, found = doctor()
    assert code == 0
    assert {"installation", "processor", "kernels", "Keras"} == set(found)
    assert "__pycache__" in found["kernels"]["text"]


def test_a_port_is_free_or_another_s_and_workers_are_there_or_not(tmp_path, taken):
    file = tmp_path / "cluster.toml"
    file.write_text(WORKERS.format(scheme="ws", julia=taken, greg=free(), me=free()))
    code, found = doctor("--cluster", str(file))
    assert code == 1
    assert found["julia: answers"]["verdict"] == "fault"
    assert "taken" in found["julia: answers"]["text"]
    assert (found["greg: answers"]["verdict"], found["greg: answers"]["todo"]) == ("warning", "confide run greg")


def test_certificates_that_are_missing_late_or_somebody_else_s(tmp_path, taken):
    file = tmp_path / "cluster.toml"
    file.write_text(WORKERS.format(scheme="wss", julia=free(), greg=free(), me=free()))
    code, found = doctor("--cluster", str(file))
    assert (code, found["certificates"]["verdict"]) == (1, "fault")
    keys = tmp_path / "keys"
    CliRunner().invoke(app, ["certs", str(file), "--out", str(keys), "--days", "5"], catch_exceptions=False)
    for end in ("pem", "key"):
        (keys / f"greg.{end}").write_bytes((keys / f"me.{end}").read_bytes())
    (keys / "me.pem").write_text("no PEM")
    code, found = doctor("--cluster", str(file))
    assert code == 1
    assert (found["julia: files"]["verdict"], "in 4 days" in found["julia: files"]["text"]) == ("warning", True)
    assert found["greg: files"]["verdict"] == found["me: files"]["verdict"] == "fault"
    assert "is the certificate of 'me'" in found["greg: files"]["text"]
    assert "me.pem" in found["me: files"]["text"]


@pytest.mark.parametrize(("date", "verdict", "says"), [
    ("Wed, 21 Oct 2015 07:28:00 GMT", "fault", "behind the clock here"),
    ("Wed, 21 Oct 2215 07:28:00 GMT", "fault", "ahead of the clock here"),
    ("noon", "warning", "cannot be read"),
])  # fmt: skip
async def test_a_clock_that_is_wrong(monkeypatch, date, verdict, says):
    monkeypatch.setattr(nodes, "page", lambda address, tls, path: Page(200, "ok", date))
    found = await nodes._clock("julia", nodes.Address.parse("ws://127.0.0.1:1"), Encryption())
    assert (found.verdict, says in found.text) == (verdict, True)


async def test_an_owner_that_has_not_joined_is_a_warning(tmp_path):
    file = tmp_path / "cluster.toml"
    file.write_text(WORKERS.format(scheme="ws", julia=1, greg=2, me=3))
    state = NodeState("ward", "owner", False, "has not joined the aggregator")
    [found] = await nodes._node(nodes.ClusterFile.read(file), state, Encryption(), {})
    assert found.verdict == "warning"


def test_kernels_that_cannot_be_kept_are_a_warning(monkeypatch):
    from protocols.mpc import kernels

    class Unkept:
        cache_path = None

    monkeypatch.setattr(kernels, "encode", type("Kernel", (), {"stats": Unkept()}))
    found = machine._kernels()
    assert (found.verdict, "NUMBA_CACHE_DIR" in found.todo) == ("warning", True)


def test_a_query_over_a_slow_network_takes_its_rounds_and_bytes():
    cost = Costs(rounds=10, sent=1_000_000, dealt=0)
    assert Route((0.02, 0.01), 0.03).seconds(cost) == pytest.approx(0.03 + 0.02 + 10 * 0.01)
    assert Route((0.02, 0.01), 0.03, bandwidth=8e6).seconds(cost) == pytest.approx(0.15 + 1.0)

"""What administrators see: of an aggregator and an owner in this process, and of three workers as real processes over TLS."""

import asyncio
import contextlib
import json
import logging
import math
import os
import sys
from datetime import UTC, datetime, timedelta

import dp_accounting
import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from actors import ActorSystem
from actors.observing.audit_file import verified
from actors.observing.audit_log import AuditLog
from actors.observing.observer import Observing
from certified import FEDERATION, configured, running
from federated import DataOwner, Policy
from federated.command import app
from federated.machines import node, node_figures
from federated.machines.cluster_file import ClusterFile
from federated.machines.cluster_status import NodeState
from federated.machines.node_figures import NodeFigures, figures
from federated.status_command import StatusReport, show
from privacy import Ledger
from protocols import connect, share

HUB = """
[nodes.hub]
role = "aggregator"
address = "ws://localhost:9000"
listen = "ws://127.0.0.1:0"
federation = "seen_clinic:federation"
rounds = 100000
wait = 0
patience = 0.2

[nodes.a]
role = "owner"
data = "seen_clinic:data"
address = "{address}"

[nodes.b]
role = "owner"
data = "seen_clinic:data"
address = "ws://127.0.0.1:1"
"""
WATCHER = 'role = "client"\nmay = ["watch"]\n'


def value(seen: NodeFigures, name: str, **labels: str) -> float:
    [found] = [one["value"] for one in seen.values[name] if labels.items() <= one.items()]
    return float(found)


def confide(*arguments: str) -> tuple[int, str]:
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    return shown.exit_code, shown.output


async def test_rounds_and_owners_are_seen_at_the_aggregator_and_at_an_owner(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "seen_clinic.py").write_text(FEDERATION)
    file = tmp_path / "cluster.toml"

    def read(address: str) -> ClusterFile:
        file.write_text(HUB.format(address=address))
        return ClusterFile.read(file)

    said: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.timeout(120), contextlib.AsyncExitStack() as stack:

        async def begun(name: str, cluster: ClusterFile) -> str:
            observing = Observing(audit=tmp_path / f"{name}.jsonl")
            task = asyncio.create_task(node.run(name, cluster, None, said.put_nowait, observing))
            stack.push_async_callback(asyncio.gather, task, return_exceptions=True)
            stack.callback(task.cancel)
            while not (line := await said.get()).startswith("ready "):
                pass
            return line.removeprefix("ready ")

        owner = await begun("a", read("ws://127.0.0.1:0"))
        hub = await begun("hub", read(owner))
        while not (await said.get()).startswith("round 2"):
            pass
        at_hub, at_owner = await figures(hub, None), await figures(owner, None)
    assert value(at_hub, "confide_federated_rounds_total", outcome="played") >= 2
    assert value(at_hub, "confide_federated_owners_asked_total", standing="reported") >= 2
    assert value(at_hub, "confide_federated_owners_asked_total", standing="dropped") >= 2
    assert value(at_hub, "confide_federated_rounds_over") >= 2
    assert value(at_hub, "confide_federated_bytes_total") > 0
    assert value(at_owner, "confide_services_total", kind="training") >= 2
    assert value(at_owner, "confide_messages_total", message="DataOwner.train", outcome="answered") >= 2
    events = [record for record in caplog.records if getattr(record, "event", "") in ("round", "owner dropped")]
    assert {(one.event, one.fields["round"]) for one in events} >= {("round", 1), ("owner dropped", 1), ("round", 2)}
    trained = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [one["facts"]["round"] for one in trained if one["what"] == "DataOwner.train" and one["decision"] == "answered"][:2] == [1, 2]
    assert verified(tmp_path / "hub.jsonl").entries >= 2


async def test_a_ledger_is_seen_at_its_owner(tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="ward", max_epsilon=5.0, delta=1e-5)
    async with ActorSystem("ws://127.0.0.1:0") as system:
        data = np.zeros((4, 2), np.float32), np.zeros((4, 1), np.float32)
        await system.spawn(DataOwner, data, ledger=ledger, policy=Policy(), name="owner")
        before = await figures(system.address, None)
        ledger.spend(dp_accounting.GaussianDpEvent(2.0))
        after = await figures(system.address, None)
    assert value(before, "confide_ledger_epsilon_spent", data="ward") == 0
    assert value(after, "confide_ledger_epsilon_spent", data="ward") == pytest.approx(ledger.epsilon())
    assert value(after, "confide_ledger_epsilon_budget", unit="example") == 5.0


async def test_three_real_workers_are_seen_from_outside(tmp_path):
    """Logs, metrics, audit and status of `confide run` over TLS, and who may read them."""
    made = configured(tmp_path, {"hospital": 'role = "client"\n', "analyst": 'role = "client"\nmay = ["ask"]\n', "eye": WATCHER})

    def told(name: str) -> list[str]:
        return ["--log-format", "json", "--log-level", "debug", "--audit", f"{tmp_path}/{name}.jsonl", "--metrics-port", "0"]

    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)], name="net")
    async with running(made, told=told) as processes:
        async with made.cluster("hospital") as owned, await share(model, owned, name="net") as shared:
            serving = asyncio.create_task(shared.serve(2))
            async with made.cluster("analyst") as asking, connect(asking, "net") as remote:
                await remote.query(np.zeros((3, 4)))
                seen = {name: await figures(made.addresses[0], made.tls(name)) for name in ("julia", "eye", "analyst", "hospital")}
                code, out = await asyncio.to_thread(confide, "status", "--cluster", str(made.file), "--json")
                examined = await asyncio.to_thread(
                    confide, "doctor", "--cluster", str(made.file), "--json", "--model", "net", "--examples", "3"
                )
                measured = remote.last
                heads = {one["name"]: one["audit_head"] for one in json.loads(out)["nodes"]}
                await remote.query(np.zeros((3, 4)))
            await serving
        code_of_table, table = await asyncio.to_thread(confide, "status", "--cluster", str(made.file))
        errors = []
        for process in processes:
            process.terminate()
            errors.append((await process.communicate())[1].decode())

    assert [bool(seen[name].missing) for name in seen] == [False, False, True, True]
    assert "403" in seen["analyst"].missing
    assert (value(seen["eye"], "confide_model_requests_left", model="net"), value(seen["eye"], "confide_models", part="server")) == (1, 1)
    assert 0 < value(seen["eye"], "confide_certificate_days_left") < 4000
    status = json.loads(out)
    assert (code, code_of_table, status["ready"]) == (0, 0, True)
    assert table.count("ready") == 6
    found = {one["about"]: one for one in json.loads(examined[1])["findings"]}
    assert (examined[0], {one["verdict"] for one in found.values()}) == (0, {"ok"}), found
    assert {"julia: files", "julia: certificate", "julia: answers", "me: round trip", "greg: clock", "eye: certificate"} <= set(found)
    predicted = found["net: a query"]["figures"]
    assert (predicted["rounds"], predicted["sent"]) == (measured.rounds, measured.servers[0].sent)
    assert 0 < predicted["seconds"] < measured.seconds, "the network alone"
    by = {one["name"]: one for one in status["nodes"]}
    assert by["me"]["figures"]["confide_model_requests_answered_total"] == [{"model": "net", "value": 1.0}]
    assert by["julia"]["certificate_days_left"] > 0
    assert by["eye"]["figures_missing"]

    for name, text in zip(("julia", "greg", "me"), errors, strict=True):
        lines = [json.loads(line) for line in text.splitlines()]
        assert [line["metrics"].startswith("http://127.0.0.1:") for line in lines if line["event"] == "ready"] == [True]
        file = tmp_path / f"{name}.jsonl"
        chain = verified(file, head=heads[name])
        assert chain.found < chain.entries
        code, out = confide("audit", "verify", str(file), "--head", heads[name])
        assert (code, f"the given head is entry {chain.found}; head {chain.head}" in out) == (0, True)
        asked = {"CryptoProvider.request"} if name == "me" else {"ComputeServer.answer"}
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        told_of = [one for one in entries if one["what"] in asked]
        assert [(one["who"], one["facts"]["model"], one["facts"]["examples"]) for one in told_of] == [("certificate analyst", "net", 3)] * 2
        assert sum(line["event"] in asked for line in lines) == 2
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[: chain.found - 1]))
        assert confide("audit", "verify", str(file))[0] == 0
        code, out = confide("audit", "verify", str(file), "--head", heads[name])
        assert (code, "cut off at the end" in out) == (1, True)


async def test_status_of_workers_on_this_machine_as_json():
    async with ActorSystem("ws://127.0.0.1:0") as system:
        code, out = await asyncio.to_thread(confide, "status", system.address, "--json")
        assert code == 1  # no worker is there
        [found] = json.loads(out)["nodes"]
        assert found["figures"]["confide_connections"][0]["value"] == 0
        assert found["figures"]["process_resident_memory_bytes"][0]["value"] > 0


async def test_status_is_shown_again_and_again_until_it_is_interrupted(capsys):
    asked = 0

    async def ask() -> StatusReport:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise asyncio.CancelledError
        until = datetime.now(UTC) + timedelta(days=3)
        shown = NodeFigures({"confide_connections": [{"value": math.nan}], "process_resident_memory_bytes": [{"value": 2e6}]})
        return StatusReport(datetime.now(UTC), [NodeState("[hub]", "aggregator", False, "[away]", until)], [shown])

    with pytest.raises(asyncio.CancelledError):
        await show(ask, 30, as_json=True, watch=True, interval=0.0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert lines[0]["nodes"][0]["figures"]["confide_connections"] == [{"value": None}]
    assert lines[0]["nodes"][0]["certificate_expires_soon"] is True
    asked = 2
    with pytest.raises(asyncio.CancelledError):
        await show(ask, 30, as_json=False, watch=True, interval=0.0)
    out = capsys.readouterr().out
    assert "2 MB" in out
    assert "[away]" in out


def test_what_another_machine_sends_as_metrics_is_only_taken_as_that():
    for text in ("<html>", "confide_x 1e999e", 'confide_x{a="\x1b[31m"} nan\n', "\x00" * 100):
        for one in node_figures.parsed(text).get("confide_x", ()):
            assert all(not isinstance(part, str) or part.isprintable() for part in one.values())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("audit", "verify", "FILE", "--head", "ab"), "64 hexadecimal digits"),
        (("run", "x", "--log-format", "xml"), "--log-format is one of json, text"),
        (("run", "x", "--log-level", "loud"), "--log-level one of debug, info"),
        (("worker", "localhost:0", "--audit", "/nowhere/audit"), "the audit log /nowhere/audit cannot be opened"),
        (("worker", "localhost:0", "--traces"), "pip install 'confide[otel]'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments, complaint, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", list(logging.getLogger().handlers))
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    code, out = confide(*arguments)
    logging.getLogger().setLevel(logging.WARNING)
    assert (code, complaint in " ".join(out.split()), out.count("Traceback")) == (1, True, 0), out


async def test_confide_audit_verify_names_the_first_broken_entry(tmp_path):
    log = AuditLog(tmp_path / "audit")
    log.write(what="x", decision="answered")
    log.close()
    assert confide("audit", "verify", str(tmp_path / "audit"))[0] == 0
    text = (tmp_path / "audit").read_text().replace('"what":"x"', '"what":"y"')
    (tmp_path / "audit").write_text(text)
    code, out = confide("audit", "verify", str(tmp_path / "audit"))
    assert (code, "entry 2 is the first that is broken" in " ".join(out.split())) == (1, True)
    assert os.stat(tmp_path / "audit").st_mode & 0o077 == 0

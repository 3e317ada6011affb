"""What is counted, logged, audited and traced of messages, and what is limited."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import subprocess
import sys
from datetime import timedelta
from io import StringIO

import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors import ANYONE, Actor, ActorSystem, AddressInUse, Crash, NotAllowed, RemoteError, message
from actors.messages.schema import messages_of
from actors.observing import log_lines, spans
from actors.observing.figures import state
from actors.observing.notes import noted, tidy
from actors.observing.observer import UNKNOWN, Observing
from authorities import Members


class Clerk(Actor):
    """Has an answer, an error of its own, and figures."""

    @message(by=ANYONE)
    async def file(self, paper: bytes, name: str) -> int:
        noted(name=name, size=len(paper))
        return len(paper)

    @message(by=ANYONE)
    def scan(self, pages: npt.NDArray[np.uint8]) -> int:
        return pages.size

    @message(by=ANYONE)
    async def lose(self) -> None:
        raise ValueError("secret-in-an-error")

    @message(by=ANYONE)
    def ring(self) -> None:
        """A plain handler."""

    @message(by=ANYONE)
    async def leave(self) -> None:
        raise Crash("gone")

    @message(by="the boss")
    async def shred(self) -> None:
        """Nobody gets here."""

    async def observed(self):
        return [state("papers", "on the desk", 7, kind='a "letter"\n')]


@pytest.fixture
async def office(tmp_path):
    settings = Observing(audit=tmp_path / "audit.jsonl", metrics_port=0)
    system = ActorSystem("ws://127.0.0.1:0", roles=lambda sender: (), observing=settings)
    async with system, ActorSystem() as here:
        await system.spawn(Clerk, name="clerk")
        yield system, await here.connect(f"{system.address}/clerk", Clerk), here


def get(address, path="/metrics", **headers):
    host, _, port = address.partition("://")[2].partition("/")[0].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


async def page(address, path="/metrics", **headers):
    return await asyncio.to_thread(get, address, path, **headers)


def figures(text):
    return {(one.name, *sorted(one.labels.items())): one.value for family in text_string_to_metric_families(text) for one in family.samples}


async def test_metrics_count_messages_by_outcome_and_show_what_actors_show(office):
    system, clerk, _ = office
    await clerk.file(b"123", "a")
    await clerk.file(b"45", "b")
    await clerk.ring()
    await clerk.with_options(one_way=True).ring()
    with pytest.raises(RemoteError):
        await clerk.lose()
    with pytest.raises(NotAllowed):
        await clerk.shred()
    await clerk.ring()
    status, text = await page(system.address)
    found = figures(text)
    assert status == 200
    of = lambda label, outcome: found["confide_messages_total", ("message", label), ("outcome", outcome)]  # noqa: E731
    assert of("Clerk.file", "answered") == 2
    assert of("Clerk.ring", "answered") == 3
    assert of("Clerk.lose", "ValueError") == of("Clerk.shred", "NotAllowed") == 1
    assert found["confide_message_seconds_count", ("message", "Clerk.file")] == 2
    assert found["confide_message_seconds_bucket", ("le", "+Inf"), ("message", "Clerk.ring")] == 2
    assert found["confide_incidents_total", ("kind", "refused Clerk.shred")] == 1
    assert found["confide_papers", ("kind", 'a "letter"\\n')] == 7
    assert found[("confide_connections",)] == 1
    assert found[("confide_received_bytes_total",)] > 0 < found[("confide_sent_bytes_total",)]
    assert found[("process_resident_memory_bytes",)] > 1 << 20
    assert (
        found[("confide_audit_entries_total",)]
        == system.observer.audit.entries
        == len(system.observer.settings.audit.read_text().splitlines())
    )
    assert (await page(system.metrics_address))[0] == 200


async def test_bytes_are_counted_on_both_sides(office):
    system, clerk, here = office
    for size in (100, 200_000, 3 << 20):
        before, sent = system.observer.counts.received, here.observer.counts.sent
        assert await clerk.scan(np.zeros(size, np.uint8)) == size
        assert size < system.observer.counts.received - before < size + 4096
        assert here.observer.counts.sent - sent == system.observer.counts.received - before


async def test_health_is_told_to_everybody_and_metrics_to_nobody_who_asks_under_another_name(office):
    system, clerk, _ = office
    assert await page(system.address, "/healthz") == (200, "ok\n")
    assert await page(system.metrics_address, "/healthz?x=1") == (200, "ok\n")
    assert (await page(system.metrics_address, "/secrets"))[0] == 404
    assert (await page(system.address, "/secrets"))[0] in (400, 426)
    for name in ("evil.example", "evil.example:80", "10.0.0.1", ""):
        assert (await page(system.address, Host=name))[0] == 403, name
    for name in ("localhost", "localhost:4000", "127.0.0.1", "[::1]:4000"):
        assert (await page(system.address, Host=name))[0] == 200, name
    with pytest.raises(Crash):
        await clerk.leave()
    async with asyncio.timeout(20):
        while (await page(system.address, "/healthz"))[0] != 503:
            await asyncio.sleep(0.01)
    assert await page(system.address, "/healthz") == (503, "an actor of this node has crashed\n")


async def test_a_port_for_metrics_that_is_taken_is_named(office):
    system, _, _ = office
    port = int(system.metrics_address.split(":")[2].partition("/")[0])
    with pytest.raises(AddressInUse, match=f"port {port} of 127.0.0.1, for metrics"):
        async with ActorSystem("ws://127.0.0.1:0", observing=Observing(metrics_port=port)):
            pass


async def test_a_system_that_does_not_listen_can_show_metrics():
    async with ActorSystem(observing=Observing(metrics_port=0)) as system:
        assert (await page(system.metrics_address))[0] == 200


class Broken(Actor):
    async def observed(self):
        raise ValueError("secret-in-an-error")


async def test_an_actor_that_fails_at_its_figures_takes_no_others_along(office, caplog):
    system, _, _ = office
    await system.spawn(Broken)
    found = figures((await page(system.address))[1])
    assert ("confide_papers", ("kind", 'a "letter"\\n')) in found
    assert "does not show its figures: ValueError" in caplog.text
    assert "secret-in-an-error" not in caplog.text


async def test_the_audit_log_says_who_asked_what_and_what_came_of_it(office):
    system, clerk, _ = office
    await clerk.file(b"canary", "plan\x1b[31m\nB")
    with pytest.raises(NotAllowed):
        await clerk.shred()
    entries = [json.loads(line) for line in system.observer.settings.audit.read_text().splitlines()]
    opened, filed, refused = entries
    assert (opened["what"], opened["decision"]) == ("audit", "opened")
    assert {key: filed[key] for key in ("who", "what", "decision", "facts")} == {
        "who": "a process of the same user",
        "what": "Clerk.file",
        "decision": "answered",
        "facts": {"name": "plan\\x1b[31m\\nB", "size": 6},
    }
    assert (refused["what"], refused["decision"], refused["reason"]) == ("Clerk.shred", "not answered", "NotAllowed")
    assert "canary" not in system.observer.settings.audit.read_text()


async def test_what_strangers_can_cause_is_limited_and_counted(office, caplog):
    system, clerk, _ = office
    caplog.set_level(logging.DEBUG, "actors.observing.observer")
    for _ in range(50):
        with pytest.raises(NotAllowed):
            await clerk.shred()
        await clerk.ring()
        await clerk.file(b"", "a")
    entries = [json.loads(line) for line in system.observer.settings.audit.read_text().splitlines()]
    by = [entry["what"] for entry in entries]
    assert (by.count("Clerk.shred"), by.count("Clerk.ring"), by.count("Clerk.file")) == (10, 10, 50)
    told = [record.event for record in caplog.records if record.name == "actors.observing.observer"]
    assert (told.count("Clerk.shred"), told.count("Clerk.ring"), told.count("Clerk.file")) == (10, 10, 50)
    assert system.observer.counts.messages["Clerk.shred", "NotAllowed"] == 50


class Other(Actor):
    """Declares a message that nobody answers."""

    @message
    async def ring(self) -> None: ...

    @message
    async def sing_a_forged_label(self) -> None: ...


async def test_names_that_strangers_choose_become_no_label(office):
    system, clerk, _ = office
    with pytest.raises(Exception, match="answers no message"):
        await clerk._transport.call("clerk", messages_of(Other)["sing_a_forged_label"], (), 5.0)
    assert system.observer.counts.messages[UNKNOWN, "MessageRejected"] == 1
    assert "forged" not in (await page(system.address))[1]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_is_one_line_and_forges_nothing(form):
    stream, log = StringIO(), logging.getLogger("tests.lines")
    handler = log_lines.log_lines(form, "info", stream)
    try:
        log_lines.event(log, logging.INFO, "filed", name='a b"\n\x1b[31m', size=3, seconds=0.25)
        log.warning("two\nlines %s", "\u202e")
        try:
            raise ValueError("an error\nwith lines")
        except ValueError:
            log.exception("it failed")
        log.debug("nothing")
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
    text = stream.getvalue()
    assert text.count("\n") == 3
    assert text.endswith("\n")
    assert all(character.isprintable() or character == "\n" for character in text)
    if form == "json":
        first, second, third = map(json.loads, text.splitlines())
        assert (first["event"], first["name"], first["size"], first["level"]) == ("filed", 'a b"\\n\\x1b[31m', 3, "info")
        assert second["text"] == "two\\nlines \\u202e"
        assert "ValueError: an error" in third["text"]
    else:
        assert ' INFO tests.lines: filed name="a b' in text.splitlines()[0]
        assert text.splitlines()[0].endswith(" size=3 seconds=0.25")


async def test_who_connects_and_leaves_is_logged_and_limited(office, caplog):
    system, _, _ = office
    caplog.set_level(logging.INFO, "actors.observing.observer")
    for _ in range(15):
        async with ActorSystem() as visitor:
            await visitor.connect(f"{system.address}/clerk", Clerk)
    async with asyncio.timeout(20):
        while len(system._network._links) > 1:
            await asyncio.sleep(0.01)
    met = [(record.event, record.fields["who"]) for record in caplog.records]
    assert met.count(("connected", "nobody known")) == 10  # in the clear they say who they are later
    assert met.count(("disconnected", "a process of the same user")) == 10


def test_a_log_that_nobody_reads_stops_nobody(monkeypatch):
    reading, writing = os.pipe()
    monkeypatch.setattr(log_lines, "STANDARD_ERROR", writing)
    log = logging.getLogger("tests.lines")
    handler = log_lines.log_lines("text", "info")
    try:
        for number in range(2000):
            log.info("line %d %s", number, "x" * (10_000 if number % 100 == 7 else 80))
        taken = os.read(reading, 1 << 20)
        log.info("heard")
        rest = os.read(reading, 1 << 20)
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
        os.close(reading)
        os.close(writing)
    lines = (taken + rest).decode().splitlines()
    whole = [line for line in lines if "tests.lines: line" in line]
    lost = next(line for line in lines if "lines were lost" in line)
    assert len(taken) > 50_000
    assert int(lost.split("log_lines: ")[1].split()[0]) + len(whole) in (2000, 2001)  # one may have been torn
    assert lines[-1].endswith("tests.lines: heard")


def test_a_field_cannot_take_the_place_of_what_the_program_says():
    record = logging.LogRecord("a", logging.INFO, "", 0, "text", (), None)
    record.fields = {"level": "forged", "time": "never"}
    line = json.loads(log_lines.JsonLines().format(record))
    assert (line["level"], line["event"]) == ("info", "message")
    assert line["time"] != "never"


def test_facts_are_text_and_numbers():
    with pytest.raises(TypeError, match="key is a bytes"):
        tidy({"key": b"secret"})


async def test_traces_tell_names_times_and_outcomes_and_no_text_of_errors(office):
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    _, clerk, _ = office
    spans.trace_with(provider.get_tracer("confide"))
    try:
        await clerk.file(b"canary", "a")
        with pytest.raises(RemoteError):
            await clerk.lose()
        with contextlib.suppress(ValueError), spans.span("outer", size=1) as outer, spans.span("inner"):
            outer.note(rounds=3)
            raise ValueError("secret x")
    finally:
        spans.trace_with(None)
    made = {one.name: one for one in memory.get_finished_spans()}
    assert dict(made["Clerk.file"].attributes) == {"confide.outcome": "answered", "confide.name": "a", "confide.size": 6}
    assert made["Clerk.lose"].attributes["confide.outcome"] == "ValueError"
    assert dict(made["outer"].attributes) == {"confide.size": 1, "confide.rounds": 3, "error.type": "ValueError"}
    assert made["inner"].parent.span_id == made["outer"].context.span_id
    assert "secret" not in "".join(one.to_json() for one in made.values())


def test_without_a_tracer_nothing_is_imported():
    code = "import sys, actors, actors.observing.spans as s\nwith s.span('x', y=1) as one: one.note(z=2)\n"
    code += "print({'opentelemetry', 'prometheus_client'} & {name.partition('.')[0] for name in sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


async def test_over_tls_only_the_watchers_read_metrics(tmp_path):
    members = Members(tmp_path)
    for name in ("hub", "watcher", "client"):
        members.add(name, "owner", "localhost")
    hub = members.credentials("hub")
    settings = Observing(watchers=["watcher"])
    async with ActorSystem("wss://localhost:0", ssl=hub.listen, connect_ssl=hub.connect, observing=settings) as system:
        port = int(system.address.rpartition(":")[2])

        def ask(name, path):
            connection = http.client.HTTPSConnection("localhost", port, context=members.credentials(name).connect, timeout=20)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        status, text = await asyncio.to_thread(ask, "watcher", "/metrics")
        assert status == 200
        left = figures(text)[("confide_certificate_days_left",)]
        assert timedelta(days=left) < hub.own.until - hub.own.since < timedelta(days=left + 2)
        assert (await asyncio.to_thread(ask, "client", "/metrics"))[0] == 403
        assert await asyncio.to_thread(ask, "client", "/healthz") == (200, "ok\n")

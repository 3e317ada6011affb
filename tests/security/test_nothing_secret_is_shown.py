"""Weights, inputs, answers, keys and tickets that could be recognised are in no log line, metric, audit entry, status or span."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
from typing import Any

import keras
import numpy as np
import pytest

from actors.messages.schema import Message
from actors.observing import log_lines, spans
from actors.observing.audit_file import verified
from actors.observing.observer import Observing
from federated.machines.node_figures import figures
from inner_workers import inner_workers
from protocols import NoisyAnswers, connect, share
from protocols.errors import InputError, NotServed, ProtocolError, QuotaSpent
from protocols.mpc.numbers.fixed_point import encode
from security.canaries import CANARY, raw, sings

FORMATS = (str, lambda number: f"{number:x}", lambda number: str(number - (1 << 64)))


def spellings(secret: bytes) -> set[str]:
    """How some bytes could stand in text: hexadecimal, base64, as Python shows them, or as a number; words of 8 bytes in arrays."""
    found = {secret.hex(), base64.b64encode(secret).decode().rstrip("="), repr(secret)[2:-1], str(list(secret))[1:-1]}
    found |= {str(int.from_bytes(secret, order)) for order in ("big", "little")}
    return {text for text in found if len(text) >= 8}


def secrets_in(value: Any) -> set[bytes]:
    """All bytes of at least 12 in a message that no name or digest is: keys, rights, tickets, identifiers, seals, shares."""
    if isinstance(value, np.ndarray):
        return {value.tobytes()[:16]} if value.nbytes >= 16 and value.any() else set()
    if isinstance(value, bytes):
        return {value} if len(value) >= 12 else set()
    if hasattr(value, "__struct_fields__"):
        return set().union(*(secrets_in(getattr(value, name)) for name in value.__struct_fields__), set())
    if isinstance(value, dict):
        return set().union(*map(secrets_in, value.values()), set())
    return set().union(*map(secrets_in, value), set()) if isinstance(value, list | tuple) else set()


def words_in(value: Any) -> set[str]:
    """Decimal spellings of the first words of each array: shares, masks, inputs under masks."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint64:
        return {spelt(int(word)) for word in value.ravel()[:4] if word > 1 << 40 for spelt in FORMATS}
    if hasattr(value, "__struct_fields__"):
        return set().union(*(words_in(getattr(value, name)) for name in value.__struct_fields__), set())
    if isinstance(value, dict):
        return set().union(*map(words_in, value.values()), set())
    return set().union(*map(words_in, value), set()) if isinstance(value, list | tuple) else set()


@pytest.fixture
def travelled(monkeypatch):
    """Everything secret that was in messages and answers: as bytes, and as text."""
    seen: tuple[set[bytes], set[str]] = set(), set()
    invoke = Message.invoke

    def note(value: Any) -> None:
        seen[0].update(secrets_in(value))
        seen[1].update(words_in(value))

    def heard(self: Message, actor: Any, arguments: tuple[Any, ...]) -> Any:
        note(arguments)
        made = invoke(self, actor, arguments)
        if not asyncio.iscoroutine(made):
            note(made)
            return made

        async def awaited() -> Any:
            found = await made
            note(found)
            return found

        return awaited()

    monkeypatch.setattr(Message, "invoke", heard)
    return seen


@pytest.fixture
def traced():
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    spans.trace_with(provider.get_tracer("confide"))
    yield memory
    spans.trace_with(None)


@pytest.mark.parametrize("equals", [False, True])
async def test_nothing_secret_is_shown(equals, tmp_path, travelled, traced, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)], name="net")
    model.layers[0].set_weights([np.full((4, 3), CANARY, np.float32), np.full(3, CANARY, np.float32)])
    x = np.full((6, 4), CANARY)
    audits = [tmp_path / f"audit-{place}.jsonl" for place in range(3)]
    observed = [Observing(audit=path) for path in audits]
    noise = NoisyAnswers(clip=4.0, noise_multiplier=2.0, max_epsilon=50.0)
    shown, errors, answers = [], [], []
    async with inner_workers(tmp_path, equals=equals, observing=observed) as (inner, cluster):
        async with await share(model, cluster, answers=noise) as shared, connect(cluster, "net") as remote:
            serving = asyncio.create_task(shared.serve(1, reveal=["logits"]))
            async with asyncio.timeout(30):
                while not serving.done():
                    with contextlib.suppress(NotServed, QuotaSpent):
                        answers.append(await remote.query(x))
                    await asyncio.sleep(0)
            for wrong in (x[:, :3], x + 10):
                with pytest.raises(InputError) as caught:
                    await remote.query(wrong)
                errors.append(str(caught.value))
            with pytest.raises(ProtocolError) as refused:
                await remote.query(x)
            errors.append(str(refused.value))
            shown = [await figures(one.system.address, None) for one in inner]
        features = await cluster.store("features", x)
        assert features is not None
    assert not any(one.missing for one in shown)
    log = [form().format(record) for record in caplog.records for form in (log_lines.TextLines, log_lines.JsonLines)]
    entries = [path.read_text() for path in audits]
    made = [span.to_json() for span in traced.get_finished_spans()]
    text = "\n".join([*log, *entries, *made, *errors, json.dumps([dict(one.values) for one in shown])])

    # what has to be there is there
    names = {span.name for span in traced.get_finished_spans()}
    assert {"query", "rounds", "dealing", "ComputeServer.answer", "CryptoProvider.request"} <= names
    assert sum("ComputeServer.answer" in one for one in entries) == 2
    assert all(verified(path).entries > 2 for path in audits)
    spent = [dict(one.values) for one in shown]
    assert {one["value"] for seen in spent for one in seen.get("confide_model_noisy_answers_spent", ())} == {6.0}
    assert {one["value"] for seen in spent for one in seen.get("confide_model_requests_left", ())} == {0.0}
    assert sum(one["value"] for seen in spent for one in seen["confide_rounds_total"]) > 4
    assert {one["value"] for seen in spent for one in seen.get("confide_model_requests_answered_total", ())} == {1.0}

    # and nothing else
    assert answers
    assert not sings(text.encode())
    for answer in answers[0].ravel()[:4]:
        assert f"{answer:.6f}" not in text
    as_bytes, as_text = travelled
    assert len(as_bytes) > 50
    assert len(as_text) > 100
    public = {entry["before"] for path in audits for entry in map(json.loads, path.read_text().splitlines())}
    hashes = re.compile("|".join(map(re.escape, public)))
    text = hashes.sub("", text)
    assert not {secret for secret in as_bytes for spelt in spellings(secret) if spelt in text}
    assert not {spelt for spelt in as_text if spelt in text}


def test_the_kit_hears_it():
    key, words = bytes(range(100, 116)), encode(np.array([-0.3]), 2.0**-44)
    assert any(spelt in f"key={key!r}" for spelt in spellings(key))
    assert any(spelt in f"key={key.hex()}" for spelt in spellings(key))
    assert any(spelt in f"share={words}" for spelt in words_in([words]))
    assert secrets_in(({"a": key}, [words])) == {key}
    assert sings(raw(f"{CANARY}"))

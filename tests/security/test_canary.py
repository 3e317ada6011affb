"""A canary in inputs, weights, features and labels is in no message to a worker, in none of their memory, and in no log or error.

What the owners' side of federated rounds lets out is in `federated/owners/test_failures.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import keras
import numpy as np
import pytest

from actors.messages.schema import Message
from curious import _reachable
from inner_workers import Inner, inner_workers
from protocols import connect, share
from protocols.errors import InputError, NotServed, ProtocolError, QuotaSpent
from protocols.mpc.numbers.fixed_point import encode
from protocols.workers.worker_process import PARTS
from security.canaries import CANARY, raw, sings


def test_the_kit_hears_it():
    assert sings(raw([{"x": np.array([0.1, CANARY], np.float32)}]))
    assert sings(raw((encode(np.array([CANARY]), 2.0**-16),)))
    assert sings(f"input {CANARY}".encode())
    assert not sings(raw(np.arange(4096, dtype=np.uint64)))


def holds_it(inner: list[Inner]) -> bool:
    roots: list[Any] = [one.actor(name) for one in inner for name in PARTS] + [one.holdings for one in inner]
    return any(sings(raw(found)) for found in _reachable(roots) if isinstance(found, np.ndarray | bytes | str))


@pytest.mark.parametrize("equals", [False, True])
async def test_in_prediction_training_and_data_that_stay(equals, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    sung: list[str] = []
    invoke = Message.invoke

    def heard(self: Message, actor: Any, arguments: tuple[Any, ...]) -> Any:
        if sings(raw(arguments)):
            sung.append(self.label)
        return invoke(self, actor, arguments)

    monkeypatch.setattr(Message, "invoke", heard)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)], name="net")
    model.layers[0].set_weights([np.full((4, 3), CANARY, np.float32), np.full(3, CANARY, np.float32)])
    model.compile("sgd", "mse")
    x = np.full((6, 4), CANARY)
    async with (
        inner_workers(tmp_path, equals=equals) as (inner, cluster),
        await share(model, cluster) as shared,
        connect(cluster, "net") as remote,
    ):
        serving = asyncio.create_task(shared.serve(1, reveal=["logits"]))
        async with asyncio.timeout(30):
            while not serving.done():
                with contextlib.suppress(NotServed, QuotaSpent):
                    await remote.query(x)
                await asyncio.sleep(0)
        errors = []
        for wrong in (x[:, :3], x + 10, np.full((2, 4), f"{CANARY}")):
            with pytest.raises(InputError) as caught:
                await remote.query(wrong)
            errors.append(str(caught.value))
        assert not holds_it(inner)
        features = await cluster.store("features", x)
        grant = await cluster.deposit("targets", np.full((6, 2), CANARY))
        targets = await cluster.load("targets", grants=grant)
        async for _ in shared.fit(features, targets, batch_size=3, progress=False, folder=tmp_path / "run"):
            pass
        assert not holds_it(inner)
        for wrong in (np.full((6, 2), 1e9 + CANARY), np.full((6, 2), np.nan)):
            with pytest.raises(ProtocolError) as caught:
                await cluster.store("features", wrong)
            errors.append(str(caught.value))
    kept = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(kept) > 5
    assert not any(map(sings, kept))
    assert sung == []
    assert not sings(caplog.text.encode())
    assert not any(sings(error.encode()) for error in errors)

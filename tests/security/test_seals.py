"""The key of a seal: in no message, and not to be had from what is in messages; and a hash under it that is not linear."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import keras
import numpy as np
import pytest
from blake3 import blake3

from actors.messages.schema import Message
from inner_workers import inner_workers
from protocols import connect, share
from protocols.errors import NotServed, QuotaSpent
from protocols.link.seal import SEAL_BYTES, Seal, seal_key
from protocols.mpc.parties.keystream import derive
from protocols.mpc.parties.pair import Agreement


def bytes_in(value: Any) -> set[bytes]:
    """All strings of bytes in the arguments of a message."""
    if isinstance(value, bytes):
        return {value}
    if hasattr(value, "__struct_fields__"):
        return set().union(*(bytes_in(getattr(value, name)) for name in value.__struct_fields__))
    if isinstance(value, dict):
        return set().union(*map(bytes_in, value.values()))
    return set().union(*map(bytes_in, value)) if isinstance(value, list | tuple) else set()


@pytest.mark.parametrize("equals", [False, True])
async def test_the_key_is_in_no_message_of_prediction_or_training(equals, monkeypatch):
    """Whoever reads every message on every link, and derives what can be derived from it, has no key of a seal."""
    travelled: set[bytes] = set()
    invoke = Message.invoke

    def read(self: Message, actor: Any, arguments: tuple[Any, ...]) -> Any:
        travelled.update(bytes_in(arguments))
        return invoke(self, actor, arguments)

    monkeypatch.setattr(Message, "invoke", read)
    keys: set[bytes] = set()
    make = Seal.__init__

    def made(self: Seal, key: bytes, channel: bytes) -> None:
        keys.add(key)
        make(self, key, channel)

    monkeypatch.setattr(Seal, "__init__", made)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile("sgd", "mse")
    async with inner_workers(equals=equals) as (_, cluster), await share(model, cluster) as shared, connect(cluster, "net") as remote:
        serving = asyncio.create_task(shared.serve(1))
        async with asyncio.timeout(30):
            while not serving.done():
                with contextlib.suppress(NotServed, QuotaSpent):
                    await remote.query(np.full((1, 4), 0.5))
                await asyncio.sleep(0)
        x, y = await cluster.store("x", np.full((4, 4), 0.5)), await cluster.store("y", np.full((4, 3), 0.5))
        async for _ in shared.fit(x, y, batch_size=2, progress=False):
            pass
    assert len(keys) == 2  # one for the model, one for the run, each the same at both servers
    assert {len(key) for key in keys} == {SEAL_BYTES}
    halves = {key[start : start + 16] for key in keys for start in (0, 16)}
    assert not any(half in word for word in travelled for half in halves)
    purposes = [("seal", n) for n in (0, 1)] + [("seal",), ("pair",)]
    secrets = {word for word in travelled if len(word) in (16, 32)}
    derived = {derive(word, *purpose) for word in secrets for purpose in purposes}
    derived |= {derive(word, "seal", other) for word, other in itertools.product(secrets, secrets)}  # as it was once
    assert not derived & halves


def test_both_servers_have_the_key_and_whoever_brings_them_together_has_not():
    first, second = Agreement(), Agreement()
    session = bytes(16)
    assert seal_key(first, second.public, session) == seal_key(second, first.public, session)
    other = Agreement()
    assert seal_key(other, second.public, session) != seal_key(second, other.public, bytes(15) + b"1")


def test_changes_that_cancel_in_a_polynomial_do_not_cancel_here():
    """GMAC of known key: d in one block and d H^(j - i) in another leave it as it is. Of all such pairs of flips, none does here."""
    key, channel = bytes(range(32)), b"c" * 16
    message = np.arange(64, dtype=np.uint64)

    def seal(array):
        one = Seal(key, channel)
        one.add([array])
        return one.close()

    seals = {seal(message)}
    flips = list(itertools.combinations(range(0, 64 * 64, 61), 2))
    for i, j in flips:
        altered = message.copy()
        for bit in (i, j):
            altered[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
        seals.add(seal(altered))
    assert len(seals) == len(flips) + 1
    single = {seal(message ^ (np.uint64(1) << np.uint64(bit)) * (np.arange(64) == word)) for word in range(64) for bit in range(64)}
    assert len(single) == 64 * 64


@pytest.mark.parametrize("message", [[], [np.arange(3, dtype=np.uint64)], [np.zeros(0, np.uint64), np.ones((4, 6), np.uint64)[:, ::2]]])
def test_a_seal_does_not_depend_on_how_a_message_is_taken_in(message, monkeypatch):
    """Short messages are copied and taken in at once."""
    seals = []
    for short in (0, 1 << 20):
        monkeypatch.setattr("protocols.link.seal.SHORT", short)
        seal = Seal(bytes(range(32)), b"channel")
        seal.add(message)
        seals.append(seal.close())
    lengths = np.array([len(message), *(array.nbytes for array in message)], "<u8").tobytes()
    expected = blake3(key=bytes(range(32)))
    expected.update((7).to_bytes(8, "little") + b"channel" + lengths + b"".join(array.tobytes() for array in message))
    assert seals == [expected.digest()] * 2

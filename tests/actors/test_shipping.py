"""Code that runs on other nodes: for those who are trusted, and before anything is unpickled."""

from __future__ import annotations

import asyncio
import os

import cloudpickle
import numpy as np
import numpy.typing as npt
import pytest

from actors import Actor, ActorStopped, ActorSystem, CodeNotTrusted, MessageRejected, NameTaken, RemoteError, message, shipping
from actors.shipping import SHIPYARD, Shipyard

SECRET, OTHER = b"s" * 32, b"o" * 32


def make_class():
    """A class that no other process can import."""

    class Adder(Actor):
        def __init__(self, start: int, *, scale: int = 1) -> None:
            self.total, self.scale = start, scale

        @message
        async def add(self, x: npt.NDArray[np.int64]) -> int:
            self.total += self.scale * int(x.sum())
            return self.total

        @message
        async def process(self) -> int:
            return os.getpid()

    return Adder


@pytest.fixture
async def node():
    async with ActorSystem(listen="ws://127.0.0.1:0", trust=[OTHER, SECRET]) as system:
        yield system


def knowing(node, secret=SECRET):
    return ActorSystem(secrets={node.address: secret})


async def test_a_process_started_by_us_runs_our_code():
    async with ActorSystem() as system, system.start_node() as node:
        adder = await system.spawn_on(node, make_class(), 1, scale=2, name="adder")
        assert str(adder) == f"{node}/adder"
        assert await adder.add(np.arange(3)) == 7
        assert await adder.process() == await system.run_on(node, os.getpid) != os.getpid()
        await system.stop(adder)
        with pytest.raises(ActorStopped, match="it was stopped"):
            await adder.process()
        async with ActorSystem() as stranger:
            with pytest.raises(CodeNotTrusted, match="no secret is known"):
                await stranger.run_on(node, os.getpid)
    with pytest.raises(CodeNotTrusted, match="no secret is known"):
        async with ActorSystem() as system:
            await system.run_on(node, os.getpid)


async def test_code_of_those_who_know_a_secret(node):
    async with knowing(node) as system:
        adder = await system.spawn_on(node.address, make_class(), 5)
        assert await adder.add(np.arange(2)) == 6
        assert str(adder) == f"{node.address}/adder-1"

        async def slowly(x: int, *, y: int) -> list[int]:
            return [x, y]

        assert await system.run_on(node.address, slowly, 1, y=2) == [1, 2]
        big = np.arange(3_000_000)
        np.testing.assert_array_equal(await system.run_on(node.address, lambda x: x + 1, big), big + 1)


async def test_errors_of_shipped_code(node):
    async with knowing(node) as system:
        with pytest.raises(RemoteError, match="ZeroDivisionError"):
            await system.run_on(node.address, lambda: 1 / 0)
        with pytest.raises(MessageRejected, match="cannot be sent"):
            await system.run_on(node.address, object)
        await system.spawn_on(node.address, make_class(), 0, name="adder")
        with pytest.raises(NameTaken):
            await system.spawn_on(node.address, make_class(), 0, name="adder")

        class Own(Exception):
            pass

        def fail():
            raise Own("here")

        with pytest.raises(RemoteError, match=r"^Own: failed inside the handler"):
            await system.run_on(node.address, fail)


async def test_nothing_is_unpickled_for_others(node, monkeypatch):
    def unpickled(data):
        raise AssertionError("unpickled")

    monkeypatch.setattr(shipping.cloudpickle, "loads", unpickled)
    async with knowing(node, b"x" * 32) as system:
        with pytest.raises(CodeNotTrusted, match="the proof of a shared secret is wrong"):
            await system.run_on(node.address, os.getpid)
        with pytest.raises(CodeNotTrusted):
            await system.spawn_on(node.address, make_class(), 0)
        with pytest.raises(CodeNotTrusted):
            await system.stop(await system.connect(f"{node.address}/{SHIPYARD}", Shipyard))
    async with ActorSystem(listen="ws://127.0.0.1:0") as nobody, knowing(nobody) as system:
        with pytest.raises(CodeNotTrusted, match="runs code for nobody"):
            await system.run_on(nobody.address, os.getpid)


async def test_a_proof_is_for_one_use_one_purpose_and_one_code(node):
    code = np.frombuffer(cloudpickle.dumps((os.getpid, (), {})), np.uint8)
    other = np.frombuffer(cloudpickle.dumps((os.getcwd, (), {})), np.uint8)
    async with ActorSystem() as system:
        yard = await system.connect(f"{node.address}/{SHIPYARD}", Shipyard)
        nonce = await yard.nonce()
        proof = shipping._proof(SECRET, nonce, "run", "", code.tobytes())
        assert await yard.run(nonce, proof, code) == os.getpid()
        with pytest.raises(CodeNotTrusted):
            await yard.run(nonce, proof, code)
        bad = b"n" * 16
        misuses = [
            lambda nonce: yard.run(nonce, shipping._proof(SECRET, nonce, "run", "", code.tobytes()), other),
            lambda nonce: yard.spawn(nonce, shipping._proof(SECRET, nonce, "run", "", code.tobytes()), "", code),
            lambda nonce: yard.run(bad, shipping._proof(SECRET, bad, "run", "", code.tobytes()), code),
            lambda nonce: yard.stop(nonce, shipping._proof(SECRET, nonce, "stop", "a", b""), "b"),
        ]
        for misuse in misuses:
            nonce = await yard.nonce()
            with pytest.raises(CodeNotTrusted):
                await misuse(nonce)


async def test_nonces_do_not_pile_up(node, monkeypatch):
    monkeypatch.setattr(shipping, "NONCES", 2)
    async with ActorSystem() as system:
        yard = await system.connect(f"{node.address}/{SHIPYARD}", Shipyard)
        oldest, *_ = [await yard.nonce() for _ in range(3)]
        code = np.frombuffer(cloudpickle.dumps((os.getpid, (), {})), np.uint8)
        with pytest.raises(CodeNotTrusted):
            await yard.run(oldest, shipping._proof(SECRET, oldest, "run", "", code.tobytes()), code)


async def test_the_log_of_a_node_that_was_started_here_says_why_its_code_failed(caplog):
    def fail():
        raise ValueError("the whole story")

    async with ActorSystem() as system, system.start_node() as node:
        with pytest.raises(RemoteError, match="its own system says why"):
            await system.run_on(node, fail)
        while "the whole story" not in caplog.text:
            await asyncio.sleep(0)
        assert "in fail" in caplog.text

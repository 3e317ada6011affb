"""Bytes that break the rules, sent to workers that serve: their connection is closed with a reason, everything else goes on."""

import os
import socket

import numpy as np
import pytest
from websockets.asyncio.client import connect as dial
from websockets.exceptions import ConnectionClosedError

from protocols import connect, share

GARBAGE = {
    "text": "hello",
    "a length without a header": (1 << 20).to_bytes(4, "little"),
    "a header that is too long": b"\xff\xff\xff\xff" + b"x" * 64,
    "a header that is no message": (4).to_bytes(4, "little") + b"\xc1\xc1\xc1\xc1",
    "a map instead of a frame": (1).to_bytes(4, "little") + b"\x80",
    "random bytes": os.urandom(4096),
}


async def drained(connection) -> None:
    """Reads until the end; the worker's own greeting may still arrive."""
    async for _ in connection:
        pass


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_closes_one_connection_only(busy, name):
    cluster, remote, images, expected = busy
    for worker in cluster.workers:
        async with dial(worker.url, proxy=None) as stranger:
            await stranger.send(GARBAGE[name])
            with pytest.raises(ConnectionClosedError):
                await drained(stranger)
            assert stranger.close_code in (1002, 1003, 1007, 1009)
            assert stranger.close_reason
    np.testing.assert_allclose(await remote.query(images[:2]), expected[:2], atol=0.005)


async def test_a_peer_that_hangs_up_in_the_middle_of_the_handshake(busy):
    cluster, remote, images, expected = busy
    host, _, port = cluster.workers[0].address.rpartition(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"GET / HTTP/1.1\r\nUpgrade: webso")
    np.testing.assert_allclose(await remote.query(images[:2]), expected[:2], atol=0.005)


@pytest.fixture
async def busy(cluster, model, images, expected):
    """A model that is served, and a client."""
    import asyncio

    async with await share(model, cluster, name="small") as shared, connect(cluster, "small") as remote:
        serving = asyncio.create_task(shared.serve(1000, reveal=["logits"]))
        while not await shared.prepared():
            await asyncio.sleep(0)
        yield cluster, remote, images, expected
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

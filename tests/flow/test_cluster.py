"""What a cluster does when a worker is missing, is something else, or the block is used in a way it was not meant for."""

import asyncio
import os
from pathlib import Path

import pytest

from actors import ActorSystem
from protocols import Cluster, Worker
from protocols.errors import ClusterError, WorkerUnreachable


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    return {int(pid) for file in Path(f"/proc/{os.getpid()}/task").glob("*/children") for pid in file.read_text().split()}


@pytest.mark.parametrize(
    ("missing", "error"),
    [("ws://192.0.2.1:4000", "not encrypted"), ("wss://127.0.0.9:9", "nobody answers")],
)
async def test_a_cluster_that_cannot_start_leaves_no_worker_behind(missing, error, monkeypatch):
    monkeypatch.setattr("forked.MODULES", ())  # workers are children of this process
    before, tasks = children(), asyncio.all_tasks()
    cluster = Cluster(Worker("localhost:0"), Worker("localhost:0"), crypto_provider=Worker(missing))
    with pytest.raises(WorkerUnreachable, match=error):
        async with cluster:
            pass
    assert children() == before
    assert asyncio.all_tasks() == tasks
    assert not cluster.children


async def test_something_that_is_no_worker_is_named():
    async with ActorSystem(listen="ws://127.0.0.1:0") as stranger:
        cluster = Cluster(Worker(stranger.address), Worker("localhost:0"), crypto_provider=Worker("localhost:0"))
        with pytest.raises(WorkerUnreachable, match=rf"{stranger.address}.* is not a worker of confide"):
            async with cluster:
                pass


async def test_one_block_at_a_time_and_one_after_the_other(cluster):
    with pytest.raises(ClusterError, match="running already"):
        async with cluster:
            pass
    assert cluster.links

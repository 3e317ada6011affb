"""Weights and randomness that are larger than a message of their receiver; a limit that is set wherever a system is made."""

import asyncio

import keras
import numpy as np
import pytest
from keras import layers

from actors.limits import largest_message
from federated import Federation, ProcessEngine, joining_owners
from federated.errors import ClusterFileError
from federated.machines.cluster_file import ClusterFile
from federated.machines.node import computing_cluster
from inner_workers import inner_workers
from protocols import Cluster, Worker, connect, share
from protocols.errors import ClusterError, TooLarge
from protocols.nodes import worker_file
from protocols.owner import placement
from protocols.owner.placing import beside
from protocols.serving import hosting
from protocols.serving.streams import largest_operation

LEAST = 1 << 20
REFUSED = [(LEAST - 1, ValueError), ((1 << 40) + 1, ValueError), (1e9, TypeError), (True, TypeError), ("1 GiB", TypeError)]


def wide() -> keras.Model:
    """1.5 MiB of shared weights, 3 MiB of randomness an example."""
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((64,)), layers.Dense(3000, activation="tanh"), layers.Dense(2)])


async def test_weights_and_randomness_of_more_than_a_message_are_shared_and_served():
    model, x = wide(), np.random.default_rng(0).uniform(0, 1, (2, 64)).astype(np.float32)
    async with inner_workers(message_limit=LEAST) as (_, cluster):
        assert await largest_message(cluster.links.servers[0]) == LEAST
        async with await share(model, cluster, name="wide") as shared:
            assert shared.bytes_per_example > LEAST
            assert 8 * sum(np.prod(shape) for shape in shared.program.weights) > LEAST
            serving = asyncio.create_task(shared.serve(2, reveal=["logits"]))
            async with connect(cluster, "wide") as remote:
                found = [await remote.query(x[:1]), await remote.query(x[1:])]
            await serving
    assert np.abs(np.concatenate(found) - model.predict(x, verbose=0)).max() < 0.005


async def test_what_no_server_may_hold_is_refused_before_anything_is_sent(monkeypatch):
    async with inner_workers() as (_, cluster):
        monkeypatch.setattr(placement, "MOST_MEMORY", 1000)
        with pytest.raises(TooLarge, match=r"one operation of an example needs .* bytes of randomness at each server, and 1,000 bytes are"):
            await share(wide(), cluster, name="wide")
        monkeypatch.setattr(beside, "MODEL_LIMIT", 1000)
        with pytest.raises(TooLarge, match=r"has 198,000 weights in its kernels, 1 MiB when they are shared; 0 MiB are allowed"):
            await share(wide(), cluster, name="wide")
        monkeypatch.undo()
        monkeypatch.setattr(hosting, "MODEL_LIMIT", 1000)
        with pytest.raises(TooLarge, match="the model has 1 MiB of shared weights, 0 MiB are allowed: share a smaller model"):
            await share(wide(), cluster, name="wide")
        assert not await cluster.links.servers[0].names()


async def test_operations_are_cut_to_the_memory_for_which_a_model_is_shared():
    """3 MiB of randomness of one operation in 1 MiB; what is too little even for the smallest parts is refused with what is enough."""
    model, x = wide(), np.random.default_rng(0).uniform(0, 1, (2, 64)).astype(np.float32)
    async with inner_workers() as (_, cluster):
        async with await share(model, cluster, name="cut", memory=LEAST) as shared:
            assert largest_operation(shared.program) <= LEAST < shared.bytes_per_example
            serving = asyncio.create_task(shared.serve(1, reveal=["logits"]))  # within as much, without being told
            async with connect(cluster, "cut") as remote:
                found = await remote.query(x)
            await serving
        assert np.abs(found - model.predict(x, verbose=0)).max() < 0.005
        with pytest.raises(TooLarge, match=r"memory=1,000: one operation of an example needs .* however it is cut") as refused:
            await share(model, cluster, name="cut", memory=1000)
        enough = int(str(refused.value).split("give memory=")[1].split()[0])
        async with await share(model, cluster, name="cut", memory=enough):
            pass
        for memory, error in ((0, ValueError), (1e9, TypeError)):
            with pytest.raises(error, match="memory="):
                await share(model, cluster, name="cut", memory=memory)


async def test_more_memory_than_there_may_be_is_not_asked_for(monkeypatch):
    monkeypatch.setattr("protocols.serving.memory.MOST_MEMORY", 1000)
    async with inner_workers() as (_, cluster), await share(wide(), cluster, name="wide") as shared:
        with pytest.raises(TooLarge, match="serve fewer kinds, or with more memory, up to 1,000 bytes"):
            await shared.serve(1)


THREE = [Worker("localhost:4000"), Worker("localhost:4001"), Worker("localhost:4002")]
MAKERS = {
    "Cluster": lambda limit: Cluster(*THREE, message_limit=limit),
    "Federation": lambda limit: Federation(model=wide, owners=["ws://127.0.0.1:1/owner"], message_limit=limit),
    "joining_owners": lambda limit: joining_owners(["one"], message_limit=limit),
    "ProcessEngine": lambda limit: ProcessEngine(1, message_limit=limit),
}


@pytest.mark.parametrize("where", MAKERS)
def test_a_limit_that_cannot_be_is_refused_where_it_is_said(where):
    for limit, error in REFUSED:
        with pytest.raises(error, match="message_limit="):
            MAKERS[where](limit)
    assert MAKERS[where](LEAST)


def test_a_cluster_file_has_one_limit_for_all(tmp_path):
    path = tmp_path / "cluster.toml"
    nodes = "".join(f'[nodes.n{i}]\nrole = "server"\naddress = "ws://127.0.0.1:400{i}"\n' for i in range(3))
    path.write_text(f"message_limit = {3 * LEAST}\n{nodes}")
    assert ClusterFile.read(path).message_limit == 3 * LEAST
    for formed in (computing_cluster(path), worker_file.cluster(path)):
        assert formed.system(known_only=True).message_limit == 3 * LEAST
    for limit in ("12", '"1 GiB"', "true", "1.5e9"):
        path.write_text(f"message_limit = {limit}\n{nodes}")
        with pytest.raises(ClusterFileError, match="message_limit="):
            ClusterFile.read(path)
        with pytest.raises(ClusterError, match="message_limit="):
            worker_file.cluster(path)


@pytest.mark.long
async def test_the_workers_that_a_cluster_starts_have_its_limit():
    async with Cluster(*(Worker("localhost:0") for _ in range(3)), message_limit=7 * LEAST) as cluster:
        limits = [await largest_message(server) for server in cluster.links.servers]
        assert limits == [7 * LEAST] * 2
        assert cluster.links.system.message_limit == 7 * LEAST

"""Three equals without a crypto provider, with real processes: whoever helps, the same answers, costs, refusals and errors."""

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from actors import ChildProcess
from protocols import Cluster, Worker, connect, share
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.clusters.roles import helper_of
from protocols.errors import ClusterError, NotServed, QuotaSpent, ServingError, TicketRefused, UnknownModel, WorkerLost
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.selection import Select
from protocols.workers.compute_server import ComputeServer

TOLERANCE = 0.001
SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))
"""What a client that talks to the workers by itself tells the provider, and shows to each server a right to."""
NAMES = {0: "net", 1: "small", 2: "b"}
"""A name for each place of the helper."""


def test_the_names_have_the_helpers_that_they_stand_for():
    assert {place: helper_of(name) for place, name in NAMES.items()} == {0: 0, 1: 1, 2: 2}


@pytest.fixture
async def equals(running):
    async with Cluster(*map(Worker, running)) as cluster:
        yield cluster


async def until_served(remote, images):
    async with asyncio.timeout(30):
        while True:
            try:
                return await remote.query(images)
            except NotServed:
                await asyncio.sleep(0)


async def finish(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("helper", NAMES)
async def test_answers_rounds_and_bytes_whoever_helps(equals, running, model, images, expected, helper):
    name = NAMES[helper]
    assert equals.addresses_for(name).crypto_provider == equals.workers[helper].url
    async with await share(model, equals, name=name) as shared, connect(Cluster(*map(Worker, running))) as remote:
        serving = asyncio.create_task(shared.serve(2))
        np.testing.assert_allclose(await until_served(remote, images), expected, atol=TOLERANCE)
        first, second = remote.last.servers
        assert remote.last.rounds == 4  # opening, node and selection of the ReLU, then the next opening
        [window] = [op.window for op in shared.program.ops if isinstance(op, Select)]
        words = 36 + blocks_for(window).opened + 1 + 36  # 36 elements; their bits fit a word each
        assert first.sent == first.received == second.sent == second.received == 40 * 8 * words
        assert first.dealt == 0  # the helper tells server 0 nothing, not even a key
        labels = await remote.query(images, reveal="label")
        np.testing.assert_array_equal(labels, expected.argmax(1))
        await serving
        with pytest.raises(QuotaSpent):
            await remote.query(images[:1])


async def test_the_costs_are_those_with_a_crypto_provider(equals, cluster, model, images):
    costs = []
    for form, name in ((equals, "small"), (cluster, "other")):
        async with await share(model, form, name=name) as shared, connect(form, name) as remote:
            serving = asyncio.create_task(shared.serve(1))
            await until_served(remote, images)
            costs.append((remote.last.rounds, remote.last.servers, remote.last.uploaded, remote.last.downloaded))
            await serving
    assert costs[0] == costs[1]


async def test_the_helper_hosts_nothing_of_the_model(equals, model):
    async with await share(model, equals, name=NAMES[2]):
        servers = [await equals.links.system.connect(f"{worker.url}/server", ComputeServer) for worker in equals.workers]
        assert [await server.names() for server in servers] == [["b"], ["b"], []]


async def test_a_client_that_lists_the_workers_in_another_order_is_told(equals, running, model):
    other_order = Cluster(*map(Worker, running[1:] + running[:1]))
    async with await share(model, equals, name=NAMES[0]):
        with pytest.raises(UnknownModel, match="same order as its owner"):
            async with connect(other_order, NAMES[0]):
                pass


async def test_models_with_different_helpers_at_once(equals, model, images, expected):
    async with await share(model, equals, name=NAMES[0]) as first, await share(model, equals, name=NAMES[2]) as second:
        with pytest.raises(UnknownModel, match=r"2 models are shared there \(b, net\)"):
            async with connect(equals):
                pass
        serving = [asyncio.create_task(shared.serve(1)) for shared in (first, second)]
        async with connect(equals, first.name) as one, connect(equals, second.name) as other:
            answers = await asyncio.gather(until_served(one, images), until_served(other, images))
        for answer in answers:
            np.testing.assert_allclose(answer, expected, atol=TOLERANCE)
        await asyncio.gather(*serving)


async def test_a_ticket_works_once_and_a_chunk_is_taken_once(equals, model, images):
    name = NAMES[1]
    async with await share(model, equals, name=name) as shared, connect(equals, name) as remote:
        serving = asyncio.create_task(shared.serve(5))
        await until_served(remote, images[:1])
        links = equals.links_for(name)
        [granted] = (await links.provider.request(name, remote.model, 1, "logits", HOLDERS)).granted
        answers = (server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask) for party, server in enumerate(links.servers))
        await asyncio.gather(*answers)
        with pytest.raises(TicketRefused, match="used before"):
            await links.servers[0].answer(granted.ticket, right_at(SECRET, 0), granted.input_mask)
        await finish(serving)


async def to_the_end(epochs):
    async for _ in epochs:
        pass


def network(name):
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(12, activation="relu")
    model = keras.Sequential([layers.Input((2, 4)), layers.Flatten(), hidden, layers.Dense(3)], name=name)
    model.compile(keras.optimizers.SGD(0.3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (100, 2, 4)).astype(np.float32)
    return x, (x.reshape(100, 8) @ rng.normal(size=(8, 3))).argmax(1)


async def test_training_on_the_same_stored_data_whoever_helps(equals, cluster, data):
    """Weights as from Keras, rounds and bytes as with a crypto provider."""
    stored = await equals.store("x", data[0]), await equals.store("y", data[1])
    plain = network("plain")
    plain.fit(*data, epochs=1, batch_size=32, shuffle=False, verbose=0)
    costs = []
    for name in NAMES.values():
        async with await share(network(name), equals) as shared:
            epochs = [epoch async for epoch in shared.fit(*stored, epochs=1, batch_size=32, shuffle=False)]
            trained = await shared.reveal()
        costs.append((epochs[0].rounds, epochs[0].bytes, epochs[0].dealt, epochs[0].steps))
        for mine, theirs in zip(trained.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=0.005)
    dealt = await cluster.store("x", data[0]), await cluster.store("y", data[1])
    async with await share(network("dealt"), cluster) as shared:
        [epoch] = [epoch async for epoch in shared.fit(*dealt, epochs=1, batch_size=32, shuffle=False)]
    assert costs == [(epoch.rounds, epoch.bytes, epoch.dealt, epoch.steps)] * 3


async def test_data_belong_to_the_form_of_cluster_where_they_were_stored(equals, cluster, data):
    for here, there in ((equals, cluster), (cluster, equals)):
        stored = await here.store("x", data[0]), await here.store("y", data[1])
        async with await share(network("small"), there) as shared:
            with pytest.raises(ServingError, match=r"three equals|no such data|no such model or data"):
                await anext(shared.fit(*stored))


@pytest.mark.long
async def test_the_example_without_a_provider():
    """On fewer images than it has: training on shares and in the clear give nearly the same."""
    example = Path(__file__).parents[2] / "examples" / "encrypted_training.py"
    environment = os.environ | {"PYTHONPATH": str(example.parents[1])}
    command = [sys.executable, example, "640", "1", "--equals"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0
    shares, clear = (float(percent) for percent in re.findall(r"accuracy ([\d.]+)% on", output))
    assert shares > 30
    assert abs(shares - clear) <= 1.0


def test_three_equals_are_needed():
    a, b, c = (Worker(f"localhost:{port}") for port in (4000, 4001, 4002))
    for workers in ((a, b), (a, b, c, a)):
        with pytest.raises(ClusterError, match="three equals are needed, or two servers and a crypto provider"):
            Cluster(*workers)
    with pytest.raises(ClusterError, match="three different workers"):
        Cluster(a, b, Worker("127.0.0.1:4000"))


@pytest.fixture
async def doomed():
    """Equals that a test may kill."""
    async with Cluster(*(Worker("localhost:0") for _ in range(3))) as cluster:
        yield cluster


async def test_a_helper_that_dies_is_told_and_started_again_it_knows_nothing(doomed, model, images, expected):
    """Tickets of before are worth nothing at a model that is shared again under the same name: its keys are new."""
    name = NAMES[0]
    shared = await share(model, doomed, name=name)
    serving = asyncio.create_task(shared.serve(1000))
    async with connect(doomed, name) as remote:
        await until_served(remote, images[:1])
        links = doomed.links_for(name)
        [unused] = (await links.provider.request(name, remote.model, 1, "logits", HOLDERS)).granted
        os.kill(doomed.children[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=doomed.workers[0].url):
            await remote.query(images[:1], timeout=20)
        with pytest.raises(WorkerLost, match="served no more"):
            await serving
        async with await ChildProcess.start("protocols.workers.worker_process", doomed.workers[0].address, ready_within=30):
            with pytest.raises((UnknownModel, WorkerLost)):
                await remote.query(images[:1], timeout=20)
            await shared.stop()
            async with await share(model, doomed, name=name) as again, connect(doomed, name) as anew:
                serving = asyncio.create_task(again.serve(1))
                np.testing.assert_allclose(await until_served(anew, images[:2]), expected[:2], atol=TOLERANCE)
                await serving
                with pytest.raises(UnknownModel):
                    await links.servers[0].answer(unused.ticket, right_at(SECRET, 0), unused.input_mask)


@pytest.mark.long
async def test_a_helper_that_dies_in_training_leaves_the_model_of_the_last_epoch(doomed, data):
    stored = await doomed.store("x", data[0]), await doomed.store("y", data[1])
    shared = await share(network(NAMES[2]), doomed)
    epochs = shared.fit(*stored, epochs=1000, batch_size=20)
    assert (await anext(epochs)).number == 1
    os.kill(doomed.children[2].pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="last complete epoch"):
        await asyncio.wait_for(to_the_end(epochs), 60)
    trained = await shared.reveal()
    assert np.isfinite(trained.get_weights()[0]).all()
    with pytest.raises(WorkerLost, match="could not be stored"):
        await doomed.store("more", data[0])

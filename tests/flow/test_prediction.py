"""The whole flow with real processes over real websockets: owner, two servers, crypto provider, clients."""

import asyncio
import contextlib
import os
import signal

import numpy as np
import pytest

from actors import ChildProcess, message
from inner_workers import inner_worker, inner_workers
from protocols import Cluster, Worker, connect, share
from protocols.authority.membership import SERVER, Membership
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.errors import (
    ClusterError,
    InputError,
    NameTaken,
    NotServed,
    QuotaSpent,
    TicketRefused,
    TooLarge,
    UnknownModel,
    UnsupportedLayer,
    WorkerLost,
    WorkerUnreachable,
)
from protocols.serving.hosting import HostedModel
from protocols.storage.holdings import Holdings
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider

TOLERANCE = 0.005
SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))
"""What a client that talks to the workers by itself tells the provider; see `answers_of`."""


async def answers_of(servers, granted, m=None):
    """Both servers' answers to a client that shows each its right to a ticket."""
    m = granted.input_mask if m is None else m
    return await asyncio.gather(*(server.answer(granted.ticket, right_at(SECRET, party), m) for party, server in enumerate(servers)))


async def finish(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_three_requests_and_no_fourth(cluster, model, images, expected):
    answered = []
    async with await share(model, cluster, name="small") as shared:
        serving = asyncio.create_task(shared.serve(3, on_answer=answered.append))
        async with connect(cluster, "small") as remote:
            assert (remote.input_shape, remote.output_shape) == ((None, 8, 8, 1), (None, 4))
            one = await until_served(remote, images[:1])
            many = await remote.query(images)
            labels = await remote.query(images, reveal="label")
            await serving
            with pytest.raises(QuotaSpent, match="3 requests"):
                await remote.query(images[:1])
        np.testing.assert_allclose(one, expected[:1], atol=TOLERANCE)
        np.testing.assert_allclose(many, expected, atol=TOLERANCE)
        certain = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 2 * TOLERANCE
        assert certain.sum() > 20
        np.testing.assert_array_equal(labels[certain], expected.argmax(axis=1)[certain])
        assert answered == [1, 2, 3]
        assert one.dtype == np.float64
        assert labels.dtype == np.int64


async def until_served(remote, x, **options):
    """The first query of a client that may be quicker than the owner's `serve`."""
    for _ in range(200):
        try:
            return await remote.query(x, **options)
        except NotServed:
            await asyncio.sleep(0.01)
    raise AssertionError("never served")


@pytest.fixture
async def served(cluster, model):
    """A model served to anybody, and a client's connection."""
    async with await share(model, cluster, name="small") as shared:
        serving = asyncio.create_task(shared.serve(1000))
        async with connect(cluster, "small") as remote:
            await until_served(remote, np.zeros((1, 8, 8, 1)))
            yield cluster, shared, remote
        await finish(serving)


async def test_many_clients_get_their_own_answers(served, images, expected):
    cluster, _, _ = served

    async def ask(start: int) -> np.ndarray:
        async with connect(cluster, "small") as remote:
            return np.concatenate([await remote.query(images[i : i + 3]) for i in range(start, 36, 6)])

    answers = await asyncio.gather(*(ask(start) for start in (0, 3, 6, 9)))
    for start, answer in zip((0, 3, 6, 9), answers, strict=True):
        rows = np.concatenate([np.arange(i, i + 3) for i in range(start, 36, 6)])
        np.testing.assert_allclose(answer, expected[rows], atol=TOLERANCE)


async def test_the_report_has_rounds_and_bytes(served, images):
    _, _, remote = served
    await remote.query(images[:1])
    report = remote.last
    assert report.rounds == 4
    assert report.servers[0].sent == report.servers[1].received
    assert report.servers[1].dealt > 0 == report.servers[0].dealt
    assert report.uploaded == 2 * 8 * 64
    await remote.query(images[:5], reveal="label")
    assert remote.last.rounds == 3 + 4 + 3  # the clamp first; then c, node, one level of ANDs for four classes


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (np.zeros((1, 8, 8)), r"\('n', 8, 8, 1\)"),
        (np.zeros((8, 8, 1)), "add a batch axis"),
        (np.zeros((0, 8, 8, 1)), "n >= 1"),
        (np.full((1, 8, 8, 1), np.nan), "64 of 64 values are NaN or infinite"),
        (np.full((1, 8, 8, 1), np.inf), "NaN or infinite"),
        (np.full((1, 8, 8, 1), -np.inf, np.float16), "NaN or infinite"),
        (np.full((1, 8, 8, 1), 255.0), "from 0 to 1"),
        (np.full((1, 8, 8, 1), "a"), "dtype <U1"),
        (np.zeros((1, 8, 8, 1), complex), "dtype complex128"),
        ([[1, 2], [3]], "no array"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(served, images, bad, complaint):
    _, _, remote = served
    before = remote.last
    with pytest.raises(InputError, match=complaint):
        await remote.query(bad)
    assert remote.last is before
    await remote.query(images[:1])


async def test_the_ends_of_the_range_are_inside_in_every_precision(cluster, model):
    low, high = -0.1, 0.7
    async with await share(model, cluster, name="ends", input_range=(low, high)) as shared, connect(cluster, "ends") as remote:
        serving = asyncio.create_task(shared.serve(6, reveal=["logits"]))
        for end in (low, high):
            exact = await until_served(remote, np.full((1, 8, 8, 1), end))
            for dtype in (np.float32, np.float16):
                x = np.full((1, 8, 8, 1), end, dtype)
                np.testing.assert_allclose(await remote.query(x), exact, atol=0.01)
                with pytest.raises(InputError, match="64 of 64 values are outside"):
                    await remote.query(np.nextafter(x, dtype(9 * end)))
        await serving


async def test_unknown_model_and_other_names(served):
    cluster, _, _ = served
    with pytest.raises(UnknownModel, match=r"'other' is shared here \(shared: small\)"):
        async with connect(cluster, "other"):
            pass
    async with connect(cluster) as only:
        assert only.name == "small"


async def test_two_owners_cannot_share_one_name(served, model):
    cluster, _, _ = served
    with pytest.raises(NameTaken, match="'small'"):
        await share(model, cluster, name="small")


async def test_stopping_frees_the_name_and_ends_serving(cluster, model, images):
    shared = await share(model, cluster, name="again")
    serving = asyncio.create_task(shared.serve(5))
    async with connect(cluster, "again") as remote:
        await until_served(remote, images[:1])
        await shared.stop()
        with pytest.raises(UnknownModel, match=r"stopped|shared here"):
            await serving
        with pytest.raises(UnknownModel):
            await remote.query(images[:1])
    async with await share(model, cluster, name="again"):
        pass
    await shared.stop()


async def test_only_the_kinds_of_answer_that_the_owner_allows(cluster, model, images):
    async with await share(model, cluster, name="labels") as shared, connect(cluster, "labels") as remote:
        with pytest.raises(NotServed):
            await remote.query(images[:1])
        serving = asyncio.create_task(shared.serve(2, reveal=["label"]))
        assert (await until_served(remote, images[:2], reveal="label")).shape == (2,)
        with pytest.raises(NotServed, match="logits"):
            await remote.query(images[:1])
        await finish(serving)
        with pytest.raises(ValueError, match="at least 1"):
            await shared.serve(0)
        with pytest.raises(ValueError, match="can give"):
            await shared.serve(1, reveal=["probabilities"])
        with pytest.raises(TypeError, match="not an integer"):
            await shared.serve(1.5)
        with pytest.raises(ValueError, match="ahead=-1"):
            await shared.serve(1, ahead=-1)
        with pytest.raises(ValueError, match="ticket_lifetime=0"):
            await shared.serve(1, ticket_lifetime=0)
        with pytest.raises(TooLarge, match="100 bytes are allowed"):
            await shared.serve(1, memory=100)


async def test_serving_can_be_interrupted_and_goes_on_with_as_many_more(cluster, model, images):
    async with await share(model, cluster, name="resumed") as shared, connect(cluster, "resumed") as remote:
        serving = asyncio.create_task(shared.serve(3))
        await until_served(remote, images[:1])
        await finish(serving)
        await remote.query(images[:1])  # allowed before, answered while nobody waits
        answered = []
        again = asyncio.create_task(shared.serve(2, on_answer=answered.append))
        while not again.done():
            with contextlib.suppress(QuotaSpent):
                await remote.query(images[:1])
        assert len(answered) == 2
        with pytest.raises(QuotaSpent, match=f"{answered[-1]} requests"):
            await remote.query(images[:1])


async def test_a_client_of_a_model_that_was_shared_anew_is_told(cluster, model, images):
    import keras

    larger = keras.models.clone_model(model)
    larger.set_weights([40 * w for w in model.get_weights()])
    shared = await share(model, cluster, name="anew")
    async with connect(cluster, "anew") as remote:
        await shared.stop()
        async with await share(larger, cluster, name="anew") as other:
            serving = asyncio.create_task(other.serve(1))
            with pytest.raises(UnknownModel, match="shared anew"):
                await remote.query(images[:1])
            async with connect(cluster, "anew") as fresh:
                np.testing.assert_allclose(await until_served(fresh, images[:1]), larger.predict(images[:1], verbose=0), atol=0.2)
            await serving


async def test_expired_tickets_do_not_eat_the_quota_of_the_servers(cluster, model, images):
    async with await share(model, cluster, name="brief") as shared, connect(cluster, "brief") as remote:
        serving = asyncio.create_task(shared.serve(1, ticket_lifetime=0.2, reveal=["logits"]))
        granted = []
        while len(granted) < 2:  # the second is granted only after the first has expired
            with contextlib.suppress(NotServed, QuotaSpent):
                granted += (await cluster.links.provider.request("brief", remote.model, 1, "logits", HOLDERS)).granted
            await asyncio.sleep(0.01)
        for party, server in enumerate(cluster.links.servers):
            with pytest.raises(TicketRefused, match="withdrawn"):
                await server.answer(granted[0].ticket, right_at(SECRET, party), granted[0].input_mask)
        async with asyncio.timeout(20):
            while not serving.done():
                with contextlib.suppress(QuotaSpent, TicketRefused, WorkerLost):
                    assert (await remote.query(images[:1])).shape == (1, 4)
                    await serving


async def test_a_request_larger_than_the_memory_is_cut_into_parts(cluster, model, images, expected):
    async with await share(model, cluster, name="lean") as shared:
        serving = asyncio.create_task(shared.serve(1, memory=1 << 17, reveal=["logits"]))
        async with connect(cluster, "lean") as remote:
            answer = await until_served(remote, np.concatenate([images] * 5))
            await serving
        np.testing.assert_allclose(answer, np.concatenate([expected] * 5), atol=TOLERANCE)


async def test_a_client_that_asks_for_tickets_twice_at_once_gets_no_more_than_its_request(cluster, model, images):
    async with await share(model, cluster, name="greedy") as shared, connect(cluster, "greedy") as remote:
        terms = {"memory": shared.bytes_per_example, "reveal": ["logits"], "ticket_lifetime": 0.2}  # one example at a time
        serving = asyncio.create_task(shared.serve(1, **terms))
        while not await shared.prepared():
            await asyncio.sleep(0.01)
        provider = cluster.links.provider
        grants = await provider.request("greedy", remote.model, 2, "logits", HOLDERS)
        assert grants.left == 1
        more = await asyncio.gather(*(provider.more("greedy", grants.request) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in more].count(TicketRefused) == 2
        async with asyncio.timeout(20):
            while not serving.done():  # all of it expires, so that the one request that is allowed can still be made
                with contextlib.suppress(QuotaSpent, TicketRefused, WorkerLost):
                    await remote.query(images[:1])
                    await serving


async def test_a_vanished_client_gives_its_request_back(cluster, model, images):
    async with await share(model, cluster, name="patient") as shared:
        serving = asyncio.create_task(shared.serve(1, ticket_lifetime=0.05))
        provider = cluster.links.provider
        while True:
            try:
                await provider.request("patient", (await cluster.links.servers[0].describe("patient")).model, 3, "logits", HOLDERS)
                break
            except NotServed:
                await asyncio.sleep(0.01)
        async with connect(cluster, "patient") as remote:
            for _ in range(200):
                try:
                    answer = await remote.query(images[:1])
                    break
                except QuotaSpent:
                    await asyncio.sleep(0.01)
            assert answer.shape == (1, 4)
        await serving


async def test_a_ticket_works_once(served, images):
    cluster, _, remote = served
    grants = await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)
    [granted] = grants.granted
    servers = cluster.links.servers
    await answers_of(servers, granted)
    for party, server in enumerate(servers):
        with pytest.raises(TicketRefused, match="used before"):
            await server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask)
    await remote.query(images[:1])


async def test_a_client_that_reaches_one_server_only_does_not_disturb_others(served, images, expected):
    cluster, _, remote = served
    grants = await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)
    [granted] = grants.granted
    half = asyncio.create_task(cluster.links.servers[0].answer(granted.ticket, right_at(SECRET, 0), granted.input_mask))
    np.testing.assert_allclose(await remote.query(images[:2]), expected[:2], atol=TOLERANCE)
    await finish(half)
    np.testing.assert_allclose(await remote.query(images[:2]), expected[:2], atol=TOLERANCE)


async def test_masked_input_of_a_wrong_shape_does_not_cost_the_ticket(served):
    cluster, _, remote = served
    grants = await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)
    [granted] = grants.granted
    with pytest.raises(ValueError, match="the ticket is for"):
        await cluster.links.servers[0].answer(granted.ticket, right_at(SECRET, 0), np.concatenate([granted.input_mask] * 2))
    answers = await answers_of(cluster.links.servers, granted)
    assert answers[0].share.shape == (1, 4)


async def test_a_ticket_is_worth_nothing_to_whoever_does_not_have_the_right_at_that_server(served, images):
    """Also to the other server, which has seen the ticket and the right there. Its client is answered afterwards."""
    cluster, _, remote = served
    [granted] = (await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)).granted
    for party, server in enumerate(cluster.links.servers):
        for right in (right_at(SECRET, 1 - party), HOLDERS[party], right_at(new_secret(), party), b""):
            with pytest.raises(TicketRefused, match="issued to another client"):
                await server.answer(granted.ticket, right, granted.input_mask)
    assert (await answers_of(cluster.links.servers, granted))[0].share.shape == (1, 4)
    await remote.query(images[:1])


@pytest.mark.parametrize("holders", [(HOLDERS[0], HOLDERS[0]), (b"", HOLDERS[1]), (HOLDERS[0], HOLDERS[1][:-1]), (b"", b"")])
async def test_a_client_names_another_right_for_each_server(served, holders):
    cluster, _, remote = served
    with pytest.raises(TicketRefused, match="two different digests of 32 bytes"):
        await cluster.links.provider.request("small", remote.model, 1, "logits", holders)


async def test_another_client_gets_no_tickets_of_a_request(cluster, model):
    """Requests are known by who has begun them, over the connection or by the certificate."""
    async with await share(model, cluster, name="greedy") as shared, connect(cluster, "greedy") as remote:
        serving = asyncio.create_task(shared.serve(1, memory=shared.bytes_per_example, reveal=["logits"]))
        while not await shared.prepared():
            await asyncio.sleep(0.01)
        provider = cluster.links.provider
        grants = await provider.request("greedy", remote.model, 2, "logits", HOLDERS)
        assert grants.left == 1
        with pytest.raises(TicketRefused, match="no such request"):
            await remote._provider.more("greedy", grants.request)
        await answers_of(cluster.links.servers, grants.granted[0])
        assert (await provider.more("greedy", grants.request)).left == 0
        await finish(serving)


async def test_unsupported_layers_are_refused_before_anything_is_shared(cluster):
    import keras
    from keras import layers

    model = keras.Sequential([layers.Input((8,)), layers.Dense(3, activation="sparsemax", name="odd")])
    with pytest.raises(UnsupportedLayer, match="odd"):
        await share(model, cluster, name="odd")
    with pytest.raises(UnknownModel):
        async with connect(cluster, "odd"):
            pass


def test_a_cluster_needs_two_servers_and_a_third_party():
    a, b = Worker("localhost:4000"), Worker("localhost:4001")
    with pytest.raises(ClusterError, match="exactly two"):
        Cluster(a, crypto_provider=b)
    with pytest.raises(ClusterError, match="three different workers"):
        Cluster(a, b, crypto_provider=Worker("127.0.0.1:4001"))
    with pytest.raises(ClusterError, match="expected 'host:port'"):
        Worker("localhost")


async def test_nobody_answers():
    first, second, third = (Worker(f"localhost:{port}") for port in (9, 10, 11))
    with pytest.raises(WorkerUnreachable, match=r"confide worker 127\.0\.0\.1"):
        async with Cluster(first, second, crypto_provider=third, auto_managed=False):
            pass
    with pytest.raises(WorkerUnreachable, match="is the cluster running"):
        async with connect(Cluster(first, second, crypto_provider=third), "mnist"):
            pass


async def test_share_outside_of_the_block(model):
    cluster = Cluster(*(Worker(f"localhost:{port}") for port in (9, 10)), crypto_provider=Worker("localhost:11"))
    with pytest.raises(ClusterError, match="async with cluster"):
        await share(model, cluster)


class TestLoss:
    """Workers that are killed: an error that says who, soon; everything else goes on; nothing is left running."""

    @pytest.fixture
    async def doomed(self, model):
        workers = [Worker("localhost:0") for _ in range(3)]
        async with (
            Cluster(workers[0], workers[1], crypto_provider=workers[2]) as cluster,
            await share(model, cluster, name="small") as shared,
            connect(cluster, "small") as remote,
        ):
            serving = asyncio.create_task(shared.serve(1000))
            await until_served(remote, np.zeros((1, 8, 8, 1)))
            yield cluster, remote, serving
            await finish(serving)

    @pytest.mark.parametrize("victim", [0, 1])
    async def test_a_server_dies(self, doomed, images, victim):
        cluster, remote, serving = doomed
        os.kill(cluster.children[victim].pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await remote.query(images[:1], timeout=20)
        with pytest.raises(WorkerLost, match=r"shared again|served no more"):
            await serving

    async def test_a_server_dies_in_the_middle_of_a_large_request(self, doomed, images):
        cluster, remote, _ = doomed
        asking = asyncio.create_task(remote.query(np.concatenate([images] * 200), timeout=20))
        await asyncio.sleep(0.05)
        os.kill(cluster.children[1].pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await asking

    async def test_the_provider_dies(self, doomed, images):
        cluster, remote, serving = doomed
        grants = await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)
        os.kill(cluster.children[2].pid, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            await remote.query(images[:1], timeout=20)
        with pytest.raises(WorkerLost):
            await serving
        answers = await answers_of(cluster.links.servers, grants.granted[0])
        assert answers[1].share.shape == (1, 4)  # what was granted before is still answered

    async def test_a_server_that_is_started_again_knows_nothing_and_can_be_shared_with_again(self, model, images, expected):
        """No ticket works after a crash, used or not; the same cluster serves the model once it is shared again."""
        first, second, third = (Worker("localhost:0") for _ in range(3))
        async with Cluster(first, second, crypto_provider=third) as cluster:
            shared = await share(model, cluster, name="small")
            serving = asyncio.create_task(shared.serve(1000))
            async with connect(cluster, "small") as remote:
                await until_served(remote, images[:1])
                grants = [(await cluster.links.provider.request("small", remote.model, 1, "logits", HOLDERS)).granted[0] for _ in range(2)]
                used, unused = grants
                servers = cluster.links.servers
                await answers_of(servers, used)
                os.kill(cluster.children[1].pid, signal.SIGKILL)
                with pytest.raises(WorkerLost):
                    await serving
                async with await ChildProcess.start("protocols.workers.worker_process", second.address, ready_within=30):
                    with pytest.raises(TicketRefused, match="used before"):
                        await servers[0].answer(used.ticket, right_at(SECRET, 0), used.input_mask)
                    for granted in grants:
                        with pytest.raises(UnknownModel):
                            await servers[1].answer(granted.ticket, right_at(SECRET, 1), granted.input_mask)
                    with pytest.raises(WorkerLost, match="shared again"):
                        await remote.query(images[:1])
                    await shared.stop()
                    async with await share(model, cluster, name="small") as again, connect(cluster, "small") as anew:
                        serving = asyncio.create_task(again.serve(1))
                        np.testing.assert_allclose(await until_served(anew, images[:2]), expected[:2], atol=TOLERANCE)
                        await serving
                    with pytest.raises(UnknownModel):
                        await servers[0].answer(unused.ticket, right_at(SECRET, 0), unused.input_mask)


class Impatient(ComputeServer):
    """Waits a moment only for the other parties."""

    def __init__(self, cluster: Membership, holdings: Holdings) -> None:
        super().__init__(cluster, holdings, 0.05)


async def test_a_model_whose_provider_and_owner_are_gone_is_forgotten(model):
    """The servers wait as long as an answer may take, then the name is free, also for a provider that is started again."""
    async with inner_worker(parts={"server": Impatient}) as first, inner_worker(parts={"server": Impatient}) as second:
        servers = [Worker(one.system.address) for one in (first, second)]
        address = "127.0.0.1:0"
        for _ in range(2):
            async with contextlib.AsyncExitStack() as stack:
                async with inner_worker(address=address) as provider:
                    address = provider.system.address.removeprefix("ws://")
                    cluster = Cluster(*servers, crypto_provider=Worker(address))
                    await share(model, await stack.enter_async_context(cluster), name="small")
                    assert [one.actor("server")._entries.keys() for one in (first, second)] == [{"small"}] * 2
                async with asyncio.timeout(20):
                    while any(one.actor("server")._entries for one in (first, second)):
                        await asyncio.sleep(0.01)


class Asked(CryptoProvider):
    """Tells when a server has asked whether a model is still shared."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.asked: asyncio.Queue[bool] = asyncio.Queue()

    @message(reentrant=True, by=SERVER)
    async def knows(self, model: bytes) -> bool:
        answer = await CryptoProvider.knows(self, model)
        self.asked.put_nowait(answer)
        return answer


@pytest.fixture
async def at_home():
    """Three workers in this process, to reach into, and their cluster."""
    async with inner_workers(parts=[{"server": Impatient, "provider": Asked}] * 3) as (inner, cluster):
        yield inner, cluster


async def test_a_connection_to_the_provider_that_only_broke_costs_no_model(at_home, model, images, expected):
    inner, cluster = at_home
    asked = inner[2].actor("provider").asked
    async with await share(model, cluster, name="small") as shared, connect(cluster, "small") as remote:
        serving = asyncio.create_task(shared.serve(1))
        for one in inner[:2]:
            for link in list(one.system._network._links.values()):
                if link.peer.address == inner[2].system.address:
                    link._socket.transport.abort()
        assert await asked.get()
        assert await asked.get()
        np.testing.assert_allclose(await until_served(remote, images[:2]), expected[:2], atol=TOLERANCE)
        await serving


async def test_an_owner_is_told_when_a_server_cannot_take_more_randomness(at_home, model, monkeypatch):
    _, cluster = at_home

    def full(*_):
        raise MemoryError("no room for randomness")

    monkeypatch.setattr(HostedModel, "prepared", full)
    async with await share(model, cluster, name="small") as shared:
        with pytest.raises(WorkerLost, match="MemoryError: failed inside the handler"):
            await shared.serve(1)
        async with connect(cluster, "small") as remote:
            with pytest.raises(WorkerLost, match="shared again"):
                await remote.query(np.zeros((1, 8, 8, 1)))

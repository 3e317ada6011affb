"""Quotas in the whole flow: requests and examples, and clients that take tickets without using them. Three workers in this process."""

import asyncio
import contextlib
import threading
from collections import Counter

import numpy as np
import pytest

from actors import ActorSystem
from inner_workers import inner_workers
from protocols import RemoteModel, connect, share
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.datasets.dataset import Dataset
from protocols.errors import Busy, QuotaSpent, ServingError, TicketRefused, TooLarge, WorkerLost
from protocols.serving import room
from protocols.serving.hosting import fingerprint
from protocols.storage.vault import Label
from protocols.storage.versions import About
from protocols.workers import granting
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.keeper import Keeper
from protocols.workers.training_dealer import TrainingDealer

TOLERANCE = 0.005
SECRET = new_secret()
HOLDERS = (digest_at(SECRET, 0), digest_at(SECRET, 1))


@contextlib.asynccontextmanager
async def served(model, requests: int, equals: bool = False, **terms):
    """A model that is served to anybody, as (workers, cluster, shared, a client's connection, the owner's task)."""
    async with (
        inner_workers(equals=equals) as (workers, cluster),
        await share(model, cluster, name="small") as shared,
        connect(cluster, "small") as remote,
    ):
        serving = asyncio.create_task(shared.serve(requests, **terms))
        while not (await cluster.links_for("small").servers[1].describe("small")).reveal or not await shared.prepared():
            await asyncio.sleep(0)
        try:
            yield workers, cluster, shared, remote, serving
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@contextlib.asynccontextmanager
async def stranger(cluster):
    """Another connection, as (provider, server 0, server 1)."""
    urls = cluster.addresses_for("small")
    async with ActorSystem() as system:
        provider = await system.connect(f"{urls.crypto_provider}/provider", CryptoProvider)
        yield provider, *[await system.connect(f"{url}/server", ComputeServer) for url in urls.servers]


@contextlib.asynccontextmanager
async def running(*work):
    """Tasks that end with the block."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def taken(provider, remote: RemoteModel, most: int, examples: int = 1) -> list:
    """All tickets that one client gets without using any, asked for without a pause until it gets none."""
    grants = []
    while len(grants) < most:
        try:
            async with asyncio.timeout(5):
                grants.append(await provider.request("small", remote.model, examples, "logits", HOLDERS))
        except (Busy, TimeoutError):
            break
    return grants


async def test_examples_are_a_quota_too_and_serving_ends_when_they_are_used_up(model, images, expected):
    numbers = []
    async with served(model, 100, examples=6, on_answer=numbers.append) as (_, _, _, remote, serving):
        with pytest.raises(QuotaSpent, match="7 examples were asked for; 6 of the 6"):
            await remote.query(images[:7])
        np.testing.assert_allclose(await remote.query(images[:4]), expected[:4], atol=TOLERANCE)
        with pytest.raises(QuotaSpent, match=r"3 examples were asked for; 2 of the 6 .* are left; ask for fewer"):
            await remote.query(images[:3])
        assert not serving.done()
        assert (await remote.query(images[:2], reveal="label")).shape == (2,)
        async with asyncio.timeout(20):
            await serving
        assert numbers == [1, 2]
        with pytest.raises(QuotaSpent, match="1 examples were asked for; 0 of the 6"):
            await remote.query(images[:1])


async def test_requests_end_first_if_there_are_fewer_of_them_and_serving_again_adds_both(model, images):
    async with served(model, 1, examples=50) as (_, _, shared, remote, serving):
        await remote.query(images[:5])
        async with asyncio.timeout(20):
            await serving
        with pytest.raises(QuotaSpent, match="1 requests"):
            await remote.query(images[:1])
        again = asyncio.create_task(shared.serve(9, examples=3))  # 3 more than the 5 that were answered
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(QuotaSpent):
                    await remote.query(images[:2])
                    break
        with pytest.raises(QuotaSpent, match="2 examples were asked for; 1 of the 8"):
            await remote.query(images[:2])
        await remote.query(images[:1])
        async with asyncio.timeout(20):
            await again
        for number in (0, -1):
            with pytest.raises(ValueError, match=f"examples={number}; at least 1"):
                await shared.serve(1, examples=number)
        with pytest.raises(TypeError, match=r"examples=1\.5 is not an integer"):
            await shared.serve(1, examples=1.5)


@pytest.mark.parametrize("strict", ["server 0", "server 1", "provider"])
@pytest.mark.parametrize("what", [(2, None), (100, 4)])
async def test_each_of_the_three_enforces_both_numbers_alone(model, images, strict, what):
    requests, examples = what
    async with served(model, requests, examples=examples) as (workers, _, _, remote, serving):
        for _ in range(2):
            await remote.query(images[:2])
        await serving
        for place, name in enumerate(("server 0", "server 1")):
            if strict != name:
                workers[place].actor("server")._entries["small"].model.quota.allow(1000, None)
        if strict != "provider":
            shared = workers[2].actor("provider")._models["small"]
            shared.requests.allow(1000, None)
        with pytest.raises(QuotaSpent):
            await remote.query(images[:1])


@pytest.mark.parametrize("place", [0, 1])
async def test_a_server_that_says_it_never_answered_lifts_no_quota(model, images, place):
    """Before and after the truth, and about the past; with what was once a message of the provider gone, it cannot say so itself."""
    async with served(model, 2) as (workers, _, _, remote, serving):
        liar = workers[place].actor("server")
        entry = liar._entries["small"]
        settle = liar._settle

        def lied(entry, ticket, answered):
            for word in (False, answered, False):
                settle(entry, ticket, word)

        liar._settle = lied
        for _ in range(2):
            await remote.query(images[:1])
        async with asyncio.timeout(20):
            await serving
        assert entry.model.quota._counted == 2
        with pytest.raises(QuotaSpent):
            await remote.query(images[:1])
    assert not hasattr(ComputeServer, "give_back")


async def test_forty_clients_at_once_and_ten_requests(model, images, expected):
    async with served(model, 10) as (_, cluster, _, _, serving):

        async def ask(number: int) -> str:
            x, y = images[number : number + 1 + number % 3], expected[number : number + 1 + number % 3]
            async with connect(cluster, "small") as remote:
                try:
                    return str(np.allclose(await remote.query(x), y, atol=TOLERANCE))
                except ServingError as error:
                    return type(error).__name__

        outcomes = Counter(await asyncio.gather(*(ask(number) for number in range(40))))
        assert outcomes == {"True": 10, "QuotaSpent": 30}
        async with asyncio.timeout(20):
            await serving


async def test_racing_clients_get_no_more_examples_than_allowed(model, images):
    async with served(model, 1000, examples=20) as (_, cluster, _, _, serving):

        async def ask() -> int:
            async with connect(cluster, "small") as remote:
                try:
                    return len(await remote.query(images[:3]))
                except QuotaSpent:
                    return 0

        assert sum(await asyncio.gather(*(ask() for _ in range(20)))) == 18
        async with connect(cluster, "small") as last:
            await last.query(images[:2])
        async with asyncio.timeout(20):
            await serving


@pytest.mark.parametrize("equals", [False, True])
async def test_tickets_that_are_taken_and_not_used_keep_nobody_out(model, images, expected, monkeypatch, equals):
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with served(model, 20, equals, ticket_lifetime=600.0) as (_, cluster, _, remote, serving), stranger(cluster) as (provider, *_):
        assert len(await taken(provider, remote, 20)) == 20
        for start in range(20):  # all of the quota is for whoever asks
            np.testing.assert_allclose(
                await remote.query(images[start : start + 1], timeout=30), expected[start : start + 1], atol=TOLERANCE
            )
        async with asyncio.timeout(20):
            await serving
        with pytest.raises(QuotaSpent):
            await provider.request("small", remote.model, 1, "logits", HOLDERS)


@pytest.mark.parametrize("examples", [1, 3, 10_000])
async def test_randomness_that_is_taken_and_not_used_keeps_nobody_out(model, images, expected, monkeypatch, examples):
    """One client holds all that the servers may hold, in many requests or in one, and goes on asking all the time."""
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        size = (await stack.enter_async_context(shared_alone(model))).bytes_per_example
        terms = {"memory": 8 * size, "reveal": ["logits"], "ticket_lifetime": 600.0}
        _, cluster, _, remote, _ = await stack.enter_async_context(served(model, 1000, **terms))
        provider, *_ = await stack.enter_async_context(stranger(cluster))

        async def greedy() -> None:
            while True:
                with contextlib.suppress(Busy, TicketRefused):
                    grants = await provider.with_options(timeout=None).request("small", remote.model, examples, "logits", HOLDERS)
                    while grants.left:
                        grants = await provider.with_options(timeout=None).more("small", grants.request)

        greedies = await stack.enter_async_context(running(greedy(), greedy(), greedy(), greedy(), greedy()))
        for start in range(0, 12, 2):
            answers = await remote.query(images[start : start + 2], timeout=30)
            np.testing.assert_allclose(answers, expected[start : start + 2], atol=TOLERANCE)
        assert not any(task.done() for task in greedies)


async def test_requests_that_wait_for_randomness_keep_no_place_from_others(model, images, expected, monkeypatch):
    """One client has far more requests in line than the quota allows, and the servers hold but two examples."""
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        size = (await stack.enter_async_context(shared_alone(model))).bytes_per_example
        terms = {"memory": 2 * size, "reveal": ["logits"], "ticket_lifetime": 600.0}
        _, cluster, _, remote, serving = await stack.enter_async_context(served(model, 4, **terms))
        provider, *_ = await stack.enter_async_context(stranger(cluster))

        async def greedy() -> None:
            while True:
                with contextlib.suppress(Busy):
                    await provider.with_options(timeout=None).request("small", remote.model, 1, "logits", HOLDERS)

        greedies = await stack.enter_async_context(running(*(greedy() for _ in range(40))))
        for start in range(4):
            answer = await remote.query(images[start : start + 1], timeout=30)
            np.testing.assert_allclose(answer, expected[start : start + 1], atol=TOLERANCE)
        async with asyncio.timeout(20):
            await serving
        assert {type(outcome) for outcome in await asyncio.gather(*greedies, return_exceptions=True)} == {QuotaSpent}


@contextlib.asynccontextmanager
async def shared_alone(model):
    """A model that nobody serves: its measures are known."""
    async with inner_workers() as (_, cluster), await share(model, cluster, name="measures") as shared:
        yield shared


async def test_many_connections_that_hold_a_ticket_each_keep_nobody_out(model, images, expected, monkeypatch):
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        _, cluster, _, remote, _ = await stack.enter_async_context(served(model, 12, ticket_lifetime=600.0))
        for _ in range(12):
            provider, *_ = await stack.enter_async_context(stranger(cluster))
            await provider.request("small", remote.model, 1, "logits", HOLDERS)
        np.testing.assert_allclose(await remote.query(images[:1], timeout=30), expected[:1], atol=TOLERANCE)


@pytest.mark.parametrize("place", [0, 1])
async def test_a_client_that_begins_at_one_server_only_keeps_nobody_out(model, images, expected, monkeypatch, place):
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with (
        served(model, 2, ticket_lifetime=600.0) as (workers, cluster, _, remote, serving),
        stranger(cluster) as (provider, *servers),
    ):
        halves = []
        for grants in await taken(provider, remote, 2):
            [granted] = grants.granted
            halves.append(asyncio.create_task(servers[place].answer(granted.ticket, right_at(SECRET, place), granted.input_mask)))
        quota = workers[place].actor("server")._entries["small"].model.quota
        while quota._counted < 2:
            await asyncio.sleep(0)
        np.testing.assert_allclose(await remote.query(images[:1], timeout=20), expected[:1], atol=TOLERANCE)  # patience: 30 s
        await remote.query(images[:1], timeout=20)
        async with asyncio.timeout(20):
            await serving
        outcomes = await asyncio.gather(*halves, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {WorkerLost}


async def test_busy_is_not_spent_and_says_when_to_come_back(model, images):
    """Two requests are promised, and too young to be taken back."""
    async with served(model, 2, ticket_lifetime=600.0) as (_, cluster, _, remote, _), stranger(cluster) as (provider, *servers):
        grants = await taken(provider, remote, 2)
        assert len(grants) == 2
        async with stranger(cluster) as (other, *_):
            with pytest.raises(Busy, match="busy, retry in 1 s") as busy:
                await other.request("small", remote.model, 1, "logits", HOLDERS)
        assert busy.value.seconds == 1
        with pytest.raises(Busy):
            await remote.query(images[:1], timeout=1.5)
        for one in grants:
            [granted] = one.granted
            answers = (server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask) for party, server in enumerate(servers))
            assert len(await asyncio.gather(*answers)) == 2
        with pytest.raises(QuotaSpent, match="2 requests"):
            await remote.query(images[:1])


async def test_a_request_that_both_servers_work_on_is_not_taken_back(model, images, monkeypatch):
    monkeypatch.setattr(granting, "GRACE", 0.0)
    async with served(model, 1, ticket_lifetime=600.0) as (workers, cluster, _, remote, serving), stranger(cluster) as (provider, *servers):
        gates = [asyncio.Event(), asyncio.Event()]
        for place, gate in enumerate(gates):
            actor = workers[place].actor("server")

            async def slow(*arguments, gate=gate, evaluate=actor._evaluate):
                await gate.wait()
                return await evaluate(*arguments)

            actor._evaluate = slow
        [grants] = await taken(provider, remote, 1)
        [granted] = grants.granted
        running = [
            asyncio.create_task(server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask))
            for party, server in enumerate(servers)
        ]
        quotas = [workers[place].actor("server")._entries["small"].model.quota for place in (0, 1)]
        while not all(quota._counted for quota in quotas):
            await asyncio.sleep(0)
        with pytest.raises(Busy):
            await remote._provider.request("small", remote.model, 1, "logits", HOLDERS)
        for gate in gates:
            gate.set()
        assert len(await asyncio.gather(*running)) == 2
        async with asyncio.timeout(20):
            await serving
        with pytest.raises(QuotaSpent):
            await remote.query(images[:1])


async def test_a_request_whose_rest_is_never_fetched_keeps_no_examples(model, images, monkeypatch):
    monkeypatch.setattr(granting, "GRACE", 0.05)
    async with contextlib.AsyncExitStack() as stack:
        size = (await stack.enter_async_context(shared_alone(model))).bytes_per_example
        terms = {"examples": 10, "memory": size, "reveal": ["logits"], "ticket_lifetime": 600.0}
        _, cluster, _, remote, _ = await stack.enter_async_context(served(model, 1000, **terms))
        provider, *servers = await stack.enter_async_context(stranger(cluster))
        grants = await provider.request("small", remote.model, 10, "logits", HOLDERS)  # promises all, and one is granted
        assert grants.left == 9
        [granted] = grants.granted
        await asyncio.gather(
            *(server.answer(granted.ticket, right_at(SECRET, party), granted.input_mask) for party, server in enumerate(servers))
        )
        assert len(await remote.query(images[:9], timeout=30)) == 9


async def test_no_request_is_taken_back_for_its_own_sake(model, images, expected, monkeypatch):
    """It waits for randomness that only its own parts hold."""
    monkeypatch.setattr(granting, "GRACE", 0.0)
    async with contextlib.AsyncExitStack() as stack:
        size = (await stack.enter_async_context(shared_alone(model))).bytes_per_example
        _, _, _, remote, _ = await stack.enter_async_context(served(model, 1000, memory=size, reveal=["logits"]))
        for _ in range(3):
            np.testing.assert_allclose(await remote.query(images[:12], timeout=30), expected[:12], atol=TOLERANCE)


async def test_a_request_that_was_taken_back_while_it_waited_is_told(model, monkeypatch):
    """Not given tickets for fewer examples, as if these were all."""
    monkeypatch.setattr(granting, "GRACE", 0.0)
    async with contextlib.AsyncExitStack() as stack:
        size = (await stack.enter_async_context(shared_alone(model))).bytes_per_example
        _, cluster, _, remote, _ = await stack.enter_async_context(served(model, 1000, memory=size, reveal=["logits"]))
        provider, *_ = await stack.enter_async_context(stranger(cluster))
        grants = await provider.request("small", remote.model, 3, "logits", HOLDERS)
        [rest] = await stack.enter_async_context(running(provider.more("small", grants.request)))
        await remote._provider.request("small", remote.model, 1, "logits", HOLDERS)
        with pytest.raises((Busy, TicketRefused)):
            await rest


async def test_one_client_has_a_limit_of_requests_under_way(model, monkeypatch):
    monkeypatch.setattr(granting, "MOST_OPEN", 3)
    async with served(model, 1000, ticket_lifetime=600.0) as (_, cluster, _, remote, _), stranger(cluster) as (provider, *_):
        assert len(await taken(provider, remote, 10)) == 3
        await remote._provider.request("small", remote.model, 1, "logits", HOLDERS)  # another client


async def test_weights_of_one_owner_have_a_limit_at_each_worker(model, monkeypatch):
    async with inner_workers() as (workers, cluster), await share(model, cluster, name="first") as first:
        size = sum(8 * int(np.prod(shape)) for shape in first.program.weights)
        taken = [one.actor(part)._room._taken for one, part in zip(workers, ("server", "server", "provider"), strict=True)]
        assert [dict(one) for one in taken] == [{"": size}] * 3
        monkeypatch.setattr(room, "OWNER_LIMIT", 2 * size)
        async with await share(model, cluster, name="second"):
            with pytest.raises(TooLarge, match="owners without a certificate together"):
                await share(model, cluster, name="third")
        assert [dict(one) for one in taken] == [{"": size}] * 3
        async with await share(model, cluster, name="third"):
            pass
        await first.stop()
        assert not any(taken)


async def test_a_server_refuses_too_many_weights_though_the_provider_does_not(model, monkeypatch):
    async with inner_workers() as (workers, cluster):
        server = workers[1].actor("server")

        def full(owner: str, size: int) -> None:
            raise TooLarge("this server has no room")

        monkeypatch.setattr(server._room, "take", full)
        with pytest.raises(TooLarge, match="this server has no room"):
            await share(model, cluster, name="small")
        monkeypatch.undo()
        async with await share(model, cluster, name="small"):  # nothing was left behind
            pass
        assert not any(one.actor(part)._room._taken for one in workers for part in ("server", "provider"))


async def test_masks_of_weights_are_expanded_beside_the_event_loop(model, monkeypatch):
    from protocols.serving import hosting
    from protocols.workers import provided

    threads = []

    def watched(expand):
        def expanded(*arguments):
            threads.append(threading.current_thread())
            return expand(*arguments)

        return expanded

    for module, name in ((provided, "summed_weight_masks"), (hosting, "weight_masks")):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    async with inner_workers() as (_, cluster), await share(model, cluster, name="small") as shared:
        serving = asyncio.create_task(shared.serve(1, reveal=["logits"]))
        while not await shared.prepared():
            await asyncio.sleep(0)
        serving.cancel()
        assert len(threads) == 3
        assert threading.main_thread() not in threads
        right = shared._rights[0]
        with pytest.raises(ServingError, match="are here already"):
            await cluster.links.servers[0].load("small", right, fingerprint(shared.program), [])


async def test_a_third_party_expands_no_array_beyond_the_limit():
    """What arrives is a shape and two keys; without a limit, this many zeros were allocated."""
    dataset = Dataset("x", (1 << 20, 1 << 20), "numbers", b"handle")
    keys = (bytes(16), bytes(16))
    async with inner_workers() as (_, cluster):
        system, url = cluster.links.system, cluster.workers[2].url
        dealer, keeper = await system.connect(f"{url}/training-dealer", TrainingDealer), await system.connect(f"{url}/keeper", Keeper)
        with pytest.raises(TooLarge, match="2048 MiB are allowed"):
            await dealer.store(dataset, bytes(32), keys, cluster.presence)
        with pytest.raises(TooLarge, match="2048 MiB are allowed"):
            await keeper.deposit_mask(
                Label("data", "x", 1, bytes(16)), About("crypto provider", bytes(32), bytes(32), dataset=dataset), keys
            )

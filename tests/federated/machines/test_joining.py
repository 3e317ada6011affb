"""Owners that connect to the aggregator: they join, go, come back; who may join; and what a round makes of those who are away."""

import asyncio
import contextlib
import itertools

import numpy as np
import pytest

from actors import Actor, ActorSystem, InsecureAddress, MessageRejected, NameTaken
from authorities import HOST, Members
from federated import DataOwner, FedAvg, Federation, JoinRefused, SettingError, joining_owners, partition, simulated_owners, stay_joined
from federated.machines.aggregator import Aggregator
from federated.machines.certificates import encryption, issue
from federated.tasks.retry import pauses


class Happenings:
    """Lines that are told, and a way to wait for one."""

    def __init__(self):
        self.lines, self._more = [], asyncio.Event()

    def __call__(self, line):
        self.lines.append(line)
        self._more.set()

    async def wait(self, start, after=0):
        """The first line that begins so, and is not among the first `after`."""
        while True:
            for line in self.lines[after:]:
                if line.startswith(start):
                    return line
            self._more.clear()
            await self._more.wait()

    async def address(self):
        return (await self.wait("ready ")).removeprefix("ready ")


@contextlib.asynccontextmanager
async def ward(address, name, data, **options):
    """An owner that stays joined for the length of the block; gives what happens to it."""
    told = Happenings()
    async with ActorSystem(**options) as system:
        owner = await system.spawn(DataOwner, data)
        joining = asyncio.create_task(stay_joined(system, address, name=name, owner=owner, tell=told))
        try:
            yield told
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)


@contextlib.asynccontextmanager
async def opened(build, names, told, **options):
    """A federation of owners that join, entered while the block lasts."""
    owners = joining_owners(names, tell=told, **{"wait": 20.0, "patience": 0.0} | options)
    federation = Federation(model=build, owners=owners, strategy=FedAvg(batch_size=8), quorum=0.01)
    entering = asyncio.create_task(federation.__aenter__())
    try:
        yield federation, entering
        await entering
    finally:
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        await federation.__aexit__(None, None, None)


async def one_round(federation):
    async for outcome in federation.rounds(1):
        return outcome


async def test_the_same_script_simulated_or_with_owners_that_join(build, examples):
    parts, told = partition(*examples, owners=2, seed=0), Happenings()
    async with Federation(model=build, owners=simulated_owners(parts), strategy=FedAvg(batch_size=None)) as simulated:
        await simulated.run(rounds=2)
    owners = joining_owners(["a", "b"], tell=told)
    joined = Federation(model=build, owners=owners, strategy=FedAvg(batch_size=None))
    entering = asyncio.create_task(joined.__aenter__())
    address = await told.address()
    async with ward(address, "a", parts[0]), ward(address, "b", parts[1]):
        await entering
        await joined.run(rounds=2)
        await joined.__aexit__(None, None, None)
    for one, other in zip(joined.model.get_weights(), simulated.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


async def test_an_owner_that_is_away_is_dropped_by_name_and_rejoins_the_next_round(build, examples):
    told = Happenings()
    async with opened(build, ["a", "b"], told) as (federation, entering):
        address = await told.address()
        async with ward(address, "a", examples):
            async with ward(address, "b", examples):
                await entering
                assert (await one_round(federation)).reported == ("a", "b")
            await told.wait("b has left")
            outcome = await one_round(federation)
            assert outcome.reported == ("a",)
            assert "b is away: its system was closed" in outcome.dropped["b"]
            before = len(told.lines)
            async with ward(address, "b", examples):
                await told.wait("b has joined", before)
                assert (await one_round(federation)).reported == ("a", "b")


async def test_an_owner_that_never_came(build, examples):
    told = Happenings()
    async with opened(build, ["a", "b"], told, wait=0.0) as (federation, entering):
        await entering
        outcome = await one_round(federation)
        assert outcome.failure
        assert all("it has not joined yet" in why for why in outcome.dropped.values())


async def test_a_round_is_patient_with_an_owner_that_is_away(build, examples):
    told = Happenings()
    async with opened(build, ["a"], told, wait=0.0, patience=30.0) as (federation, entering):
        await entering
        playing = asyncio.create_task(one_round(federation))
        async with ward(await told.address(), "a", examples):
            assert (await playing).reported == ("a",)


async def test_owners_come_back_to_an_aggregator_that_was_away(build, examples):
    told, again = Happenings(), Happenings()
    async with opened(build, ["a"], told) as (federation, entering):
        address = await told.address()
        owner = await asyncio.create_task(_entered(stack := contextlib.AsyncExitStack(), ward(address, "a", examples)))
        await entering
    async with stack:
        await owner.wait(f"not joined to {address}")
        async with opened(build, ["a"], again, listen=address) as (federation, entering):
            await entering
            assert (await one_round(federation)).reported == ("a",)
        assert [line.split()[0] for line in owner.lines].count("joined") == 2


async def _entered(stack, context):
    return await stack.enter_async_context(context)


async def test_owners_that_the_aggregator_dials(build, examples):
    told = Happenings()
    async with ActorSystem("ws://127.0.0.1:0") as system:
        await system.spawn(DataOwner, examples, name="owner")
        dialed = {"a": f"{system.address}/owner", "b": f"{system.address}/nobody"}
        async with opened(build, [], told, dialed=dialed, wait=0.5, patience=0.5) as (federation, entering):
            await entering
            outcome = await one_round(federation)
            assert outcome.reported == ("a",)
            assert "b is away" in outcome.dropped["b"]


# Who may join.


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    issue({"hub": "127.0.0.1", "a": None, "b": None}, folder)
    return folder


@pytest.fixture
async def hub(keys):
    """An aggregator with TLS that expects a and b; gives its address, and what happens."""
    told = Happenings()
    async with joining_owners(["a", "b"], "wss://127.0.0.1:0", ssl=encryption(keys, "hub").listen, wait=0.0, tell=told):
        yield await told.address(), told


async def test_a_certificate_lets_in_under_its_own_name_only(hub, keys, examples):
    address, told = hub
    forger = encryption(keys, "b").connect
    async with ward(address, "a", examples, connect_ssl=encryption(keys, "a").connect) as owner:
        await owner.wait("joined")
        async with ActorSystem(connect_ssl=forger) as system:
            other = await system.spawn(DataOwner, examples)
            with pytest.raises(JoinRefused, match="that of 'b', not of 'a'"):
                await stay_joined(system, address, name="a", owner=other)
            with pytest.raises(JoinRefused, match="no owner 'c' is expected here"):
                await stay_joined(system, address, name="c", owner=other)
            standing = await (await system.connect(f"{address}/aggregator", Aggregator)).standing()
        assert standing.here == {"a": True, "b": False}
    start = "refused: the holder of the certificate of 'b' from 127.0.0.1, who wanted to join as 'a'"
    assert any(line.startswith(start) for line in told.lines)


async def test_owners_join_a_running_federation_by_their_certificates_and_leave_it(build, examples, tmp_path):
    """Who is on no list takes part from the next round on, and no more once it has gone; the outcome of the round says so."""
    members, told = Members(tmp_path), Happenings()
    members.add("hub", "aggregator", HOST)
    for name in ("a", "c"):
        members.add(name)
    tls = {name: members.credentials(name).connect for name in ("a", "c")}
    hub = {"listen": f"wss://{HOST}:0", "ssl": members.credentials("hub").listen}
    async with opened(build, ["a"], told, **hub) as (federation, entering):
        address = await told.address()
        async with ward(address, "a", examples, connect_ssl=tls["a"]):
            await entering
            first = await one_round(federation)
            async with ward(address, "c", examples, connect_ssl=tls["c"]):
                await told.wait("c has joined")
                second = await one_round(federation)
            await told.wait("c has left")
            third = await one_round(federation)
    assert [outcome.reported for outcome in (first, second, third)] == [("a",), ("a", "c"), ("a",)]
    assert [outcome.changes for outcome in (first, second, third)] == [
        (),
        ("owners: 2 for 1, 0 gone and 1 new",),
        ("owners: 1 for 2, 1 gone and 0 new",),
    ]


async def test_another_authority_lets_nobody_in(hub, examples, tmp_path):
    address, told = hub
    issue({"a": None}, tmp_path)
    async with ward(address, "a", examples, connect_ssl=encryption(tmp_path, "a").connect) as owner:
        assert "certificate verify failed" in await owner.wait("not joined")
    assert told.lines == [f"ready {address}"]


async def test_with_its_certificate_an_owner_replaces_itself(hub, keys, examples):
    """Its old connection may be half open: behind NAT the aggregator hears of the loss long after the owner does."""
    address, told = hub
    tls = encryption(keys, "a").connect
    async with ward(address, "a", examples, connect_ssl=tls) as first:
        await first.wait("joined")
        async with ward(address, "a", examples, connect_ssl=tls) as second:
            await second.wait("joined")
        await told.wait("a has left")
        assert told.lines.count("a has joined") == 2


async def test_without_certificates_a_name_is_taken_once(examples):
    told = Happenings()
    async with joining_owners(["a"], wait=0.0, tell=told):
        address = await told.address()
        async with ward(address, "a", examples) as first:
            await first.wait("joined")
            async with ActorSystem() as system:
                other = await system.spawn(DataOwner, examples)
                with pytest.raises(NameTaken, match="'a' is here already"):
                    await (await system.connect(f"{address}/aggregator", Aggregator)).join("a", other)


async def test_a_reference_to_somewhere_else_is_refused(examples):
    """Otherwise an owner could have the aggregator connect to any address, or call its own actors."""
    told = Happenings()
    async with joining_owners(["a"], wait=0.0, tell=told), ActorSystem("ws://127.0.0.1:0") as listening, ActorSystem() as system:
        registry = await system.connect(f"{await told.address()}/aggregator", Aggregator)
        elsewhere = await system.connect(str(await listening.spawn(DataOwner, examples)), DataOwner)
        for target in (elsewhere, registry):
            with pytest.raises(MessageRejected):
                await registry.join("a", target)


async def test_an_actor_that_is_no_owner_costs_its_round_only(build, examples):
    class Other(Actor):
        pass

    told = Happenings()
    async with opened(build, ["a", "b"], told) as (federation, entering), ActorSystem() as system:
        address = await told.address()
        await (await system.connect(f"{address}/aggregator", Aggregator)).join("b", await system.spawn(Other))
        async with ward(address, "a", examples):
            await entering
            outcome = await one_round(federation)
    assert outcome.reported == ("a",)
    assert "b" in outcome.dropped | outcome.rejected


# Settings.


@pytest.mark.parametrize(
    "settings",
    [
        {"names": []},
        {"names": ["a", "a"]},
        {"names": ["a"], "dialed": {"a": "ws://127.0.0.1:1/owner"}},
        {"names": ["a"], "wait": -1.0},
        {"names": ["a"], "patience": float("nan")},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SettingError):
        joining_owners(**settings)


async def test_plaintext_beyond_this_machine_is_refused():
    with pytest.raises(InsecureAddress):
        async with joining_owners(["a"], "ws://0.0.0.0:0", wait=0.0):
            pass


def test_pauses_grow_to_ten_seconds():
    waits = list(itertools.islice(pauses(), 12))
    bounds = [min(0.1 * 2**i, 10.0) for i in range(12)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))

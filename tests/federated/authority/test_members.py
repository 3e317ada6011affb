"""Members by their certificates: what a worker and a hub let somebody do whom no file names, and what the role in a certificate denies."""

import asyncio
import contextlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from actors import ActorSystem, Caller, NotAllowed
from authorities import HOST, Members
from federated import CentralGaussian, DataOwner, FedAvg, FedBuff, JoinRefused, SettingError, joining_owners, stay_joined
from federated.authority.issuing import MemberRights
from federated.machines.aggregator import Aggregator
from federated.machines.cluster_file import ClusterFile
from federated.machines.node import membership
from federated.runs.compatibility import check_owners, settle
from protocols.authority.membership import AGGREGATOR, CLIENT, OWNER, WORKERS

CLUSTER = """
[nodes.julia]
role = "server"
address = "wss://127.0.0.1:4000"

[nodes.greg]
role = "server"
address = "wss://127.0.0.1:4001"

[nodes.me]
role = "crypto_provider"
address = "wss://127.0.0.1:4002"

[nodes.hospital]
role = "client"

[nodes.hub]
role = "aggregator"
address = "wss://127.0.0.1:9000"
federation = "hospitals:federation"
rounds = 1
"""


@pytest.fixture
def members(tmp_path):
    return Members(tmp_path)


def caller(members, name, role, *may):
    signed = members.authority.add(MemberRights(name, role, may)).certificate
    return Caller(certificate=signed.public_bytes(Encoding.DER))


@pytest.fixture
def julia(tmp_path):
    """What julia knows of its cluster."""
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    return membership(ClusterFile.read(tmp_path / "cluster.toml"), "julia")


# At workers.


@pytest.mark.parametrize(
    ("name", "role", "may", "held"),
    [
        ("ward-9", "owner", (), {OWNER, CLIENT}),
        ("lab", "client", ("share", "ask"), {OWNER, CLIENT}),
        ("lab", "client", ("ask",), {CLIENT}),
        ("lab", "client", ("share",), {OWNER, CLIENT}),  # whoever can connect may ask
        ("other", "server", (), {CLIENT}),
        ("other", "crypto_provider", (), {CLIENT}),
        ("other", "aggregator", (), {CLIENT}),
        ("hub", "aggregator", (), {AGGREGATOR, CLIENT}),
        ("hub", "owner", (), {CLIENT}),  # the file says otherwise
        ("hospital", "client", ("share", "ask"), {OWNER, CLIENT}),
        ("hospital", "client", ("ask",), {CLIENT}),
        ("hospital", "owner", (), {OWNER, CLIENT}),
        ("greg", "server", (), WORKERS),
        ("me", "crypto_provider", (), WORKERS),
        ("me", "owner", (), {CLIENT}),
        ("greg", "client", ("share", "ask"), {CLIENT}),
    ],
)
def test_what_a_role_gives_and_denies_at_a_worker(members, julia, name, role, may, held):
    sender = caller(members, name, role, *may)
    assert julia.roles(sender) == held
    assert julia.place_of(sender) == (-1 if held != WORKERS else {"greg": 1, "me": 2}[name])


def test_certificates_without_a_role_mean_what_they_always_meant(julia, tmp_path):
    from federated.machines.certificates import issue

    issue({"hospital": None, "stranger": None, "greg": "127.0.0.1"}, tmp_path / "keys")
    from cryptography import x509

    def holder(name):
        parsed = x509.load_pem_x509_certificate((tmp_path / "keys" / f"{name}.pem").read_bytes())
        return Caller(certificate=parsed.public_bytes(Encoding.DER))

    assert julia.roles(holder("hospital")) == {OWNER, CLIENT}
    assert julia.roles(holder("stranger")) == {CLIENT}
    assert julia.roles(holder("greg")) == WORKERS


# At the hub.


@contextlib.asynccontextmanager
async def ward(members, address, name, *, certificate=None):
    """An owner that stays joined; gives its credentials and what happens to it."""
    told = asyncio.Queue()
    credentials = members.credentials(certificate or name)
    async with ActorSystem(connect_ssl=credentials.connect) as system:
        owner = await system.spawn(DataOwner, (np.zeros((4, 2), "float32"), np.zeros(4)))
        joining = asyncio.create_task(stay_joined(system, address, name=name, owner=owner, tell=told.put_nowait))
        try:
            yield told, joining
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)


async def until(told, start):
    async with asyncio.timeout(60):
        while not (line := await told.get()).startswith(start):
            pass
    return line


def names(owners):
    return [owner.name for owner in owners]


@pytest.fixture
async def hub(members):
    """A hub on whose list is ward-1; gives it, its address, and what happens."""
    members.add("hub", "aggregator", HOST)
    members.add("ward-1")
    told = asyncio.Queue()
    credentials = members.credentials("hub")
    owners = joining_owners(["ward-1"], f"wss://{HOST}:0", ssl=credentials.listen, wait=0.0, patience=0.0, tell=told.put_nowait)
    async with owners:
        yield owners, (await until(told, "ready ")).removeprefix("ready "), told, credentials


async def test_one_more_hospital_takes_one_command_one_file_and_no_restart(members, hub):
    owners, address, told, _ = hub
    assert names(await owners.present()) == ["ward-1"]
    members.add("ward-9")
    async with ward(members, address, "ward-9") as (happened, _):
        assert await until(happened, "joined")
        assert names(await owners.present()) == ["ward-1", "ward-9"]
        assert await owners.find("ward-9")
    await until(told, "ward-9 has left")
    assert names(await owners.present()) == ["ward-1"]  # who is on the list is waited for, and named if it is away


@pytest.mark.parametrize(
    ("role", "may", "says"),
    [
        ("client", ("share", "ask"), r"the certificate of 'x' is for the role client \(ask, share\): only an owner joins"),
        ("server", (), "the certificate of 'x' is for the role server: only an owner joins"),
        ("aggregator", (), "the certificate of 'x' is for the role aggregator: only an owner joins"),
    ],
)
async def test_only_owners_join(members, hub, role, may, says):
    owners, address, told, _ = hub
    members.add("x", role, may=may)
    async with ward(members, address, "x") as (_, joining):
        with pytest.raises(JoinRefused, match=says):
            await asyncio.wait_for(joining, 60)
    assert "the certificate of 'x' is for the role" in await until(told, "refused: the holder of the certificate of 'x' from 127.0.0.1")
    assert names(await owners.present()) == ["ward-1"]


@pytest.mark.parametrize(("role", "served"), [("aggregator", True), ("server", False), ("owner", False)])
async def test_an_owner_trains_for_a_hub_only(members, caplog, role, served):
    """Who listens where the hub should be and has another role in its certificate is served nothing, and both sides read why."""
    members.add("ward-1")
    members.add("hub", role, HOST)
    told, tls = asyncio.Queue(), members.credentials("hub")
    owners = joining_owners(["ward-1"], f"wss://{HOST}:0", ssl=tls.listen, wait=0.0, patience=60.0, tell=told.put_nowait)
    async with owners:
        address = (await until(told, "ready ")).removeprefix("ready ")
        async with ward(members, address, "ward-1") as (happened, _):
            await until(happened, "joined")
            owner = await owners.find("ward-1")
            if served:
                with pytest.raises(Exception, match="in no such session"):
                    await owner.confirm(b"", [])
                return
            with pytest.raises(NotAllowed, match=f"serves an aggregator: your certificate, that of 'hub', is for the role {role}"):
                await owner.confirm(b"", [])
    assert f"wanted by the holder of the certificate of 'hub' at {address}" in caplog.text


async def test_a_name_is_that_of_the_certificate(members, hub):
    _, address, told, _ = hub
    members.add("ward-8")
    for name, says in (("ward-1", "is that of 'ward-8', not of 'ward-1'"), ("ward-9", "is that of 'ward-8', not of 'ward-9'")):
        async with ward(members, address, name, certificate="ward-8") as (_, joining):
            with pytest.raises(JoinRefused, match=says):
                await joining
        why = f"from 127.0.0.1, who wanted to join as '{name}': the certificate of this connection is that of 'ward-8'"
        assert why in await until(told, "refused: ")


async def test_who_is_revoked_has_left_and_does_not_come_back(members, hub):
    owners, address, told, credentials = hub
    members.add("ward-9")
    async with ward(members, address, "ward-9") as (happened, _), ward(members, address, "ward-1") as (other, _):
        await until(happened, "joined")
        await until(other, "joined")
        members.revoke("ward-9", "hub")
        credentials.refresh()
        assert "the certificate of 'ward-9' was revoked on" in await until(told, "ward-9 has left: ")
        assert "closed by the other side: 1008 the certificate of 'ward-9' was revoked" in await until(happened, "not joined")
        assert "refused the connection: 403 the certificate of 'ward-9' was revoked" in await until(happened, "not joined")
        assert names(await owners.present()) == ["ward-1"]
        async with ActorSystem(connect_ssl=members.credentials("ward-1").connect) as system:
            standing = await (await system.connect(f"{address}/aggregator", Aggregator)).standing()
        assert standing.here == {"ward-1": True}
        members.add("ward-9")  # it gets another certificate, and the node that runs takes it
        await until(told, "ward-9 has joined")
        assert names(await owners.present()) == ["ward-1", "ward-9"]


async def test_who_is_there_says_until_when(members, hub):
    _, address, _, _ = hub
    members.add("ward-9", days=20)
    async with ward(members, address, "ward-9") as (happened, _):
        await until(happened, "joined")
        async with ActorSystem(connect_ssl=members.credentials("ward-1").connect) as system:
            standing = await (await system.connect(f"{address}/aggregator", Aggregator)).standing()
    assert standing.here == {"ward-1": False, "ward-9": True}
    assert standing.until == {"ward-9": members.credentials("ward-9").own.until.timestamp()}


async def test_where_the_number_of_owners_counts_nobody_else_is_taken_in(members, hub):
    owners, address, _, _ = hub
    settle(owners, FedAvg(), CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=1.0, delta=1e-5))
    members.add("ward-9")
    async with ward(members, address, "ward-9") as (_, joining):
        with pytest.raises(JoinRefused, match="no owner 'ward-9' is on the list here, and this federation has CentralGaussian"):
            await joining
    async with ward(members, address, "ward-1") as (happened, _):
        assert await until(happened, "joined")
    settle(owners, FedBuff(buffer=1, concurrency=1), None)
    async with ward(members, address, "ward-9") as (_, joining):
        with pytest.raises(JoinRefused, match="FedBuff"):
            await joining


async def test_a_hub_that_names_nobody_waits_for_the_first(members, tmp_path):
    members.add("hub", "aggregator", HOST)
    members.add("ward-9")
    told, credentials = asyncio.Queue(), members.credentials("hub")
    owners = joining_owners((), f"wss://{HOST}:0", ssl=credentials.listen, wait=0.0, tell=told.put_nowait)
    check_owners(owners, FedAvg())
    with pytest.raises(SettingError, match="no owner is named"):
        settle(owners, FedBuff(buffer=1, concurrency=1), None)
    async with owners:
        address = (await until(told, "ready ")).removeprefix("ready ")
        waiting = asyncio.create_task(owners.present())
        await until(told, "no owner is here: waiting")
        async with ward(members, address, "ward-9"):
            assert names(await waiting) == ["ward-9"]
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    assert ClusterFile.read(tmp_path / "cluster.toml").owners == {}


async def test_without_certificates_the_list_decides(tmp_path):
    told = asyncio.Queue()
    async with joining_owners(["a"], wait=0.0, tell=told.put_nowait), ActorSystem() as system:
        address = (await until(told, "ready ")).removeprefix("ready ")
        owner = await system.spawn(DataOwner, (np.zeros((4, 2), "float32"), np.zeros(4)))
        with pytest.raises(JoinRefused, match="no owner 'b' is expected here"):
            await stay_joined(system, address, name="b", owner=owner)

"""`[admission]` of a cluster file: who is let in and connected to at all, over real TLS, and what both sides read."""

import asyncio
import contextlib
import shutil

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from actors import Actor, ActorSystem, Caller, ConnectFailed, message
from authorities import HOST, Members
from certified import Certified, free_ports, running
from federated.errors import ClusterFileError
from federated.machines import certificates
from federated.machines.cluster_file import ClusterFile
from federated.machines.node import encryption, membership
from protocols import connect, share
from protocols.authority.membership import CLIENT, OWNER, WORKERS
from protocols.errors import ClusterError, NotServed, WorkerLost
from protocols.nodes import worker_file
from protocols.workers.compute_server import ComputeServer

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

[nodes.hub]
role = "aggregator"
address = "wss://127.0.0.1:9000"
federation = "hospitals:federation"
rounds = 1

[nodes.hospital]
role = "client"
"""
STRICT = '[admission]\nroles = "required"\n'


class Desk(Actor):
    @message
    async def greet(self) -> str:
        return "hello"


@pytest.fixture
def members(tmp_path):
    made = Members(tmp_path)
    made.add("julia", "server", HOST)
    made.add("hub", "aggregator", HOST)
    made.add("hospital", "client", may=("share", "ask"))
    made.add("ward-9")
    return made


@pytest.fixture
def roleless(members):
    """Give a member a certificate of the same authority as it was made before there were roles."""

    def made(name, *hosts):
        from federated.authority import key_file
        from federated.authority.issuing import member_certificate

        folder = members.keys(name)
        if not folder.exists():
            shutil.copytree(members.keys("hospital"), folder)
            for end in ("pem", "key"):
                (folder / f"hospital.{end}").rename(folder / f"{name}.{end}")
        key = key_file.read(members.root / "authority" / "ca.key", None)
        own = key_file.read(folder / f"{name}.key", None).public_key()
        authority = members.authority.certificate
        signed = member_certificate(key, authority, own, name, said=None, hosts=hosts, now=members.now[0], days=30)
        (folder / f"{name}.pem").write_bytes(signed.public_bytes(Encoding.PEM))

    return made


def read(members, more=""):
    (members.root / "cluster.toml").write_text(CLUSTER + more)
    return ClusterFile.read(members.root / "cluster.toml")


def tls(members, name, more=""):
    return encryption(read(members, more), members.keys(name), name)


def listening(members, name, more=""):
    own = tls(members, name, more)
    return ActorSystem(f"wss://{HOST}:0", ssl=own.listen, connect_ssl=own.connect, timeout=20.0)


async def greeted(hub, own):
    async with ActorSystem(connect_ssl=own.connect, timeout=20.0) as system:
        return await (await system.connect(f"{hub.address}/desk", Desk)).greet()


async def test_without_it_certificates_of_before_go_on_and_members_come_by_their_certificates(members, roleless):
    roleless("hospital")
    async with listening(members, "julia") as julia:
        await julia.spawn(Desk, name="desk")
        for name in ("hospital", "ward-9"):
            assert await greeted(julia, tls(members, name)) == "hello"


async def test_a_role_that_is_needed(members, roleless, caplog):
    roleless("hospital")
    async with listening(members, "julia", STRICT) as julia:
        await julia.spawn(Desk, name="desk")
        why = "the certificate of 'hospital' says no role, and this cluster demands one"
        with pytest.raises(ConnectFailed, match=f"refused the connection: 403 {why}"):
            await greeted(julia, tls(members, "hospital"))
        assert [record.getMessage() for record in caplog.records] == [
            f"a connection from 127.0.0.1 was refused: {why}: its authority has to sign another"
        ]
        assert await greeted(julia, tls(members, "ward-9")) == "hello"
    roleless("julia", HOST)
    async with listening(members, "julia") as julia:  # and who dials refuses as well
        with pytest.raises(ConnectFailed, match="cannot be trusted: the certificate of 'julia' says no role"):
            await greeted(julia, tls(members, "ward-9", STRICT))


async def test_members_of_the_file_only(members):
    async with listening(members, "julia", '[admission]\nmembers = "listed"\n') as julia:
        await julia.spawn(Desk, name="desk")
        with pytest.raises(ConnectFailed, match="403 no node of this cluster is called 'ward-9', and it lets in no others"):
            await greeted(julia, tls(members, "ward-9"))
        assert await greeted(julia, tls(members, "hospital")) == "hello"


@pytest.mark.parametrize(("name", "role"), [("hub", "owner"), ("greg", "client"), ("hub", "server"), ("greg", "aggregator")])
async def test_a_name_of_the_file_with_another_role_is_refused_from_both_sides(members, name, role):
    if name == "hub":
        members.revoke("hub")
    members.add(name, role, HOST, may=("ask",) if role == "client" else ())
    why = rf"the certificate of '{name}' is for the role {role}.*, and in this cluster it is the "
    async with listening(members, "julia") as julia, listening(members, name) as other:
        with pytest.raises(ConnectFailed, match=f"403 {why}"):
            await greeted(julia, tls(members, name))
        with pytest.raises(ConnectFailed, match=f"cannot be trusted: {why}"):
            await greeted(other, tls(members, "hospital"))


async def test_a_list_of_revoked_certificates_that_is_needed(members):
    (members.keys("julia") / "ca.crl").unlink()
    async with listening(members, "julia", '[admission]\nrevocation = "required"\n') as julia:
        await julia.spawn(Desk, name="desk")
        with pytest.raises(ConnectFailed, match="403 there is no list of revoked certificates of 'confide authority'"):
            await greeted(julia, tls(members, "ward-9"))
        members.bring_list("julia")
        assert await greeted(julia, tls(members, "ward-9")) == "hello"


def test_a_strict_worker_gives_what_a_certificate_says_and_nothing_else(members, roleless):
    julia = membership(read(members, STRICT), "julia")

    def sender(name):
        found = x509.load_pem_x509_certificate((members.keys(name) / f"{name}.pem").read_bytes())
        return Caller(certificate=found.public_bytes(Encoding.DER))

    members.add("other", "server", HOST)
    members.add("greg", "server", HOST)
    assert julia.roles(sender("hospital")) == {OWNER, CLIENT}
    assert julia.roles(sender("ward-9")) == {OWNER, CLIENT}
    assert julia.roles(sender("other")) == frozenset()
    assert julia.roles(sender("greg")) == WORKERS
    for name in ("hospital", "greg", "stranger"):
        roleless(name)
        assert julia.roles(sender(name)) == frozenset()
    assert julia.roles(Caller()) == frozenset()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('[admission]\nroles = "needed"\n', r"\[admission\]: Invalid enum value 'needed'"),
        ('[admission]\nrole = "required"\n', r"\[admission\]: unknown field `role`: did you mean roles\?"),
        ("admission = 3\n", r"\[admission\]: Expected `object`, got `int`"),
    ],
)
def test_what_cannot_be_demanded(members, more, says):
    (members.root / "cluster.toml").write_text(more + CLUSTER)
    with pytest.raises(ClusterFileError, match=says):
        ClusterFile.read(members.root / "cluster.toml")
    with pytest.raises(ClusterError, match=says):
        worker_file.cluster(members.root / "cluster.toml", keys=members.keys("hospital"), name="hospital")


def test_where_nobody_shows_a_certificate_nothing_is_demanded_of_them(members):
    owner = '[nodes.ward]\nrole = "owner"\ndata = "hospitals:data"\n'
    (members.root / "cluster.toml").write_text(CLUSTER.replace("wss://", "ws://") + owner + STRICT)
    with pytest.raises(ClusterFileError, match="no node has a wss:// address"):
        ClusterFile.read(members.root / "cluster.toml")
    with pytest.raises(ClusterError, match="no node has a wss:// address"):
        worker_file.cluster(members.root / "cluster.toml")


async def test_who_uses_the_workers_demands_the_same(members, roleless):
    """The two readers of a cluster file agree."""
    roleless("julia", HOST)
    read(members, STRICT)
    cluster = worker_file.cluster(members.root / "cluster.toml", keys=members.keys("hospital"), name="hospital")
    async with listening(members, "julia") as julia, cluster.system(known_only=True) as system:
        with pytest.raises(ConnectFailed, match="cannot be trusted: the certificate of 'julia' says no role"):
            await system.connect(f"{julia.address}/desk", Desk)


def test_trial_certificates_say_no_role(tmp_path):
    """They go on in clusters that demand none, and in no others."""
    certificates.issue({"julia": HOST}, tmp_path / "keys")
    own = x509.load_pem_x509_certificate((tmp_path / "keys" / "julia.pem").read_bytes()).public_bytes(Encoding.DER)
    (tmp_path / "cluster.toml").write_text(CLUSTER + STRICT)
    cluster = ClusterFile.read(tmp_path / "cluster.toml")
    assert "says no role" in cluster.admission.refusal(own, cluster.roles)
    assert type(cluster.admission)().refusal(own, cluster.roles) == ""


@pytest.mark.long
async def test_a_strict_cluster_computes(members, tmp_path):
    """Three workers as processes, by certificates with roles and with nothing left out: who may shares and asks, others are refused."""
    import keras

    keys = tmp_path / "keys"
    certified = Certified(tmp_path, tuple(f"wss://{HOST}:{port}" for port in free_ports(3)))
    text = CLUSTER + STRICT + 'members = "listed"\nrevocation = "required"\n'
    for port, address in zip((4000, 4001, 4002), certified.addresses, strict=True):
        text = text.replace(f"wss://127.0.0.1:{port}", address)
    certified.file.write_text(text + '[nodes.analyst]\nrole = "client"\nmay = ["ask"]\n')
    members.add("greg", "server", HOST)
    members.add("me", "crypto_provider", HOST)
    members.add("analyst", "client", may=("ask",))
    for name in ("julia", "greg", "me", "hospital", "analyst"):
        shutil.copytree(members.keys(name), keys, dirs_exist_ok=True)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)])
    x = np.full((2, 4), 0.5)
    async with running(certified), certified.cluster("hospital") as cluster, await share(model, cluster, name="mnist") as shared:
        serving = asyncio.create_task(shared.serve(10))
        async with connect(certified.cluster("analyst"), "mnist", owner="hospital") as remote:
            for _ in range(1000):
                with contextlib.suppress(NotServed):
                    np.testing.assert_allclose(await remote.query(x), model.predict(x, verbose=0), atol=0.001)
                    break
                await asyncio.sleep(0.01)
            else:
                raise AssertionError("it was never served")
        async with certified.cluster("analyst") as asking:
            with pytest.raises(WorkerLost, match="may be sent by: an owner"):
                await share(model, asking, name="squatted")
        with pytest.raises(ConnectFailed, match="no node of this cluster is called 'ward-9'"):
            async with ActorSystem(connect_ssl=members.credentials("ward-9").connect) as system:
                await system.connect(f"{certified.addresses[0]}/server", ComputeServer)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

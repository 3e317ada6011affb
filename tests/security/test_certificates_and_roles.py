"""Workers over wss, as `confide run` starts them: whose word counts, who may send what, and whose model a client asks."""

import asyncio
import contextlib

import numpy as np
import pytest

from actors import ActorSystem, NotAllowed
from certified import PEOPLE, configured, running
from protocols import Cluster, Worker, connect, share
from protocols.authority.enrolment import Enrolment
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret
from protocols.errors import ClusterError, NotOwner, NotServed, WorkerLost
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.worker_process import PARTS

OWNER_WITH_HOST = 'role = "client"\naddress = "wss://127.0.0.1:1"\n'


def model():
    import keras

    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="mnist")


async def until_served(remote, x):
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotServed):
                return await remote.query(x)
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def serving(cluster: Cluster, name: str = "mnist"):
    """A model that is shared and served."""
    async with cluster, await share(model(), cluster, name=name) as shared:
        task = asyncio.create_task(shared.serve(100))
        try:
            yield shared
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    more = '[models]\nreserved = "hospital"\n'
    return configured(tmp_path_factory.mktemp("cluster"), PEOPLE | {"other": 'role = "client"\n'}, more=more)


async def test_a_client_knows_whose_model_it_asks_and_names_belong_to_their_owners(made):
    x = np.full((2, 4), 0.5)
    async with running(made), serving(made.cluster("hospital")):
        async with connect(made.cluster("analyst"), "mnist", owner="hospital") as remote:
            assert remote.owner == "hospital"
            np.testing.assert_allclose(await until_served(remote, x), model().predict(x, verbose=0), atol=0.001)
        with pytest.raises(NotOwner, match="shared by the holder of the certificate of 'hospital', not by 'other'"):
            async with connect(made.cluster("analyst"), "mnist", owner="other"):
                pass
        async with made.cluster("other") as others:
            with pytest.raises(WorkerLost, match="'reserved' is for the models of 'hospital' alone"):
                await share(model(), others, name="reserved")
        async with made.cluster("analyst") as asking:  # its line in the file says: may = ["ask"]
            with pytest.raises(WorkerLost, match=r"may be sent by: an owner; you are the holder of the certificate of 'analyst'"):
                await share(model(), asking, name="squatted")
        async with serving(made.cluster("hospital"), "reserved"), connect(made.cluster("other"), "reserved") as remote:
            await until_served(remote, x)


async def test_every_message_from_every_wrong_role_is_refused_and_leaves_one_line(made):
    """By certificate: a client, a node of the file that may share, and somebody whom the authority knows and the file does not."""
    allowed = {
        "analyst": {"a client"},
        "hospital": {"a client", "an owner"},
    }
    async with running(made) as processes:
        refused = 0
        for name, roles in allowed.items():
            async with ActorSystem(connect_ssl=made.tls(name)) as system:
                for part, kind in PARTS.items():
                    actor = await system.connect(f"{made.addresses[0]}/{part}", kind)
                    for method, one in sorted(actor_messages(kind).items()):
                        if one.by & roles:
                            continue
                        arguments = [None] * len(one.arguments.names)  # what was sent is not even looked at
                        with pytest.raises(NotAllowed, match=f"{kind.__qualname__}.{method} may be sent by: "):
                            await actor._call(relaxed(one), tuple(arguments))
                        refused += 1
        assert refused > 50
        processes[0].terminate()
        log = (await processes[0].stderr.read()).decode()
        await processes[0].wait()  # before anybody signals it again, which would take its return code away
        lines = [line for line in log.splitlines() if "refused: " in line]
        assert len(lines) == refused
        assert all("sent by the holder of the certificate of" in line and line.endswith("from 127.0.0.1") for line in lines)


def actor_messages(kind):
    from actors.messages.schema import messages_of

    return messages_of(kind)


def relaxed(one):
    """The same message, for a sender who does not check what it sends."""
    from typing import Any

    from actors.messages.schema import Form, Message

    copy = object.__new__(Message)
    copy.__dict__.update(one.__dict__)
    copy.arguments = Form(one.label, one.arguments.names, [Any] * len(one.arguments.names))
    return copy


async def test_no_message_says_whom_a_worker_talks_to(made):
    """There is no argument for an address left, and a reference that leads elsewhere is refused before anything is opened."""
    for kind in PARTS.values():
        for one in actor_messages(kind).values():
            assert not any("address" in name or "url" in name for name in one.arguments.names), one.label
    accepted = []
    server = await asyncio.start_server(lambda reader, writer: accepted.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    from protocols.lowering import lower

    program = lower(model(), input_range=(0.0, 1.0), calibration=None, margin=2.0, answers=None).program
    async with server, running(made), ActorSystem(connect_ssl=made.tls("hospital")) as system:
        provider = await system.connect(f"{made.addresses[2]}/provider", CryptoProvider)
        elsewhere = system.reference(f"wss://127.0.0.1:{port}", "presence")
        from actors.messages.schema import typed

        digest = digest_at(new_secret(), 2)
        with pytest.raises(Exception, match="leads to another system"):
            await provider.open("mnist", program, False, digest, typed(elsewhere, Presence))
        with pytest.raises(ClusterError, match="two servers and a crypto provider"):
            await provider.open("mnist", program, True, digest, await system.spawn(Presence))
        with pytest.raises(NotOwner, match="no owner has claimed"):  # a third party that makes an owner up
            await provider.open("mnist", program, False, digest, await system.spawn(Presence))
        server0 = await system.connect(f"{made.addresses[0]}/provider", CryptoProvider)
        with pytest.raises(ClusterError, match="is not the third party"):
            await server0.open("mnist", program, False, digest, await system.spawn(Presence))
        with pytest.raises(Exception, match="no actor named 'enrolment'"):
            await system.connect(f"{made.addresses[0]}/enrolment", Enrolment)
    assert accepted == []


async def test_workers_with_certificates_and_no_cluster_file_compute_with_nobody(made, tmp_path):
    import sys

    options = ["--certificate", f"{made.keys}/julia.pem", "--key", f"{made.keys}/julia.key", "--authority", f"{made.keys}/ca.pem"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "federated.command", "worker", "127.0.0.1:0", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).split()[1].decode()
        async with ActorSystem(connect_ssl=made.tls("hospital")) as system:
            provider = await system.connect(f"{url}/provider", CryptoProvider)
            assert provider
            with pytest.raises(NotAllowed, match="an owner"):
                await (await system.connect(f"{url}/server", ComputeServer)).claim("m", bytes(32))
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_a_node_that_shows_another_certificate_is_not_taken_for_a_worker(made):
    """A worker's place is its name: the certificate of another node with the same host does not do, neither here nor there."""
    first, second, third = made.addresses
    swapped = Cluster(
        Worker(first, name="greg"),
        Worker(second, name="julia"),
        crypto_provider=Worker(third, name="me"),
        auto_managed=False,
        ssl=made.tls("hospital"),
    )
    async with running(made):
        with pytest.raises(Exception, match=r"has shown the certificate of '(julia|greg)'; that of '(greg|julia)' is expected"):
            async with swapped:
                pass

"""Workers as processes: started by hand, over TLS, with something else on their port, interrupted."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import signal
import ssl
import sys

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certified import WORKERS, configured
from protocols import Cluster, Worker, connect, share
from protocols.errors import ClusterError, NameTaken, NotServed, WorkerUnreachable


@contextlib.asynccontextmanager
async def started(*arguments: str, port: str = "0"):
    """A `confide worker` as a person starts it; gives its address."""
    code = "from federated.command import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "worker", f"127.0.0.1:{port}", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        line = await process.stdout.readline()
        assert line.startswith(b"ready "), line
        yield line.decode().split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        assert await process.wait() in (0, 130)


async def answer(cluster: Cluster, model, images) -> np.ndarray:
    async with cluster, await share(model, cluster, name="small") as shared, connect(cluster, "small") as remote:
        serving = asyncio.create_task(shared.serve(1))
        while True:
            with contextlib.suppress(NotServed):
                result = await remote.query(images[:4])
                break
            await asyncio.sleep(0)
        await serving
    return result


async def test_running_workers_are_used_and_left_running_and_a_crashed_owner_frees_its_name_and_its_shares(model, images, expected):
    """On the same workers: to start them as a person does takes each of them seconds of a processor."""
    async with started() as first, started() as second, started() as third:
        for _ in range(2):
            cluster = Cluster(Worker(first), Worker(second), crypto_provider=Worker(third))
            np.testing.assert_allclose(await answer(cluster, model, images), expected[:4], atol=0.005)
            assert not cluster.children
        command = [sys.executable, "-c", CRASHING, first, second, third]
        devnull = asyncio.subprocess.DEVNULL
        owner = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=devnull)
        assert await owner.stdout.readline() == b"shared\n"
        owner.kill()
        await owner.wait()
        cluster = Cluster(Worker(first), Worker(second), crypto_provider=Worker(third))
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(NameTaken):
                    result = await answer(cluster, model, images)
                    break
        np.testing.assert_allclose(result, expected[:4], atol=0.005)


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A development authority, one certificate for 127.0.0.1, and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    for authority, name in (("ca", "node"), ("stranger-ca", "stranger")):
        certify(folder, authority, name)
    return folder


def certify(folder, authority: str, name: str) -> None:
    ca_key, node_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, authority)])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject, key):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))

    root = certificate(ca_name, ca_key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    leaf = certificate(subject, node_key).add_extension(alternative, critical=False)
    pem = serialization.Encoding.PEM
    (folder / f"{authority}.pem").write_bytes(root.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (folder / f"{name}.pem").write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    private = node_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(private)


def context(keys, name: str) -> ssl.SSLContext:
    """What a stranger connects with, whose certificate another authority has signed; it is let in by none of the workers."""
    made = ssl.create_default_context(cafile=keys / "ca.pem")
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    return made


@pytest.mark.long
async def test_tls_with_certificates_on_both_sides(keys, model, images, expected, tmp_path):
    made = configured(tmp_path, {"owner": 'role = "client"\n'})
    async with contextlib.AsyncExitStack() as stack:
        for name, address in zip(WORKERS, made.addresses, strict=True):
            own = ["--certificate", f"{made.keys}/{name}.pem", "--key", f"{made.keys}/{name}.key", "--authority", f"{made.keys}/ca.pem"]
            url = await stack.enter_async_context(started(*own, "--for", str(made.file), port=address.rpartition(":")[2]))
            assert url == address
        np.testing.assert_allclose(await answer(made.cluster("owner"), model, images), expected[:4], atol=0.005)
        workers = [Worker(url) for url in made.addresses]
        stranger = Cluster(*workers[:2], crypto_provider=workers[2], ssl=context(keys, "stranger"))
        with pytest.raises(WorkerUnreachable):
            async with stranger:
                pass
        plain = [Worker(url.replace("wss", "ws")) for url in made.addresses]
        with pytest.raises(ClusterError):
            async with Cluster(*plain[:2], crypto_provider=plain[2], auto_managed=False):
                pass


async def test_something_else_on_the_port():
    async def silent(reader, writer):
        writer.write(b"220 this is not a worker\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        taken = Worker(f"localhost:{port}")
        with pytest.raises(WorkerUnreachable, match=rf"127\.0\.0\.1:{port}"):
            async with Cluster(taken, Worker("localhost:0"), crypto_provider=Worker("localhost:0")):
                pass


CRASHING = """
import asyncio, sys, numpy as np, keras
from keras import layers
from protocols import Cluster, Worker, share
async def main():
    model = keras.Sequential([layers.Input((8,)), layers.Dense(3)])
    first, second, third = map(Worker, sys.argv[1:])
    async with Cluster(first, second, crypto_provider=third) as cluster, await share(model, cluster, name="small") as shared:
        print("shared", flush=True)
        await shared.serve(5)
asyncio.run(main())
"""


OWNER = """
import asyncio, sys
from protocols import Cluster, Worker
async def main():
    async with Cluster(*(Worker("localhost:0") for _ in range(2)), crypto_provider=Worker("localhost:0")) as cluster:
        print(*(child.pid for child in cluster.children.values()), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, *(pytest.param(how, marks=pytest.mark.long) for how in (signal.SIGINT, signal.SIGTERM))])
async def test_no_worker_outlives_its_owner(how):
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    workers = [int(pid) for pid in (await owner.stdout.readline()).split()]
    assert len(workers) == 3
    owner.send_signal(how)
    await owner.wait()
    async with asyncio.timeout(20):
        while any(alive(pid) for pid in workers):
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"

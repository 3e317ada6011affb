"""Refused certificates: both sides learn why, and a flood of them is a few lines."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import logging
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from actors import Actor, ActorSystem, ConnectFailed, message
from actors.guard.limited_log import BURST
from actors.guard.refusals import OwnCertificate, know_own_certificate

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Greeter(Actor):
    @message
    async def greet(self) -> str:
        return "hello"


def named(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


class Authority:
    def __init__(self, folder, name):
        self.folder, self.name = folder, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._signed(name, self.key.public_key(), NOW + DAY, authority=True)
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _signed(self, name, public, until, authority=False):
        return (
            x509.CertificateBuilder(named(self.name), named(name), public, x509.random_serial_number(), until - 3 * DAY, until)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, name, until=NOW + DAY):
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self.folder / f"{name}.pem"
        file.write_bytes(private + self._signed(name, key.public_key(), until).public_bytes(serialization.Encoding.PEM))
        return file


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"), "our authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("theirs"), "their authority")


def context(purpose, trusted, own=None):
    made = ssl.create_default_context(purpose, cafile=str(trusted.file))
    if own is not None:
        made.load_cert_chain(own)
    return made


@pytest.fixture
async def server(authority):
    listening = context(ssl.Purpose.CLIENT_AUTH, authority, authority.issue("server"))
    listening.verify_mode = ssl.CERT_REQUIRED
    listening.minimum_version = ssl.TLSVersion.TLSv1_3
    async with ActorSystem(listen="wss://127.0.0.1:0", ssl=listening) as system:
        await system.spawn(Greeter, name="greeter")
        yield system


async def greeting(server, client_context, scheme="wss"):
    async with ActorSystem(connect_ssl=client_context) as client:
        address = server.address.replace("wss", scheme)
        return await (await client.connect(f"{address}/greeter", Greeter)).greet()


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_right_certificate(server, authority, caplog):
    assert await greeting(server, context(ssl.Purpose.SERVER_AUTH, authority, authority.issue("client"))) == "hello"
    assert lines(caplog) == []


async def refused(server, client_context, told, logged, caplog, scheme="wss"):
    with pytest.raises(ConnectFailed, match=told):
        await greeting(server, client_context, scheme)
    [line] = lines(caplog)
    assert line == f"a connection from 127.0.0.1 was refused: {logged}"


async def test_no_certificate(server, authority, caplog):
    told = r"it refused our certificate \(it demands a certificate and was shown none\)"
    await refused(server, context(ssl.Purpose.SERVER_AUTH, authority), told, "it showed no certificate", caplog)


async def test_a_certificate_of_another_authority(server, authority, stranger, caplog):
    shown = context(ssl.Purpose.SERVER_AUTH, authority, stranger.issue("client"))
    told = r"it refused our certificate \(it was signed by an authority that is not trusted there\)"
    await refused(
        server, shown, told, "its certificate was refused: certificate verify failed: unable to get local issuer certificate", caplog
    )


async def test_a_certificate_of_another_authority_of_the_same_name(server, authority, tmp_path, caplog):
    shown = context(ssl.Purpose.SERVER_AUTH, authority, Authority(tmp_path, "our authority").issue("client"))
    told = r"it refused our certificate \(its signature is wrong; another authority may have the same name\)"
    await refused(server, shown, told, "its certificate was refused: certificate verify failed: certificate signature failure", caplog)


async def test_an_expired_certificate(server, authority, caplog):
    shown = context(ssl.Purpose.SERVER_AUTH, authority, authority.issue("late", until=NOW - DAY))
    told = r"it refused our certificate \(expired, or not valid yet\)"
    await refused(server, shown, told, "its certificate was refused: certificate verify failed: certificate has expired", caplog)


async def test_an_expired_certificate_whose_date_is_known(server, authority, caplog):
    file = authority.issue("late", until=NOW - DAY)
    shown = context(ssl.Purpose.SERVER_AUTH, authority, file)
    know_own_certificate(shown, OwnCertificate.of(x509.load_pem_x509_certificate(file.read_bytes())))
    told = rf"it refused our certificate, that of 'late' \(expired on {NOW - DAY:%Y-%m-%d}\)"
    await refused(server, shown, told, "its certificate was refused: certificate verify failed: certificate has expired", caplog)


async def test_an_older_version_of_tls(server, authority, caplog):
    shown = context(ssl.Purpose.SERVER_AUTH, authority, authority.issue("client"))
    shown.maximum_version = ssl.TLSVersion.TLSv1_2
    await refused(server, shown, "speaks newer versions of TLS only", "it offered older versions of TLS only", caplog)


async def test_no_tls_at_all(server, caplog):
    await refused(server, None, "wants wss://", "it did not use TLS; this system listens on wss://", caplog, scheme="ws")


async def test_a_server_of_another_authority(server, stranger):
    with pytest.raises(
        ConnectFailed, match="its certificate was refused: certificate verify failed: self-signed certificate in certificate chain"
    ):
        await greeting(server, context(ssl.Purpose.SERVER_AUTH, stranger))


async def test_tls_to_a_server_that_has_none(authority):
    async with ActorSystem(listen="ws://127.0.0.1:0") as server, ActorSystem() as client:
        with pytest.raises(ConnectFailed, match=r"it does not speak TLS there|whether it listens on wss://"):
            await client.connect(f"{server.address.replace('ws', 'wss')}/greeter", Greeter)


async def test_a_flood_of_refusals_is_a_few_lines(server, authority, caplog):
    nobody = context(ssl.Purpose.SERVER_AUTH, authority)
    for _ in range(5 * BURST):
        with pytest.raises(ConnectFailed):
            await greeting(server, nobody)
    assert len(lines(caplog)) == BURST
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
        writer.write(b"\x16\x03\x01\x00\x05hello")
        writer.close()
        await writer.wait_closed()
    assert len(lines(caplog)) == BURST

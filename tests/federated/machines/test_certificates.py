"""Certificates that confide makes: who may read them, what is in them, and that TLS takes them, strictly, and no others."""

import asyncio
import ipaddress
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from actors import Actor, ActorSystem, ConnectFailed, MessageRejected, message
from federated.errors import KeysError
from federated.machines.certificates import encryption, issue, shown_name

HOSTS = {"hub": "127.0.0.1", "ward-1": None, "other": "other.example"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates") / "keys"
    issue(HOSTS, folder)
    return folder


def certificate(keys, name):
    return x509.load_pem_x509_certificate((keys / f"{name}.pem").read_bytes())


def test_files_and_who_may_read_them(keys):
    names = {"ca.pem", *(f"{name}{end}" for name in HOSTS for end in (".pem", ".key"))}
    assert {path.name for path in keys.iterdir()} == names
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.key")} == {0o600}


def test_what_is_in_them(keys):
    authority, hub, ward = (certificate(keys, name) for name in ("ca", "hub", "ward-1"))
    for one in (hub, ward):
        one.verify_directly_issued_by(authority)
        assert isinstance(one.public_key(), Ed25519PublicKey)
        assert (one.not_valid_after_utc - one.not_valid_before_utc).days == 366
    names = hub.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.ip_address("127.0.0.1") in names.get_values_for_type(x509.IPAddress)
    with pytest.raises(x509.ExtensionNotFound):  # nobody can pass for a server that the owner is not
        ward.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    other = certificate(keys, "other").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert other.get_values_for_type(x509.DNSName) == ["other.example"]


def test_nothing_is_overwritten_unless_asked(keys, tmp_path):
    issue(HOSTS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeysError, match=r"ca\.pem.*there already.*--force"):
        issue(HOSTS, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    issue(HOSTS, tmp_path, force=True)
    assert all(path.read_bytes() != before[path.name] for path in tmp_path.iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*.key")} == {0o600}


def test_what_is_refused(keys, tmp_path):
    with pytest.raises(KeysError, match="0 days"):
        issue(HOSTS, tmp_path, days=0)
    (tmp_path / "file").touch()
    with pytest.raises(KeysError, match="cannot be written"):
        issue(HOSTS, tmp_path / "file" / "keys")
    with pytest.raises(KeysError, match="no host name"):
        issue({"a": "bücher.example"}, tmp_path / "keys")
    with pytest.raises(KeysError, match=r"ward-7\.pem is missing: ward-7 needs ward-7\.pem, ward-7\.key, ca\.pem"):
        encryption(keys, "ward-7")


def test_keys_that_do_not_fit_their_certificate(keys, tmp_path):
    issue(HOSTS, tmp_path)
    (tmp_path / "hub.key").write_bytes((tmp_path / "ward-1.key").read_bytes())
    with pytest.raises(KeysError, match=r"certificates of hub .* cannot be used"):
        encryption(tmp_path, "hub")
    (tmp_path / "hub.key").write_bytes(b"nonsense")
    with pytest.raises(KeysError, match="cannot be used") as refused:
        encryption(tmp_path, "hub")
    assert "nonsense" not in str(refused.value)


class Desk(Actor):
    """Says what the system has shown that a reference leads to."""

    @message
    async def shown(self, caller: Actor) -> str:
        certificate = self.system.certificate(caller)
        return "nothing" if certificate is None else shown_name(certificate)


class Caller(Actor):
    pass


def strict(made: ssl.SSLContext) -> ssl.SSLContext:
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


async def seen(home, **options) -> str:
    async with ActorSystem(**options) as here:
        caller = await here.spawn(Caller)
        return await (await here.connect(f"{home.address}/desk", Desk)).shown(caller)


async def test_tls_takes_them_and_says_who_is_there(keys):
    hub, ward = encryption(keys, "hub"), encryption(keys, "ward-1")
    async with ActorSystem("wss://127.0.0.1:0", ssl=strict(hub.listen)) as home:
        await home.spawn(Desk, name="desk")
        assert await seen(home, connect_ssl=strict(ward.connect)) == "ward-1"
        with pytest.raises(MessageRejected, match="not reached over the connection that it came by"):
            await seen(home, connect_ssl=ward.connect, listen="ws://127.0.0.1:0")


async def test_without_tls_nothing_is_shown():
    async with ActorSystem("ws://127.0.0.1:0") as home:
        await home.spawn(Desk, name="desk")
        assert await seen(home) == "nothing"


async def test_other_authorities_and_hosts_are_refused(keys, tmp_path):
    issue(HOSTS, tmp_path)
    hub, other, stranger = encryption(keys, "hub"), encryption(keys, "other"), encryption(tmp_path, "ward-1")
    half = ssl.create_default_context(cafile=keys / "ca.pem")  # trusts the authority, shows nothing
    half.minimum_version = ssl.TLSVersion.TLSv1_3
    knows = ssl.create_default_context(cafile=keys / "ca.pem")  # trusts the authority, shows the certificate of a stranger
    knows.load_cert_chain(tmp_path / "ward-1.pem", tmp_path / "ward-1.key")
    async with ActorSystem("wss://127.0.0.1:0", ssl=hub.listen) as home:
        await home.spawn(Desk, name="desk")
        for context in (stranger.connect, half, knows):
            with pytest.raises(ConnectFailed):
                await asyncio.wait_for(seen(home, connect_ssl=context), 20)
    async with ActorSystem("wss://127.0.0.1:0", ssl=other.listen) as home:
        with pytest.raises(ConnectFailed, match="certificate"):
            await seen(home, connect_ssl=hub.connect)

"""What lies on disks: cluster files, vaults, counts, keys, certificates and lists of those that were revoked."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from actors.credentials.revocation import Revoked
from actors.errors import BadCredentials
from federated.authority import member_file, request
from federated.authority.issuing import member_certificate, own_certificate
from federated.errors import ClusterFileError, KeysError
from federated.machines.cluster_file import ClusterFile
from protocols.errors import ClusterError, InputError, VaultError
from protocols.nodes.worker_file import cluster as worker_cluster
from protocols.owner.placing.right import ModelRight
from protocols.storage.counts import Counted, UseCounts
from protocols.storage.vault import Label, Vault

LABEL = Label("model", "ward", 1, bytes(16))
KEY = bytes(range(32))


def folder() -> Path:
    """Make a folder that is gone when this process ends."""
    made = Path(tempfile.mkdtemp(prefix="fuzz-files-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@contextlib.contextmanager
def cluster() -> Iterator[Callable[[bytes], None]]:
    """A cluster file, as nodes and as clients read it."""
    path = folder() / "cluster.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = ClusterFile.read(path)
            _ = found.hosts, found.roles, found.encrypted, found.equals, found.owners
            _ = found.workers
        except ClusterFileError:
            pass
        with contextlib.suppress(ClusterError, KeysError, BadCredentials):
            worker_cluster(path, keys=path.parent, name="analyst")

    yield run


def cluster_seeds() -> list[bytes]:
    """One with all that it may say, and one of equals."""
    return [
        b"""message_limit = 4_294_967_296
[nodes.hub]
role = "aggregator"
address = "wss://hub.example:9000"
federation = "hospitals:federation"
rounds = 50
[nodes.ward-1]
role = "owner"
data = "hospitals:data"
[nodes.julia]
role = "server"
address = "wss://julia.example:4000"
listen = "wss://0.0.0.0:4000"
data = "shares"
[nodes.greg]
role = "server"
address = "wss://greg.example:4000"
[nodes.me]
role = "crypto_provider"
address = "wss://[::1]:4000"
[nodes.analyst]
role = "client"
may = ["ask"]
[models]
mnist = "ward-1"
[admission]
roles = "required"
""",
        b"".join(
            b'[nodes.%s]\nrole = "server"\naddress = "ws://127.0.0.1:%d"\n' % (name, 4000 + place)
            for place, name in enumerate((b"a", b"b", b"c"))
        ),
    ]


@contextlib.contextmanager
def vault() -> Iterator[Callable[[bytes], None]]:
    """A file of shares, and the file of a right: whatever is in them, nothing but what was written is read."""
    place = folder()
    opened = _vault(place / "vault")
    path = opened._path(LABEL)
    whole = opened.read(LABEL)
    right = place / "ward.model.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        opened.labels("model")
        try:
            opened.about(LABEL)
            about, arrays = opened.read(LABEL)
        except VaultError:
            pass
        else:  # the seed was written by another process under the same key
            if about != whole[0] or any(not np.array_equal(arrays[name], array) for name, array in whole[1].items()):
                raise AssertionError("something was read that this party has not written")
        right.write_bytes(data)
        with contextlib.suppress(InputError):
            ModelRight.read(right)

    yield run


def _vault(place: Path) -> Vault:
    place.mkdir()
    key = place / "key"
    key.write_text(KEY.hex())
    opened = Vault.open(place)
    atexit.register(opened.close)
    opened.write(LABEL, b"about", {"share": np.arange(4, dtype=np.uint64), "more": np.zeros((2, 2), np.uint64)})
    return opened


def vault_seeds() -> list[bytes]:
    """A file of shares under a key that is the same in each process, and one of a right."""
    place = folder()
    written = _vault(place / "vault")
    right = ModelRight.new(place, "ward", bytes(32))
    right.write()
    return [written._path(LABEL).read_bytes(), (place / "ward.model.json").read_bytes()]


@contextlib.contextmanager
def counts() -> Iterator[Callable[[bytes], None]]:
    """What was counted of a model: nothing but what was written is read."""
    place = folder() / "ward.counts"

    def run(data: bytes) -> None:
        for end in ("-wal", "-shm"):
            place.with_name(place.name + end).unlink(missing_ok=True)
        place.write_bytes(data)
        try:
            opened, found = UseCounts.open(place, KEY)
        except VaultError:
            return
        opened.close()
        if found not in COUNTED:
            raise AssertionError("counts were read that this party has not written")

    yield run


COUNTED = (Counted(), Counted(3, 7, b"terms", {"analyst": 5, "other": 2}))


def counts_seeds() -> list[bytes]:
    """Files with both of `COUNTED`."""
    found = []
    for place, one in enumerate(COUNTED):
        path = folder() / f"{place}.counts"
        made = UseCounts.make(path, KEY)
        made.write(one)
        made.close()
        found.append(path.read_bytes())
    return found


@contextlib.contextmanager
def certificates() -> Iterator[Callable[[bytes], None]]:
    """Lists of revoked certificates, members' files and requests: all that is read in PEM of what others have made."""
    path = folder() / "some.pem"
    _, authority = _authority()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        with contextlib.suppress(BadCredentials):
            found = Revoked().updated(path, [authority])
            found.concerns(datetime.now(UTC), days=30)
        with contextlib.suppress(KeysError):
            _ = member_file.read(path).name
        with contextlib.suppress(KeysError):
            asked = request.read(path)
            request.wishes(asked)
            request.asked_name(asked)

    yield run


def _authority() -> tuple[Ed25519PrivateKey, x509.Certificate]:
    key = Ed25519PrivateKey.from_private_bytes(KEY)  # of nobody: for files that are to be damaged
    return key, own_certificate(key, "fuzzed authority", now=datetime(2026, 1, 1, tzinfo=UTC), days=3650)


def certificate_seeds() -> list[bytes]:
    """A list with an entry, a member's file, a request, and the same without the envelope of PEM broken off."""
    key, authority = _authority()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    entry = (
        x509.RevokedCertificateBuilder()
        .serial_number(7)
        .revocation_date(now)
        .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), False)
    )
    listed = x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(now).next_update(now + timedelta(3650))
    listed = listed.add_revoked_certificate(entry.build()).add_extension(x509.CRLNumber(3), False)
    listed = listed.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    own = Ed25519PrivateKey.from_private_bytes(bytes(32))
    member = member_certificate(key, authority, own.public_key(), "analyst", said=None, hosts=("a.example",), now=now, days=3650)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "analyst")])
    asked = x509.CertificateSigningRequestBuilder().subject_name(name)
    asked = asked.add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), False)
    crl = listed.sign(key, None).public_bytes(Encoding.PEM)
    both = member.public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM)
    return [crl, both, both + crl, asked.sign(own, None).public_bytes(Encoding.PEM)]

"""The certificates of a cluster: one authority, and one certificate and key for each node, which say who is who in TLS.

In a folder of keys `ca.pem` is the authority, `NAME.pem` and `NAME.key` belong to the node of that name. A node needs `ca.pem` and its own
two files. All keys are Ed25519, so that the key of an owner can sign for it elsewhere, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from actors.identity.caller import common_name
from federated.authority.issuing import member_certificate, own_certificate
from federated.authority.key_file import pem
from federated.authority.settings import DAYS
from federated.errors import KeysError
from protocols.authority.admission import AdmissionSettings
from protocols.errors import ClusterError
from protocols.nodes import certificate
from protocols.nodes.certificate import DEFAULT
from protocols.storage.replacement import replace
from protocols.workers.worker_process import Encryption


def issue(hosts: Mapping[str, str | None], folder: Path, *, days: int = DAYS, force: bool = False) -> list[Path]:
    """Make an authority, and for each node a key and a certificate for the ends of TLS that dial and that are dialed.

    The key of the authority is forgotten: nobody can add a certificate later, so nobody has to guard that key. To add a node all
    certificates are made anew; `federated.authority` is for clusters that change.

    Args:
        hosts: name of a node -> the host name or IP address that others reach it at; None: nobody dials it.
        folder: is made if it is missing; keys in it can be read by their owner only.
        days: until the certificates expire, at least 1.
        force: overwrite what is there.

    Returns:
        The files, the authority first.

    Raises:
        KeysError: a file is there already, or cannot be written.
    """
    if days < 1:
        raise KeysError(f"certificates valid for {days} days: at least 1 is needed")
    paths = [folder / "ca.pem", *(folder / f"{name}{end}" for name in hosts for end in (".pem", ".key"))]
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise KeysError(f"{', '.join(there)}: there already; give another folder, or --force to replace all certificates of the cluster")
    now, key = datetime.now(UTC), Ed25519PrivateKey.generate()
    authority = own_certificate(key, "confide development authority", now=now, days=days)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace(folder / "ca.pem", authority.public_bytes(Encoding.PEM), mode=0o644)
        for name, host in hosts.items():
            own, reached = Ed25519PrivateKey.generate(), () if host is None else (host,)
            signed = member_certificate(key, authority, own.public_key(), name, said=None, hosts=reached, now=now, days=days)
            replace(folder / f"{name}.key", pem(own, None), mode=0o600)
            replace(folder / f"{name}.pem", signed.public_bytes(Encoding.PEM), mode=0o644)
    except OSError as error:
        raise KeysError(f"certificates cannot be written to {folder}: {error}") from None
    return paths


def encryption(folder: Path, name: str, *, listed: Mapping[str, str] | None = None, admission: AdmissionSettings = DEFAULT) -> Encryption:
    """TLS as a node of a cluster, to listen and to connect: both sides show certificates of one authority.

    Args:
        folder: of the files.
        name: of the node.
        listed: name of each node of the cluster file -> its role; None: there is no such file.
        admission: what that file demands of certificates.

    Raises:
        KeysError: a file is missing, or is not what it should be.
    """
    try:
        return certificate.encryption(folder, name, listed=listed, admission=admission)
    except ClusterError as error:
        raise KeysError(str(error)) from None


def identity(folder: Path, name: str) -> Ed25519PrivateKey | None:
    """Return the key of a node, with which an owner signs in secure aggregation; None if it is not Ed25519, as others may bring.

    Raises:
        KeysError: it cannot be read.
    """
    try:
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeysError(f"{folder / f'{name}.key'} cannot be used: {type(error).__name__}") from None
    return key if isinstance(key, Ed25519PrivateKey) else None


def shown_name(certificate: bytes) -> str:
    """Return the common name in a certificate (DER): of those of `issue`, the name of the node; empty if there is not exactly one."""
    return common_name(certificate)


def expiry(certificate: bytes) -> float:
    """Return when a certificate (DER) expires, in seconds since 1970."""
    return x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()

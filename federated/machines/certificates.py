"""The certificates of a cluster: one authority, and one certificate and key for each node, which say who is who in TLS.

In a folder of keys `ca.pem` is the authority, `NAME.pem` and `NAME.key` belong to the node of that name. A node needs `ca.pem` and its own
two files. All keys are Ed25519, so that the key of an owner can sign for it elsewhere, too.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.identity.caller import common_name
from federated.errors import KeysError
from protocols.errors import ClusterError
from protocols.nodes import certificate
from protocols.workers.worker_process import Encryption

DAYS = 365
"""How long certificates are valid, unless told otherwise."""
EARLIER = timedelta(days=1)
"""Certificates are valid from a day before, for clocks that are behind."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def issue(hosts: Mapping[str, str | None], folder: Path, *, days: int = DAYS, force: bool = False) -> list[Path]:
    """Makes an authority, and for each node a key and a certificate for the ends of TLS that dial and that are dialed.

    The key of the authority is forgotten: nobody can add a certificate later, so nobody has to guard that key. To add a node all
    certificates are made anew.

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
    authority = _Authority(days)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / "ca.pem", authority.certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        for name, host in hosts.items():
            authority.issue(name, host, folder)
    except OSError as error:
        raise KeysError(f"certificates cannot be written to {folder}: {error}") from None
    return paths


class _Authority:
    """A key that signs certificates, for as long as this object lives."""

    def __init__(self, days: int) -> None:
        self._key, self._days = Ed25519PrivateKey.generate(), days
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "confide development authority")])
        builder = self._builder(self._name, self._key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.add_extension(_usage(signs_certificates=True), critical=True).sign(self._key, None)

    def issue(self, name: str, host: str | None, folder: Path) -> None:
        """Writes the key and the certificate of a node. Its common name is the name of the node; its host is the alternative name."""
        key = Ed25519PrivateKey.generate()
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(host)), critical=False)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        _write(folder / f"{name}.key", private, mode=0o600)
        _write(folder / f"{name}.pem", builder.sign(self._key, None).public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _builder(self, subject: x509.Name, key: Ed25519PublicKey) -> x509.CertificateBuilder:
        now, authority = datetime.now(UTC), self._key.public_key()
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - EARLIER).not_valid_after(now + timedelta(days=self._days))
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(host: str) -> list[x509.GeneralName]:
    """The names that a node is reached at; on loopback all of them, for programs put one for another."""
    return [_alternative(name) for name in (LOOPBACK if host in LOOPBACK else (host,))]


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise KeysError(f"{host!r} is no host name: in a certificate it has to be ASCII (punycode for others)") from None


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Replaces a file at once by one that never had wider permissions."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    new.replace(path)


def encryption(folder: Path, name: str) -> Encryption:
    """TLS as a node of a cluster, to listen and to connect: both sides show certificates of one authority.

    Raises:
        KeysError: a file is missing, or is not what it should be.
    """
    try:
        return certificate.encryption(folder, name)
    except ClusterError as error:
        raise KeysError(str(error)) from None


def identity(folder: Path, name: str) -> Ed25519PrivateKey | None:
    """The key of a node, for an owner to sign with in secure aggregation; None if it is not an Ed25519 key, as others may bring.

    Raises:
        KeysError: it cannot be read.
    """
    try:
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise KeysError(f"{folder / f'{name}.key'} cannot be used: {type(error).__name__}") from None
    return key if isinstance(key, Ed25519PrivateKey) else None


def shown_name(certificate: bytes) -> str:
    """The common name in a certificate (DER): of certificates of `issue`, the name of the node; empty if there is not exactly one."""
    return common_name(certificate)

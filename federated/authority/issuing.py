"""What an authority signs: its own certificate, those of members, and the list of those that it has revoked. No files, no register."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from actors.address import NAME
from federated.authority.key_file import SigningKey
from federated.errors import KeysError
from protocols.authority.certified import MAY, ROLES, Certified

PublicKey: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey

EARLIER = timedelta(days=1)
"""Certificates are valid from a day before, for clocks that are behind."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LEAST_RSA, LEAST_CURVE = 2048, 256
"""Bits of keys of members."""


@dataclass(frozen=True)
class MemberRights:
    """What the administrator of an authority says of a member. Nothing of it is taken from what the member asks for.

    Args:
        name: of the node.
        role: one of `ROLES`.
        may: of a client: what it may do, of `MAY`.
        hosts: names and IP addresses that others reach it at; none: nobody dials it.

    Raises:
        KeysError: there is no such role, or the name or a host cannot be in a certificate.
    """

    name: str
    role: str
    may: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name == "ca" or len(self.name) > 64:
            raise KeysError(
                f"{self.name[:100]!r} is no name for a member: it has up to 64 letters, digits, '.', '_' and '-', begins with one of the"
                " first two, and is not 'ca'"
            )
        if self.role not in ROLES:
            raise KeysError(f"there is no role {self.role!r}; there are {', '.join(ROLES)}")
        if not set(self.may) <= set(MAY) or (self.may and self.role != "client") or (self.role == "client" and not self.may):
            raise KeysError(
                f"{self.name!r}: a client may {' or '.join(MAY)}, or several of them, and has to be told which; other roles say all"
                " themselves"
            )
        alternatives(self.hosts)

    @property
    def said(self) -> Certified:
        """What the certificate says."""
        return Certified(self.role, frozenset(self.may))


def own_certificate(key: SigningKey, name: str, *, now: datetime, days: int) -> x509.Certificate:
    """Return a certificate that an authority signs for itself."""
    subject = _named(name)
    public = key.public_key()
    builder = _builder(subject, subject, public, now - EARLIER, now + timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False).sign(key, _hash(key))


def member_certificate(
    key: SigningKey,
    authority: x509.Certificate,
    public: object,
    name: str,
    *,
    said: Certified | None,
    hosts: Sequence[str],
    now: datetime,
    days: int,
) -> x509.Certificate:
    """Return the certificate of a member, for the end of TLS that dials and, if it has hosts, the one that is dialed.

    Args:
        key: of the authority.
        authority: its certificate; no other is valid for longer.
        public: the key of the member.
        name: of the member, the common name.
        said: its role; None: none is said.
        hosts: that it is reached at.
        now: the time.
        days: until it expires.

    Raises:
        KeysError: the authority or the key cannot be used for this.
    """
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    if until <= now:
        raise KeysError(f"the authority itself expired on {authority.not_valid_after_utc:%Y-%m-%d}: another one is needed")
    if until <= authority.not_valid_before_utc:
        raise KeysError(f"the authority is valid from {authority.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only: is the clock right?")
    builder = _builder(authority.subject, _named(name), checked(public), max(now - EARLIER, authority.not_valid_before_utc), until)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(ends), critical=False)
    names = [*alternatives(hosts), *(said.names if said is not None else ())]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.add_extension(_issuer_identifier(authority), critical=False).sign(key, _hash(key))


def revocation_list(
    key: SigningKey,
    authority: x509.Certificate,
    revoked: Iterable[tuple[int, datetime]],
    *,
    number: int,
    now: datetime,
    days: int | None = None,
) -> x509.CertificateRevocationList:
    """Return a signed list of serial numbers and when they were revoked. The list with the largest number is the latest.

    Args:
        key: of the authority.
        authority: its certificate.
        revoked: serial number and time of each.
        number: of this list.
        now: the time.
        days: for which it may be used: after that a node that has no newer one lets nobody in. None: as long as the authority is valid.
    """
    until = max(authority.not_valid_after_utc, now + EARLIER) if days is None else now + timedelta(days=days)
    builder = x509.CertificateRevocationListBuilder(authority.subject, now, until)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False).add_extension(_issuer_identifier(authority), critical=False)
    for serial, when in revoked:
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, when).build())
    return builder.sign(key, _hash(key))


def checked(public: object) -> PublicKey:
    """Return a member's key if it is strong enough.

    Raises:
        KeysError: it is not, or is of another kind.
    """
    if isinstance(public, Ed25519PublicKey) or (isinstance(public, EllipticCurvePublicKey) and public.curve.key_size >= LEAST_CURVE):
        return public
    if isinstance(public, RSAPublicKey) and public.key_size >= LEAST_RSA:
        return public
    raise KeysError(f"that key is not signed: Ed25519, curves of {LEAST_CURVE} bits and RSA of {LEAST_RSA} bits or more are")


def alternatives(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Return the names that a node is reached at; on loopback all of them, for programs put one for another.

    Raises:
        KeysError: one is no host name.
    """
    names = dict.fromkeys(name for host in hosts for name in (LOOPBACK if host in LOOPBACK else (host,)))
    return [_alternative(name) for name in names]


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise KeysError(f"{host!r} is no host name: in a certificate it has to be ASCII (punycode for others)") from None


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(issuer: x509.Name, subject: x509.Name, key: PublicKey, since: datetime, until: datetime) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(since).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _issuer_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        found = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(checked(authority.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _hash(key: SigningKey) -> SHA256 | None:
    return None if isinstance(key, Ed25519PrivateKey) else SHA256()


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

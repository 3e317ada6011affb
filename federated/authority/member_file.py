"""NAME.member.pem: the one file that an authority hands a member, and what the member makes of it in its folder of keys.

It holds the certificate of the member, that of the authority, the list of revoked certificates, and the key if the authority made that.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from actors.credentials.files import Paths
from actors.credentials.revocation import Revoked, number_of, read_lists, signer
from actors.errors import BadCredentials
from actors.identity.caller import common_name
from actors.identity.unreadable import UNREADABLE
from federated.authority.private_files import locked
from federated.errors import KeysError
from protocols.storage.replacement import replace

_BLOCKS = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\n?", re.DOTALL)


class OldList(KeysError):
    """A list of revoked certificates is older than the one before."""


@dataclass(frozen=True)
class MemberFile:
    """What is in such a file.

    Attributes:
        certificate: of the member.
        authority: that has signed it.
        revoked: the list of revoked certificates, PEM.
        key: of the member, PEM; None: the member has made it.
    """

    certificate: x509.Certificate
    authority: x509.Certificate
    revoked: bytes
    key: bytes | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Of the member."""
        return common_name(self.certificate.public_bytes(Encoding.DER))

    def write(self, folder: Path) -> Path:
        """Write it; it can be read by this user only, because of the key. Raises `OSError`."""
        path = folder / f"{self.name}.member.pem"
        both = self.certificate.public_bytes(Encoding.PEM) + self.authority.public_bytes(Encoding.PEM)
        replace(path, (self.key or b"") + both + self.revoked, mode=0o600)
        return path


def read(path: Path) -> MemberFile:
    """Return what is in a file.

    Raises:
        KeysError: it is not such a file, or the authority in it has not signed the certificate in it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    blocks = [(match[1], match[0]) for match in _BLOCKS.finditer(content)]
    certificates = [block for kind, block in blocks if kind == b"CERTIFICATE"]
    keys = [block for kind, block in blocks if kind.endswith(b"PRIVATE KEY")]
    lists = b"".join(block for kind, block in blocks if kind == b"X509 CRL")
    if len(certificates) != 2 or len(keys) > 1:
        raise KeysError(f"{path} has {len(certificates)} certificates: a file of confide certs add, sign or renew has two")
    try:
        member, authority = map(x509.load_pem_x509_certificate, certificates)
        member.verify_directly_issued_by(authority)
    except (InvalidSignature, *UNREADABLE):
        raise KeysError(f"{path} is damaged, or the authority in it has not signed the certificate in it") from None
    return MemberFile(member, authority, lists, keys[0] if keys else None)


def fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of a certificate, in groups that two people can compare."""
    digits = sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    return " ".join(digits[i : i + 8] for i in range(0, 64, 8))


def accept(path: Path, folder: Path) -> MemberFile:
    """Put what is in a file into a folder of keys; nodes that run take it from there, without a restart.

    At every moment the folder can be used: the certificate comes last, and its key before it under another name.

    Args:
        path: of the file.
        folder: of keys; is made if it is missing.

    Raises:
        KeysError: the file cannot be used, comes from another authority than the one that the folder trusts, or has no key here.
    """
    found = read(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder):
            files = Paths.of(folder, found.name)
            _check_authority(found, files.authority)
            key = _place_key(found, files)
            if not files.authority.exists():
                replace(files.authority, found.authority.public_bytes(Encoding.PEM), mode=0o644)
            _place_lists(found, files)
            replace(files.certificate, found.certificate.public_bytes(Encoding.PEM), mode=0o644)
            if key != files.key:
                key.replace(files.key)
    except OSError as error:
        raise KeysError(f"{folder} cannot be written: {error.strerror}") from None
    return found


def _check_authority(found: MemberFile, trusted: Path) -> None:
    if not trusted.exists():
        return
    try:
        known = x509.load_pem_x509_certificates(trusted.read_bytes())
    except (OSError, *UNREADABLE):
        raise KeysError(f"{trusted} cannot be read as certificates") from None
    if found.authority not in known:
        raise KeysError(
            f"this file comes from the authority {fingerprint(found.authority)}, and {trusted} trusts another one: if everybody is to move"
            f" to the new one, add its certificate to {trusted} at every node first"
        )


def _place_key(found: MemberFile, files: Paths) -> Path:
    """Where the key of the new certificate is; one that comes with it is put there."""
    following = files.certificate.with_name(f"{found.name}.next.key")
    for path in (files.key, following):
        if path.is_file() and _public(path.read_bytes(), path) == _of(found.certificate):
            return path
    if found.key is None:
        raise KeysError(
            f"the certificate of {found.name!r} is for another key than {files.key}: give the folder in which confide certs request made it"
        )
    if _public(found.key, Path("the key in this file")) != _of(found.certificate):
        raise KeysError("the key in this file is not that of the certificate in it")
    place = following if files.key.exists() else files.key
    replace(place, found.key, mode=0o600)
    return place


def _place_lists(found: MemberFile, files: Paths) -> None:
    """Put the list of revoked certificates there, unless the one that is there is newer."""
    if not found.revoked or files.revoked is None:
        return
    new = files.revoked.with_name(f".{files.revoked.name}.new")
    replace(new, found.revoked, mode=0o644)
    try:
        with contextlib.suppress(OldList):
            accept_list(new, files.revoked, [found.authority])
    finally:
        new.unlink()


def accept_list(new: Path, place: Path, authorities: Collection[x509.Certificate], *, now: datetime | None = None) -> None:
    """Put a list of revoked certificates into a folder of keys, beside those of other authorities.

    Args:
        new: the list.
        place: where it is to be.
        authorities: that are trusted.
        now: the time; None: a list that has expired is taken as well, and nobody is let in with it.

    Raises:
        OldList: the one that is there is newer.
        KeysError: it is no list of these authorities, or has expired.
    """
    try:
        lists = [one for one in read_lists(new) if signer(one, authorities) is not None]
        found = Revoked().updated(new, authorities)
        if now is not None and (late := found.concerns(now, days=0)):
            raise KeysError(f"{new}: {late[0]}")
    except BadCredentials as error:
        raise KeysError(str(error)) from None
    signers = [by for by in (signer(one, authorities) for one in lists) if by is not None]
    try:
        there = read_lists(place) if place.exists() else []
    except BadCredentials as error:
        if any(one not in signers for one in authorities):
            raise KeysError(f"{error}: remove it, and accept the lists of all authorities anew") from None
        there = []  # what it may have held is all in the new one
    for one in lists:
        newest = max((number_of(each) for each in there if signer(one, signers) == signer(each, signers)), default=0)
        if number_of(one) < newest:
            raise OldList(f"{new} has list {number_of(one)}, and {place} has list {newest} already: it is an old one")
    others = [one for one in there if signer(one, signers) is None]
    replace(place, b"".join(one.public_bytes(Encoding.PEM) for one in (*lists, *others)), mode=0o644)


def _of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public(key: bytes, path: Path) -> bytes:
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except UNREADABLE:
        raise KeysError(f"{path} cannot be used: it is no private key in PEM that is not encrypted") from None
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

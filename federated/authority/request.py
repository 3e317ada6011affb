"""What a member asks an authority to sign (PKCS #10, RFC 2986): its key never leaves its machine.

A request proves that whoever made it has the key. What else it asks for counts for nothing: the administrator says name, role and hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from actors.credentials.files import check_private
from actors.errors import BadCredentials
from actors.guard.words import NAME_LIMIT, shown
from actors.identity.unreadable import UNREADABLE
from federated.authority.issuing import MemberRights, alternatives
from federated.authority.key_file import SigningKey, pem
from federated.authority.private_files import locked
from federated.errors import KeysError
from protocols.storage.replacement import replace

LARGEST = 1 << 16
"""Bytes of a request."""


def make(folder: Path, name: str, *, hosts: Sequence[str] = (), new_key: bool = False) -> Path:
    """Make a request, and the key if there is none; the key stays in the folder.

    Args:
        folder: of keys; is made if it is missing.
        name: of the node.
        hosts: that it is reached at, for the administrator to read.
        new_key: make another key than the one that is there. It is used once its certificate has come.

    Returns:
        The file `NAME.csr` to bring to the authority.

    Raises:
        KeysError: the folder cannot be written, or the key in it cannot be used.
    """
    MemberRights(name, "owner", hosts=tuple(hosts))  # whether these can be in a certificate
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(folder):
            key = _key(folder / f"{name}.key", folder / f"{name}.next.key", new_key)
            builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            if hosts:
                builder = builder.add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
            signed = builder.sign(key, None if isinstance(key, Ed25519PrivateKey) else SHA256())
            path = folder / f"{name}.csr"
            replace(path, signed.public_bytes(Encoding.PEM), mode=0o644)
    except OSError as error:
        raise KeysError(f"{folder} cannot be written: {error.strerror}") from None
    return path


def _key(present: Path, following: Path, new: bool) -> SigningKey:
    """Return the key to ask for: the one that is there, or a new one beside it."""
    path = following if new and present.exists() else present
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        replace(path, pem(made, None), mode=0o600)
        return made
    try:
        check_private(path)
        found = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except BadCredentials as error:
        raise KeysError(str(error)) from None
    except UNREADABLE:
        raise KeysError(f"{path} is no private key in PEM that is not encrypted") from None
    return found  # type: ignore[return-value]  # what cannot sign is refused when it signs


def read(path: Path) -> x509.CertificateSigningRequest:
    """Return a request whose maker has its key.

    Raises:
        KeysError: it is none, or its signature is wrong.
    """
    try:
        with open(path, "rb") as file:
            request = x509.load_pem_x509_csr(file.read(LARGEST))
        if not request.is_signature_valid:
            raise KeysError(f"{path} is not signed with the key in it: whoever made it may not have that key")
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    except UNREADABLE:
        raise KeysError(f"{path} is no request in PEM; confide certs request makes one") from None
    return request


def wishes(request: x509.CertificateSigningRequest) -> list[str]:
    """Return what a request asks for besides its key, for the administrator to read; nothing of it is granted because of this."""
    names = [shown(str(one.value), NAME_LIMIT) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    found = [f"name {name!r}" for name in names]
    try:
        extensions = request.extensions
    except UNREADABLE:
        return [*found, "extensions that cannot be read"]
    for one in extensions:
        if isinstance(one.value, x509.SubjectAlternativeName):
            found += [f"{type(name).__name__} {shown(str(name.value), NAME_LIMIT)!r}" for name in one.value]
        else:
            found.append(f"extension {one.oid.dotted_string}")
    return found


def asked_name(request: x509.CertificateSigningRequest) -> str:
    """Return the one common name in a request; empty if there is not exactly one."""
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""

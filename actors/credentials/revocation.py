"""Lists of revoked certificates (RFC 5280, section 5), each signed by an authority. No older list replaces a newer one."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from actors.errors import BadCredentials
from actors.guard.words import NAME_LIMIT, shown
from actors.identity.caller import common_name

_LISTS = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class _List:
    """The list of one authority: its number, which grows, and serial number -> when the certificate was revoked."""

    number: int
    revoked: Mapping[int, datetime]


@dataclass(frozen=True)
class Revoked:
    """The certificates that do not count any more, by the authorities that said so."""

    _lists: Mapping[bytes, _List] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(one.revoked) for one in self._lists.values())

    def reason(self, certificate: bytes) -> str:
        """Return whose certificate (DER) was revoked when; empty if it was not."""
        parsed = x509.load_der_x509_certificate(certificate)
        found = self._lists.get(parsed.issuer.public_bytes())
        when = None if found is None else found.revoked.get(parsed.serial_number)
        if when is None:
            return ""
        name = shown(common_name(certificate), NAME_LIMIT)
        return f"the certificate of {name!r} was revoked on {when:%Y-%m-%d}; its serial number is {parsed.serial_number:x}"

    def updated(self, file: Path | None, authorities: Collection[x509.Certificate]) -> Revoked:
        """Return these lists, each replaced by that of the same authority in a file if that is as new.

        A file that is not there, or does not have the list of an authority, changes nothing: who was revoked stays so.

        Raises:
            BadCredentials: it is no list, nobody of `authorities` has signed it, or it is older than the one before.
        """
        if file is None or not (self._lists or file.exists()):
            return self
        lists = dict(self._lists)
        for one in read_lists(file):
            issuer, number = one.issuer.public_bytes(), number_of(one)
            if not any(_signed(one, authority) for authority in authorities):
                raise BadCredentials(f"{file} has a list that none of the trusted authorities has signed")
            if issuer in lists and number < lists[issuer].number:
                raise BadCredentials(
                    f"{file} has list {number} of an authority, and list {lists[issuer].number} was read before: it is an old one"
                )
            lists[issuer] = _List(number, {each.serial_number: each.revocation_date_utc for each in one})
        return Revoked(lists)


def read_lists(file: Path) -> list[x509.CertificateRevocationList]:
    """Return the lists in a PEM file.

    Raises:
        BadCredentials: there is none, or it cannot be read.
    """
    try:
        found = [x509.load_pem_x509_crl(block) for block in _LISTS.findall(file.read_bytes())]
    except OSError as error:
        raise BadCredentials(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        found = []
    if not found:
        raise BadCredentials(f"{file} is no list of revoked certificates in PEM")
    return found


def number_of(one: x509.CertificateRevocationList) -> int:
    """Return the number of a list, 0 if it has none."""
    try:
        return one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _signed(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if one.issuer != authority.subject:
        return False
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # keys that cannot sign raise TypeError
    except (InvalidSignature, TypeError, ValueError):
        return False

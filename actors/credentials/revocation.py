"""Lists of revoked certificates (RFC 5280, section 5), each signed by an authority. No older list replaces a newer one.

A list says until when it may be used (nextUpdate). After that nobody knows who was revoked, and nobody of that authority is let in.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from actors.errors import BadCredentials
from actors.guard.words import NAME_LIMIT, shown
from actors.identity.caller import common_name

log = logging.getLogger(__name__)

_LISTS = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class _List:
    """The list of one authority.

    Attributes:
        authority: its common name, fit to be shown.
        number: which grows.
        since, until: when it was signed, and until when it may be used; None: for ever.
        revoked: serial number -> when the certificate was revoked.
    """

    authority: str
    number: int
    since: datetime
    until: datetime | None
    revoked: Mapping[int, datetime]

    @staticmethod
    def of(found: x509.CertificateRevocationList) -> _List:
        revoked = {each.serial_number: each.revocation_date_utc for each in found}
        return _List(_name(found.issuer), number_of(found), found.last_update_utc, found.next_update_utc, revoked)


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

    def doubt(self, certificate: bytes, now: datetime, *, needed: bool) -> str:
        """Return why it is not known whether a certificate (DER) was revoked; empty if it is.

        Args:
            certificate: of somebody else.
            now: the time.
            needed: there has to be a list of the authority that has signed it.
        """
        issuer = x509.load_der_x509_certificate(certificate).issuer
        found = self._lists.get(issuer.public_bytes())
        if found is None:
            return f"there is no list of revoked certificates of {_name(issuer)!r}" if needed else ""
        return "" if found.until is None or now < found.until else _expired(found.authority, found.until)

    def concerns(self, now: datetime, *, days: int) -> list[str]:
        """Return what has to be done about the lists, in a line each: those that have expired, or will within so many days.

        Of lists for a short time only the last quarter of it counts.
        """
        found = []
        for one in self._lists.values():
            if one.until is None:
                continue
            if one.until <= now:
                found.append(
                    f"{_expired(one.authority, one.until)}: nobody whom it has signed is let in; bring a newer one (confide certs crl)"
                )
            elif one.until - now < min(timedelta(days=days), (one.until - one.since) / 4):
                text = f"the list of revoked certificates of {one.authority!r} expires on {one.until:%Y-%m-%d %H:%M} UTC"
                found.append(f"{text}: bring a newer one (confide certs crl), or nobody is let in then")
        return found

    @property
    def until(self) -> datetime | None:
        """When the first of the lists expires; None: none does."""
        return min((one.until for one in self._lists.values() if one.until is not None), default=None)

    def updated(self, file: Path | None, authorities: Collection[x509.Certificate]) -> Revoked:
        """Return these lists, each replaced by that of the same authority in a file if that is as new.

        A file that is not there, does not have the list of an authority, or has an older one, changes nothing: who was revoked stays so.

        Raises:
            BadCredentials: it is no list, or nobody of `authorities` has signed it.
        """
        if file is None or not os.path.lexists(file):
            if self._lists:
                log.error("%s is gone: the list of revoked certificates before stays in force", file)
            return self
        lists = dict(self._lists)
        for one in read_lists(file):
            issuer, number = one.issuer.public_bytes(), number_of(one)
            if not any(_signed(one, authority) for authority in authorities):
                raise BadCredentials(f"{file} has a list that none of the trusted authorities has signed")
            if issuer in lists and number < lists[issuer].number:
                text = "%s has list %d of an authority, and list %d was read before, which stays in force: it is an old one"
                log.error(text, file, number, lists[issuer].number)
                continue
            lists[issuer] = _List.of(one)
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


def _name(issuer: x509.Name) -> str:
    names = issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shown(str(names[0].value) if names else issuer.rfc4514_string(), NAME_LIMIT)


def _expired(authority: str, until: datetime) -> str:
    return f"the list of revoked certificates of {authority!r} expired on {until:%Y-%m-%d %H:%M} UTC"


def _signed(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if one.issuer != authority.subject:
        return False
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # keys that cannot sign raise TypeError
    except (InvalidSignature, TypeError, ValueError):
        return False

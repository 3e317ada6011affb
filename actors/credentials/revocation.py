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
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from actors.errors import BadCredentials
from actors.guard.words import NAME_LIMIT, shown
from actors.identity.caller import common_name
from actors.identity.unreadable import UNREADABLE

log = logging.getLogger(__name__)

_LISTS = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True)
class _List:
    """The list of one authority.

    Attributes:
        authority: that has signed it.
        number: which grows.
        since, until: when it was signed, and until when it may be used; None: for ever.
        revoked: serial number -> when the certificate was revoked.
    """

    authority: x509.Certificate
    number: int
    since: datetime
    until: datetime | None
    revoked: Mapping[int, datetime]

    @staticmethod
    def of(found: x509.CertificateRevocationList, authority: x509.Certificate) -> _List:
        revoked = {each.serial_number: each.revocation_date_utc for each in found}
        return _List(authority, number_of(found), found.last_update_utc, found.next_update_utc, revoked)

    @property
    def called(self) -> str:
        return f"the list of revoked certificates of {_name(self.authority.subject)!r}"

    @property
    def expired(self) -> str:
        return f"{self.called} expired on {self.until:%Y-%m-%d %H:%M} UTC"

    def about(self, certificate: x509.Certificate) -> bool:
        """Whether its authority has signed a certificate: two authorities may have one name."""
        if certificate.issuer != self.authority.subject:
            return False
        try:
            certificate.verify_directly_issued_by(self.authority)
        except (InvalidSignature, *UNREADABLE):
            return False
        return True


@dataclass(frozen=True)
class Revoked:
    """The certificates that do not count any more, by the authorities that said so."""

    _lists: Mapping[bytes, _List] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(one.revoked) for one in self._lists.values())

    def reason(self, certificate: bytes) -> str:
        """Return whose certificate (DER) was revoked when; empty if it was not."""
        parsed = x509.load_der_x509_certificate(certificate)
        found = self._list(parsed)
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
        parsed = x509.load_der_x509_certificate(certificate)
        found = self._list(parsed)
        if found is None:
            return f"there is no list of revoked certificates of {_name(parsed.issuer)!r}" if needed else ""
        return "" if found.until is None or now < found.until else found.expired

    def _list(self, certificate: x509.Certificate) -> _List | None:
        return next((one for one in self._lists.values() if one.about(certificate)), None)

    def concerns(self, now: datetime, *, days: int) -> list[str]:
        """Return what has to be done about the lists, in a line each: those that have expired, or will within so many days.

        Of lists for a short time only the last quarter of it counts.
        """
        found = []
        for one in self._lists.values():
            if one.until is None:
                continue
            if one.until <= now:
                found.append(f"{one.expired}: nobody whom that authority has signed is let in; bring a newer one (confide certs crl)")
            elif one.until - now < min(timedelta(days=days), (one.until - one.since) / 4):
                text = f"{one.called} expires on {one.until:%Y-%m-%d %H:%M} UTC: bring a newer one (confide certs crl)"
                found.append(f"{text}, or nobody is let in then")
        return found

    @property
    def until(self) -> datetime | None:
        """When the first of the lists expires; None: none does."""
        return min((one.until for one in self._lists.values() if one.until is not None), default=None)

    def updated(self, file: Path | None, authorities: Collection[x509.Certificate]) -> Revoked:
        """Return these lists, each replaced by that of the same authority in a file if that is as new.

        A file that is not there, does not have the list of an authority, or has an older one, changes nothing: who was revoked stays so.
        Beside lists of `authorities` there may be those of others, who were trusted before.

        Raises:
            BadCredentials: it is no list, one that is forged, or nobody of `authorities` has signed one in it.
        """
        if file is None or not os.path.lexists(file):
            if self._lists:
                log.error("%s is gone: the list of revoked certificates before stays in force", file)
            return self
        lists, read = dict(self._lists), read_lists(file)
        signed = [(one, signer(one, authorities)) for one in read]
        if all(by is None for _, by in signed) or any(by is None and _claims(one, authorities) for one, by in signed):
            raise BadCredentials(f"{file} has a list that none of the trusted authorities has signed")
        for one, by in signed:
            if by is None:
                continue
            key, number = _identity(by), number_of(one)
            if key in lists and (number, one.last_update_utc) < (
                lists[key].number,
                lists[key].since,
            ):  # 0: it has none
                text = "%s has list %d of an authority, of %s, and list %d of %s was read before, which stays in force: it is an old one"
                log.error(text, file, number, one.last_update_utc, lists[key].number, lists[key].since)
                continue
            lists[key] = _List.of(one, by)
        return Revoked(lists)


def read_lists(file: Path) -> list[x509.CertificateRevocationList]:
    """Return the lists in a PEM file.

    Raises:
        BadCredentials: there is none, it cannot be read, or is one of those that do not name all who were revoked.
    """
    try:
        found = [x509.load_pem_x509_crl(block) for block in _LISTS.findall(file.read_bytes())]
        whole = all(_whole(one) for one in found if _read(one))
    except OSError as error:
        raise BadCredentials(f"{file} cannot be read: {error.strerror}") from None
    except UNREADABLE:
        found, whole = [], True
    if not whole:
        raise BadCredentials(f"{file} has a list of only some of the revoked certificates: one of all is needed")
    if not found:
        raise BadCredentials(f"{file} is no list of revoked certificates in PEM")
    return found


def number_of(one: x509.CertificateRevocationList) -> int:
    """Return the number of a list, 0 if it has none."""
    try:
        return one.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def signer(one: x509.CertificateRevocationList, authorities: Collection[x509.Certificate]) -> x509.Certificate | None:
    """Return which of these authorities has signed a list; None: none of them."""
    return next((authority for authority in authorities if _signed(one, authority)), None)


def _claims(one: x509.CertificateRevocationList, authorities: Collection[x509.Certificate]) -> bool:
    """Whether a list says that one of these authorities has signed it: by its name and, if it says that, its key."""
    extensions = one.extensions
    said = {each.value.key_identifier for each in extensions if isinstance(each.value, x509.AuthorityKeyIdentifier)} - {None}
    return any(one.issuer == authority.subject and (not said or _key_identifier(authority) in said) for authority in authorities)


def _key_identifier(authority: x509.Certificate) -> bytes:
    try:
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(authority.public_key()).digest


def _read(one: x509.CertificateRevocationList) -> bool:
    """Read all of a list that is read later, for what is wrong in it is found only then; nothing of that can be raised afterwards.

    Raises:
        ValueError, DuplicateExtension, UnsupportedGeneralNameType: something in it is wrong.
    """
    entries = [(each.serial_number, each.revocation_date_utc, each.extensions) for each in one]
    return bool((one.issuer, one.last_update_utc, one.next_update_utc, one.signature_algorithm_oid, one.extensions, entries))


def _whole(one: x509.CertificateRevocationList) -> bool:
    """Whether it may be taken for all that its authority has revoked of members' certificates (RFC 5280, 5.2): no part and no change."""
    for extension in one.extensions:
        found = extension.value
        if isinstance(found, x509.IssuingDistributionPoint):
            if found.indirect_crl or found.only_contains_ca_certs or found.only_contains_attribute_certs or found.only_some_reasons:
                return False
        elif extension.critical:
            return False
    return all(not extension.critical for each in one for extension in each.extensions)


def _identity(authority: x509.Certificate) -> bytes:
    """Return what stays the same when an authority gets another certificate: its name and its key."""
    key = authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return authority.subject.public_bytes() + key


def _name(issuer: x509.Name) -> str:
    names = issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return shown(str(names[0].value) if names else issuer.rfc4514_string(), NAME_LIMIT)


def _signed(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if one.issuer != authority.subject:
        return False
    try:
        return one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]  # keys that cannot sign raise TypeError
    except (InvalidSignature, *UNREADABLE):
        return False

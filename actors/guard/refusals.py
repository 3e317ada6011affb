"""What is said of a TLS handshake that failed, on both sides: who refused whom, and why."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from actors.guard.door import Arrival, caller
from actors.guard.limited_log import LimitedLog
from actors.guard.words import NAME_LIMIT, shown

log = logging.getLogger(__name__)

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it demands a certificate and was shown none",
    "CERTIFICATE_EXPIRED": "expired, or not valid yet",
    "UNKNOWN_CA": "it was signed by an authority that is not trusted there",
    "DECRYPT_ERROR": "its signature is wrong; another authority may have the same name",
    "CERTIFICATE_REVOKED": "it was revoked",
    "BAD_CERTIFICATE": "it was found bad",
    "UNSUPPORTED_CERTIFICATE": "it is of a kind that is not accepted there",
    "CERTIFICATE_UNKNOWN": "it was not accepted there",
    "ACCESS_DENIED": "it was not accepted there",
}
"""Ends of the names of TLS alerts (RFC 8446, section 6.2) by which one side refuses the certificate of the other."""
_OURS = {
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks newer versions of TLS only",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "HTTP_REQUEST": "it did not use TLS; this system listens on wss://",
    "UNSUPPORTED_PROTOCOL": "it offered older versions of TLS only",
}
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


@dataclass(frozen=True)
class OwnCertificate:
    """The certificate that a system shows.

    Attributes:
        name: the common name in it; empty if there is not exactly one.
        since, until: when it is valid, UTC.
        certificate: itself, DER.
    """

    name: str
    since: datetime
    until: datetime
    certificate: bytes = field(repr=False)

    @staticmethod
    def of(certificate: x509.Certificate) -> OwnCertificate:
        """Return what is in a certificate."""
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = shown(str(names[0].value), NAME_LIMIT) if len(names) == 1 else ""
        since, until = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return OwnCertificate(name, since, until, certificate.public_bytes(Encoding.DER))


_own: WeakKeyDictionary[ssl.SSLContext, OwnCertificate] = WeakKeyDictionary()
_OF_TIME = ("CERTIFICATE_EXPIRED", "BAD_CERTIFICATE")
"""Ends of the names of alerts by which one side may say that it is too late for a certificate, or too early."""


def refused_by_other(error: BaseException | None, context: ssl.SSLContext | None = None) -> str:
    """Why the other side refused the certificate of this one, which `context` has shown; empty if `error` does not say that it did."""
    reason = getattr(error, "reason", None) or ""
    if not isinstance(error, ssl.SSLError) or "ALERT" not in reason:
        return ""
    own, now = _own.get(context) if context is not None else None, datetime.now(UTC)
    if own is not None and reason.endswith(_OF_TIME):
        if own.until < now:
            return f"expired on {own.until:%Y-%m-%d}"
        if own.since > now:
            return f"valid from {own.since:%Y-%m-%d %H:%M} UTC only"
        if reason.endswith("CERTIFICATE_EXPIRED"):
            return f"expired by the clock there; by ours it is valid until {own.until:%Y-%m-%d}"
    return next((text for end, text in _ALERTS.items() if reason.endswith(end)), "")


def explained(error: BaseException, context: ssl.SSLContext | None = None) -> str:
    """Explain a failed handshake in words, as seen from the side that raised `error` and whose certificate `context` has shown."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: certificate verify failed: {shown(error.verify_message)}"
    theirs = refused_by_other(error, context)
    if theirs:
        own = _own.get(context) if context is not None else None
        return f"it refused our certificate{f', that of {own.name!r}' if own is not None else ''} ({theirs})"
    reason = getattr(error, "reason", None) or ""
    if reason in _OURS:
        return _OURS[reason]
    if reason in _NOT_TLS:
        return "it does not speak TLS there"
    return f"TLS failed: {shown(reason or type(error).__name__)}"


def know_own_certificate(context: ssl.SSLContext, own: OwnCertificate) -> None:
    """Remember the certificate that `context` shows, for those who are refused because of it."""
    _own[context] = own


Failed = Callable[[ssl.SSLError, bytes], None]
"""Is given why a handshake failed, and what OpenSSL wants to tell the other side of it."""


class Witnessed:
    """A TLS context that tells the other side why a handshake failed.

    asyncio throws away what OpenSSL wants to tell it. It uses two methods of a context, of which this has the one for connections; all
    else it asks of the connection itself.

    Args:
        context: does the work.
        failed: is told of each handshake that fails.
    """

    def __init__(self, context: ssl.SSLContext, failed: Failed) -> None:
        self._context, self._failed = context, failed

    @staticmethod
    def listening(context: ssl.SSLContext, lines: LimitedLog) -> Witnessed:
        """Return one for the connections that `door` lets in; `lines` takes one for each that fails, with the host and the reason."""

        def failed(error: ssl.SSLError, told: bytes) -> None:
            who = caller.get()
            who.tell(told)
            what = "failed" if refused_by_other(error) else "was refused"
            lines.write(log, logging.WARNING, "TLS", f"a connection from %s {what}: %s", who.host, explained(error, context))

        return Witnessed(context, failed)

    @staticmethod
    def dialing(context: ssl.SSLContext, connection: socket.socket) -> Witnessed:
        """Return one for a socket that is connected already."""
        return Witnessed(context, lambda error, told: Arrival("", connection).tell(told))

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> Any:
        """See `ssl.SSLContext.wrap_bio`."""
        return _Handshake(self._context.wrap_bio(incoming, outgoing, **options), outgoing, self._failed)


class _Handshake:
    """The TLS of one connection."""

    def __init__(self, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, failed: Failed) -> None:
        self._tls, self._outgoing, self._failed = tls, outgoing, failed
        self.read, self.write = tls.read, tls.write  # on the way of each message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tls, name)

    def do_handshake(self) -> None:
        """See `ssl.SSLObject.do_handshake`."""
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failed(error, self._outgoing.read())
            raise

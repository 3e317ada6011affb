"""What is said of a TLS handshake that failed, on both sides: who refused whom, and why."""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from cryptography import x509

from actors.guard.door import caller
from actors.guard.limited_log import LimitedLog
from actors.guard.words import shown

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


_expiries: WeakKeyDictionary[ssl.SSLContext, datetime] = WeakKeyDictionary()


def refused_by_other(error: BaseException | None, context: ssl.SSLContext | None = None) -> str:
    """Why the other side refused the certificate of this one, which `context` has shown; empty if `error` does not say that it did."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLError) and "ALERT" in reason:
        text = next((text for end, text in _ALERTS.items() if reason.endswith(end)), "")
        expiry = _expiries.get(context) if context is not None and reason.endswith("CERTIFICATE_EXPIRED") else None
        return f"expired on {expiry:%Y-%m-%d}" if expiry is not None and expiry < datetime.now(UTC) else text
    return ""


def explained(error: BaseException, context: ssl.SSLContext | None = None) -> str:
    """A failed handshake in words, seen from the side on which `error` was raised and whose certificate `context` has shown."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: certificate verify failed: {shown(error.verify_message)}"
    theirs = refused_by_other(error, context)
    if theirs:
        return f"it refused our certificate ({theirs})"
    reason = getattr(error, "reason", None) or ""
    if reason in _OURS:
        return _OURS[reason]
    if reason in _NOT_TLS:
        return "it does not speak TLS there"
    return f"TLS failed: {shown(reason or type(error).__name__)}"


def know_own_certificate(context: ssl.SSLContext, certificate: Path) -> None:
    """Remembers how long a certificate lasts that `context` shows, for those who are refused because of it.

    Args:
        context: it has loaded the certificate already.
        certificate: a PEM file; the first certificate in it is that of the holder.
    """
    _expiries[context] = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc


class Witnessed:
    """A TLS context for listening that tells both sides why a handshake failed.

    asyncio throws away what OpenSSL wants to tell the other side, and logs nothing. It uses two methods of a context, of which this has
    the one for connections; all else it asks of the connection itself.

    Args:
        context: does the work.
        lines: takes one line for each handshake that fails, with the host and the reason.
    """

    def __init__(self, context: ssl.SSLContext, lines: LimitedLog) -> None:
        self._context, self._lines = context, lines

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, **options: Any) -> Any:
        """See `ssl.SSLContext.wrap_bio`."""
        return _Handshake(self._context.wrap_bio(incoming, outgoing, **options), outgoing, self._lines)


class _Handshake:
    """The TLS of one connection."""

    def __init__(self, tls: ssl.SSLObject, outgoing: ssl.MemoryBIO, lines: LimitedLog) -> None:
        self._tls, self._outgoing, self._lines = tls, outgoing, lines
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
            who = caller.get()
            who.tell(self._outgoing.read())
            self._lines.write(log, logging.WARNING, "TLS", "a connection from %s was refused: %s", who.host, explained(error))
            raise

"""What is said of a TLS handshake that failed, on both sides: who refused whom, and why."""

from __future__ import annotations

import logging
import ssl

from actors.guard.door import caller
from actors.guard.limited_log import LimitedLog
from actors.guard.words import shown

log = logging.getLogger(__name__)

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it demands a certificate and was shown none",
    "CERTIFICATE_EXPIRED": "it has expired, or is not valid yet",
    "UNKNOWN_CA": "it was signed by an authority that is not trusted there",
    "CERTIFICATE_REVOKED": "it was revoked",
    "BAD_CERTIFICATE": "it was found bad",
    "UNSUPPORTED_CERTIFICATE": "it is of a kind that is not accepted there",
    "CERTIFICATE_UNKNOWN": "it was not accepted there",
    "ACCESS_DENIED": "it was not accepted there",
}
"""Ends of the names of TLS alerts (RFC 8446, section 6.2) by which one side refuses the certificate of the other."""
_OURS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "HTTP_REQUEST": "it did not use TLS; this system listens on wss://",
    "UNSUPPORTED_PROTOCOL": "it offered older versions of TLS only",
}
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def refused_by_other(error: BaseException | None) -> str:
    """Why the other side refused the certificate of this one; empty if `error` does not say that it did."""
    reason = getattr(error, "reason", None) or ""
    if isinstance(error, ssl.SSLError) and "ALERT" in reason:
        return next((text for end, text in _ALERTS.items() if reason.endswith(end)), "")
    return ""


def explained(error: BaseException) -> str:
    """A failed handshake in words, seen from the side on which `error` was raised."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was refused: {shown(error.verify_message)}"
    theirs = refused_by_other(error)
    if theirs:
        return f"it refused our certificate: {theirs}"
    reason = getattr(error, "reason", None) or ""
    if reason in _OURS:
        return _OURS[reason]
    if reason in _NOT_TLS:
        return "it does not speak TLS there"
    return f"TLS failed: {shown(reason or type(error).__name__)}"


def witnessed(context: ssl.SSLContext, lines: LimitedLog) -> None:
    """Has each handshake that fails over `context` leave a line in the log, with the host and the reason; asyncio leaves none."""

    class Witnessed(ssl.SSLObject):
        """One connection."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                lines.write(log, logging.WARNING, "TLS", "a connection from %s was refused: %s", caller.get(), explained(error))
                raise

    context.sslobject_class = Witnessed

"""Who sent the message that a handler is running for, as far as its connection has shown it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property

from cryptography import x509
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, eq=False)
class Caller:
    """The system at the other end of one connection. Two connections are two callers, also if they show the same.

    Attributes:
        local: it is this very process.
        dialed: this system opened the connection, to an address that it had chosen.
        url: that address, `ws://host:port`; empty if the other end opened it.
        host: the network address that the other end opened it from; empty if this system did.
        same_user: it has proven to run for the same user of this machine as this system (`ws://` on loopback).
        address: where it listens, if it has proven to be the system that listens there (`ws://` on loopback); otherwise empty.
        certificate: that it has shown, DER, verified by TLS; None without TLS, or if it had none to show.
    """

    local: bool = False
    dialed: bool = False
    same_user: bool = False
    address: str = ""
    certificate: bytes | None = field(default=None, repr=False)
    url: str = ""
    host: str = ""

    @cached_property
    def common_name(self) -> str:
        """The common name in its certificate; empty if there is no certificate, or not exactly one name."""
        return "" if self.certificate is None else common_name(self.certificate)

    @property
    def placed(self) -> str:
        """Who it is and where, for the log of this system."""
        return f"{self} from {self.host}" if self.host else f"{self} at {self.url}" if self.url else str(self)

    def __str__(self) -> str:
        if self.local:
            return "this process"
        if self.certificate is not None:
            return f"the holder of the certificate of {self.common_name[:100]!r}"
        if self.address:
            return f"the system at {self.address}"
        return "a process of the same user" if self.same_user else "somebody who has shown nothing"


def common_name(certificate: bytes) -> str:
    """Return the common name in a certificate (DER); empty if there is not exactly one."""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


LOCAL = Caller(local=True)
"""Whoever holds a reference in this very process."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
"""Set by the cell before it runs a handler. A thread or task that the handler starts inherits it."""


def caller() -> Caller:
    """Return who sent the message that is being handled. Outside of a handler it is this process.

    Example:
        >>> class Door(Actor):
        ...     @message
        ...     async def enter(self) -> str:
        ...         return f"welcome, {caller().common_name}"
    """
    return CALLER.get()

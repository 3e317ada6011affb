"""What a certificate says about its holder's role: names of the form `urn:confide:...` among its alternative names (RFC 5280, 4.2.1.6).

    urn:confide:role:owner                              one role, in the words of cluster.toml
    urn:confide:role:client  urn:confide:may:ask        a client, and what it may: ask, share, or both

The authority writes them, never the holder. A certificate without such a name says nothing, as those made before there were roles, and
those of other authorities; one whose names are not understood gives no right.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509

from actors.identity.unreadable import UNREADABLE

ROLES = ("server", "crypto_provider", "aggregator", "owner", "client")
MAY = ("share", "ask", "watch")
"""`watch` takes a node of the cluster file that says so as well: whoever reads metrics is named there."""
WORKERS = frozenset({"server", "crypto_provider"})
_SPACE = "urn:confide:"
_ROLE, _MAY = f"{_SPACE}role:", f"{_SPACE}may:"


@dataclass(frozen=True)
class Certified:
    """What a certificate says.

    Attributes:
        role: one of `ROLES`; empty if what it says is not understood.
        may: of a client: what it may do, of `MAY`.
    """

    role: str
    may: frozenset[str] = frozenset()

    @property
    def names(self) -> list[x509.UniformResourceIdentifier]:
        """What has to be among the alternative names of a certificate for it to say this."""
        return [x509.UniformResourceIdentifier(text) for text in (f"{_ROLE}{self.role}", *(f"{_MAY}{one}" for one in sorted(self.may)))]

    def __str__(self) -> str:
        return f"{self.role} ({', '.join(sorted(self.may))})" if self.may else self.role or "a role that is not known here"


NOTHING = Certified("")


def certified(certificate: bytes | None) -> Certified | None:
    """Return what a certificate (DER) says; None if it says nothing about roles, or there is none."""
    if certificate is None:
        return None
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except UNREADABLE:  # extensions that cannot be read
        return NOTHING
    return _said([text for text in names.get_values_for_type(x509.UniformResourceIdentifier) if text.startswith(_SPACE)])


def _said(texts: Collection[str]) -> Certified | None:
    if not texts:
        return None
    roles = [text.removeprefix(_ROLE) for text in texts if text.startswith(_ROLE)]
    may = [text.removeprefix(_MAY) for text in texts if text.startswith(_MAY)]
    if len(roles) + len(may) < len(texts) or len(roles) != 1 or roles[0] not in ROLES or not set(may) <= set(MAY):
        return NOTHING
    return Certified(roles[0], frozenset(may)) if not may or roles[0] == "client" else NOTHING

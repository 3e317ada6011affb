"""What an authority has signed, and what it has revoked: register.json in its folder, replaced as a whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federated.authority.issuing import MemberRights
from federated.errors import KeysError
from protocols.storage.replacement import replace

FILE = "register.json"


class MemberEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One certificate.

    Attributes:
        name, role, may, hosts: as granted.
        since, until: when it is valid.
        certificate: PEM.
        revoked: when it was; None: it was not.
    """

    name: str
    role: str
    may: tuple[str, ...]
    hosts: tuple[str, ...]
    since: datetime
    until: datetime
    certificate: str
    revoked: datetime | None = None

    @staticmethod
    def of(grant: MemberRights, signed: x509.Certificate) -> MemberEntry:
        """Return the entry of a new certificate."""
        text = signed.public_bytes(Encoding.PEM).decode()
        since, until = signed.not_valid_before_utc, signed.not_valid_after_utc
        return MemberEntry(grant.name, grant.role, grant.may, grant.hosts, since, until, text)

    @property
    def grant(self) -> MemberRights:
        """What was granted."""
        return MemberRights(self.name, self.role, self.may, self.hosts)

    @property
    def signed(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())

    def counts(self, now: datetime) -> bool:
        """Whether its holder is let in."""
        return self.revoked is None and now <= self.until

    def state(self, now: datetime) -> str:
        """In a word or two."""
        if self.revoked is not None:
            return f"revoked on {self.revoked:%Y-%m-%d}"
        return "valid" if now <= self.until else "expired"


class Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of them, in the order in which they were signed.

    Attributes:
        lists: how many lists of revoked certificates were made.
        entries: of the certificates.
    """

    lists: int = 0
    entries: tuple[MemberEntry, ...] = ()

    def latest(self, name: str) -> MemberEntry | None:
        """Return the newest entry of a name."""
        return next((one for one in reversed(self.entries) if one.name == name), None)

    def with_entry(self, entry: MemberEntry) -> Register:
        """Return a register with one more."""
        return Register(self.lists, (*self.entries, entry))

    def revoking(self, name: str, now: datetime) -> Register:
        """Return a register in which all certificates of a name are revoked that counted, and one more list is made."""
        entries = tuple(msgspec.structs.replace(one, revoked=now) if one.name == name and one.counts(now) else one for one in self.entries)
        return Register(self.lists + 1, entries)

    def revoked(self, now: datetime) -> list[tuple[int, datetime]]:
        """Return serial number and time of those that were revoked and have not expired."""
        return [(one.signed.serial_number, one.revoked) for one in self.entries if one.revoked is not None and now <= one.until]


def load(folder: Path) -> Register:
    """Return the register in a folder.

    Raises:
        KeysError: it is not there, or is damaged.
    """
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Register)
    except OSError as error:
        raise KeysError(f"{folder} is no folder of an authority ({error.strerror}: {FILE}); confide certs init makes one") from None
    except msgspec.MsgspecError as error:
        raise KeysError(f"{folder / FILE} is damaged: {error}") from None


def save(folder: Path, register: Register) -> None:
    """Write it; raises `OSError`."""
    replace(folder / FILE, msgspec.json.format(msgspec.json.encode(register)), mode=0o600)

"""What an authority has signed, and what it has revoked: register.json in its folder, replaced as a whole."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from federated.authority.issuing import MemberRights
from federated.errors import KeysError
from protocols.storage.replacement import replace

FILE = "register.json"
Hexadecimal: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]+$")]


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


class Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All of them, in the order in which they were signed.

    Attributes:
        lists: the number of the latest list of revoked certificates.
        entries: of the certificates.
        list_days: for which a list may be used; None: as long as the authority is valid.
        inherited: serial number and time of what was revoked before this register began.
    """

    lists: int = 0
    entries: tuple[MemberEntry, ...] = ()
    list_days: int | None = None
    inherited: tuple[tuple[Hexadecimal, datetime], ...] = ()

    def latest(self, name: str) -> MemberEntry | None:
        """Return the newest entry of a name."""
        return next((one for one in reversed(self.entries) if one.name == name), None)

    def with_entry(self, entry: MemberEntry) -> Register:
        """Return a register with one more."""
        return msgspec.structs.replace(self, entries=(*self.entries, entry))

    def revoking(self, name: str, now: datetime) -> Register:
        """Return a register in which all certificates of a name are revoked that counted, and one more list is made."""
        entries = tuple(msgspec.structs.replace(one, revoked=now) if one.name == name and one.counts(now) else one for one in self.entries)
        return msgspec.structs.replace(self, lists=self.lists + 1, entries=entries)

    def listing_again(self, days: int | None) -> Register:
        """Return a register with one more list, which may be used for so many days, as those after it."""
        return msgspec.structs.replace(self, lists=self.lists + 1, list_days=days)

    def revoked(self, now: datetime) -> list[tuple[int, datetime]]:
        """Return serial number and time of those that were revoked and have not expired, as far as that is known."""
        before = [(int(serial, 16), when) for serial, when in self.inherited]
        return before + [(one.signed.serial_number, one.revoked) for one in self.entries if one.revoked is not None and now <= one.until]


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

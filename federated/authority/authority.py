"""An authority in a folder: it signs the certificates of a cluster's members, renews them, and revokes them.

    ca.pem         its certificate; every node trusts it
    ca.key         its key, encrypted under a passphrase
    ca.crl         the signed list of revoked certificates; every node reads it
    register.json  what it has signed and revoked

Keep the folder on a machine that runs no node. Whoever has it and the passphrase can make members, with any role.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from actors.credentials.revocation import Revoked, number_of, read_lists, signer
from actors.errors import BadCredentials
from actors.identity.unreadable import UNREADABLE
from federated.authority import key_file, register, request
from federated.authority.issuing import MemberRights, PublicKey, checked, member_certificate, own_certificate, revocation_list
from federated.authority.key_file import SigningKey
from federated.authority.member_file import MemberFile
from federated.authority.private_files import locked
from federated.authority.register import MemberEntry, Register
from federated.authority.settings import DAYS, OWN_DAYS
from federated.errors import KeysError
from protocols.storage.replacement import replace, synchronize

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Brought:
    """An authority that exists.

    Attributes:
        certificate: file of its certificate.
        key: file of its key.
        passphrase: of that key; None: it is not encrypted.
        revoked: its latest list of revoked certificates; None: it has revoked nobody.
    """

    certificate: Path
    key: Path
    passphrase: str | None = None
    revoked: Path | None = None


class Authority:
    """The authority in a folder.

    Args:
        folder: made by `Authority.create`.
        passphrase: of its key, asked for when something is to be signed; None as an answer: the key is not encrypted.
        clock: the time, with a zone.

    Raises:
        KeysError: it is no such folder.
    """

    def __init__(self, folder: Path, passphrase: Callable[[], str | None], *, clock: Clock = _now) -> None:
        self._folder, self._passphrase, self._clock = folder, passphrase, clock
        register.load(folder)
        self.certificate = _certificate(folder / "ca.pem")

    @staticmethod
    def create(
        folder: Path,
        passphrase: str | None,
        *,
        name: str = "confide authority",
        days: int = OWN_DAYS,
        brought: Brought | None = None,
        list_days: int | None = None,
        clock: Clock = _now,
    ) -> Authority:
        """Make an authority, or take one in that exists; the folder is there as a whole, or not at all.

        Args:
            folder: that is not there yet.
            passphrase: to encrypt its key under, at least 12 characters; None: the key is not encrypted, for trials.
            name: its common name.
            days: until its own certificate expires.
            brought: the one that exists; its key is copied, encrypted.
            list_days: for which each list of revoked certificates may be used; None: as long as the authority is valid.
            clock: the time, with a zone.

        Raises:
            KeysError: the folder is there, or cannot be written, or what was brought cannot sign for members.
        """
        if folder.exists() or folder.is_symlink():
            raise KeysError(f"{folder} is there already: an authority is made once; give another folder")
        known = Register(lists=1, list_days=list_days)
        if brought is None:
            key: SigningKey = Ed25519PrivateKey.generate()
            certificate = own_certificate(key, name, now=clock(), days=days)
        else:
            key = key_file.read(brought.key, brought.passphrase)
            certificate = _checked(_certificate(brought.certificate), key, brought.certificate, clock())
            if brought.revoked is not None:
                known = _inherited(known, brought.revoked, certificate)
        encrypted = key_file.pem(key, passphrase)
        crl = revocation_list(key, certificate, known.revoked(clock()), number=known.lists, now=clock(), days=list_days)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))  # 0700
            try:
                replace(new / "ca.key", encrypted, mode=0o600)
                replace(new / "ca.pem", certificate.public_bytes(Encoding.PEM), mode=0o644)
                replace(new / "ca.crl", crl.public_bytes(Encoding.PEM), mode=0o644)
                register.save(new, known)
                os.rename(new, folder)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            synchronize(folder.parent)
        except OSError as error:
            raise KeysError(f"{folder} cannot be made: {error.strerror}") from None
        return Authority(folder, lambda: passphrase, clock=clock)

    @property
    def list_file(self) -> Path:
        """The list of revoked certificates, for every node."""
        return self._folder / "ca.crl"

    def entries(self) -> tuple[MemberEntry, ...]:
        """Return what was signed, the oldest first. No passphrase is needed."""
        return register.load(self._folder).entries

    def revoked(self) -> Revoked:
        """Return its list of revoked certificates. No passphrase is needed."""
        try:
            return Revoked().updated(self.list_file, [self.certificate])
        except BadCredentials as error:
            raise KeysError(f"{error}; confide certs crl signs it anew") from None

    def add(self, grant: MemberRights, *, days: int = DAYS) -> MemberFile:
        """Make a key and a certificate for a new member. Whoever carries the file can be that member: `sign` needs no such trust.

        Raises:
            KeysError: the name has a certificate that counts, or the key cannot be used.
        """
        with self._signing() as (key, known):
            self._check_new(grant.name, known)
            own = Ed25519PrivateKey.generate()
            return self._signed(key, known, grant, own.public_key(), days, made=own)

    def sign(self, grant: MemberRights, asked: x509.CertificateSigningRequest, *, days: int = DAYS) -> MemberFile:
        """Sign the key in a request for a new member. Only the key is taken from the request.

        Raises:
            KeysError: the name has a certificate that counts, the request is in another name, or the key cannot be used.
        """
        public = _asked(grant.name, asked)
        with self._signing() as (key, known):
            self._check_new(grant.name, known)
            return self._signed(key, known, grant, public, days)

    def renew(self, name: str, asked: x509.CertificateSigningRequest | None = None, *, days: int = DAYS) -> MemberFile:
        """Sign a certificate again that has expired or soon will: the same name, role and hosts. The one before counts until it expires.

        Args:
            name: of the member.
            asked: a request with another key; None: the same key.
            days: until the new one expires.

        Raises:
            KeysError: there is no such member, or it was revoked.
        """
        public = None if asked is None else _asked(name, asked)
        with self._signing() as (key, known):
            entry = self._member(name, known)
            if entry.revoked is not None:
                raise KeysError(f"{name} was revoked on {entry.revoked:%Y-%m-%d}: what was revoked is not renewed; add or sign it anew")
            return self._signed(key, known, entry.grant, public or checked(entry.signed.public_key()), days)

    def revoke(self, name: str) -> Path:
        """Have all certificates of a member count no more; returns the list to bring to every node.

        Raises:
            KeysError: there is no such member.
        """
        with self._signing() as (key, known):
            self._member(name, known)
            known = known.revoking(name, self._clock())
            register.save(self._folder, known)
            self._write_list(key, known)
        return self.list_file

    def list_again(self, days: int | None = None) -> datetime:
        """Sign the list of revoked certificates anew, before the one before expires; return until when it may be used.

        Args:
            days: for which it and those after it may be used; 0: as long as the authority is valid; None: as those before.
        """
        with self._signing() as (key, known):
            known = known.listing_again(known.list_days if days is None else days or None)
            register.save(self._folder, known)
            return self._write_list(key, known)

    @contextlib.contextmanager
    def _signing(self) -> Iterator[tuple[SigningKey, Register]]:
        """Yield the key, and the register that nobody else changes meanwhile."""
        key = key_file.read(self._folder / "ca.key", self._passphrase())
        if _bytes(key.public_key()) != _bytes(checked(self.certificate.public_key())):
            raise KeysError(f"{self._folder / 'ca.key'} is not the key of ca.pem beside it")
        with locked(self._folder):
            known = register.load(self._folder)
            try:
                if known.lists > self._list_number():  # a revocation was interrupted
                    self._write_list(key, known)
                yield key, known
            except OSError as error:
                raise KeysError(f"{self._folder} cannot be written: {error.strerror}") from None

    def _list_number(self) -> int:
        try:
            found = x509.load_pem_x509_crl(self.list_file.read_bytes())
            return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except (OSError, x509.ExtensionNotFound, *UNREADABLE):
            return 0

    def _write_list(self, key: SigningKey, known: Register) -> datetime:
        now = self._clock()
        made = revocation_list(key, self.certificate, known.revoked(now), number=known.lists, now=now, days=known.list_days)
        replace(self.list_file, made.public_bytes(Encoding.PEM), mode=0o644)
        return made.next_update_utc or self.certificate.not_valid_after_utc

    def _check_new(self, name: str, known: Register) -> None:
        entry = known.latest(name)
        if entry is not None and entry.counts(self._clock()):
            raise KeysError(
                f"{name} has a certificate as {entry.grant.said} until {entry.until:%Y-%m-%d}: confide certs renew makes the next one; for"
                " another role or key revoke it first"
            )

    def _member(self, name: str, known: Register) -> MemberEntry:
        entry = known.latest(name)
        if entry is None:
            names = ", ".join(dict.fromkeys(one.name for one in known.entries)) or "nobody"
            raise KeysError(f"{self._folder} has signed nothing for {name[:100]!r}; it has for {names}")
        return entry

    def _signed(
        self, key: SigningKey, known: Register, grant: MemberRights, public: PublicKey, days: int, made: Ed25519PrivateKey | None = None
    ) -> MemberFile:
        if days < 1:
            raise KeysError(f"certificates valid for {days} days: at least 1 is needed")
        now = self._clock()
        signed = member_certificate(key, self.certificate, public, grant.name, said=grant.said, hosts=grant.hosts, now=now, days=days)
        register.save(self._folder, known.with_entry(MemberEntry.of(grant, signed)))
        return MemberFile(signed, self.certificate, self.list_file.read_bytes(), None if made is None else key_file.pem(made, None))


def _inherited(known: Register, file: Path, certificate: x509.Certificate) -> Register:
    """Return a register that goes on where an authority has been until now: what it has revoked stays so, and its next list is newer."""
    try:
        Revoked().updated(file, [certificate])
        lists = [one for one in read_lists(file) if signer(one, [certificate]) is not None]
    except BadCredentials as error:
        raise KeysError(str(error)) from None
    revoked = {f"{each.serial_number:x}": each.revocation_date_utc for one in lists for each in one}
    return msgspec.structs.replace(known, lists=max(map(number_of, lists)) + 1, inherited=tuple(revoked.items()))


def _asked(name: str, asked: x509.CertificateSigningRequest) -> PublicKey:
    """Return the key in a request for a member of this name."""
    said = request.asked_name(asked)
    if said != name:
        raise KeysError(f"the request is in the name of {said[:100]!r}, and you say {name!r}: is it the right file?")
    return checked(asked.public_key())


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    except UNREADABLE:
        raise KeysError(f"{path} is no certificate in PEM") from None


def _checked(certificate: x509.Certificate, key: SigningKey, path: Path, now: datetime) -> x509.Certificate:
    """Check that an authority that was brought can sign for members; return its certificate."""
    if _bytes(checked(certificate.public_key())) != _bytes(key.public_key()):
        raise KeysError(f"the key that was brought is not that of {path}")
    try:
        extensions = certificate.extensions
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        raise KeysError(f"{path} does not say that it is an authority (basic constraints, key usage)") from None
    if not basic.ca or not usage.key_cert_sign or not usage.crl_sign:
        raise KeysError(f"{path} may not sign both certificates and lists of revoked ones (CA, keyCertSign, cRLSign)")
    if certificate.not_valid_after_utc <= now:
        raise KeysError(f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
    return certificate


def _bytes(public: PublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

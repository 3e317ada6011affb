"""The files by which a system shows who it is in TLS, and knows others: a certificate, its key, authorities, and who was revoked.

They are looked at before each new connection, and read again if they have changed. Connections that are open go on, but for those whose
certificate has been revoked. If a new certificate, key or authority cannot be used, those before stay in use, and the log says why. If a
list of revoked certificates cannot be used, or has expired, nobody else is let in, or connected to, until there is one that can.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from actors.credentials.revocation import Revoked
from actors.errors import BadCredentials
from actors.guard.refusals import OwnCertificate, know_own_certificate
from actors.guard.words import NAME_LIMIT, shown
from actors.identity.caller import common_name
from actors.identity.unreadable import UNREADABLE

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Paths:
    """PEM files.

    Attributes:
        certificate: of this system; others may follow it, up to an authority.
        key: of that certificate, not encrypted; nobody but its user may read it.
        authority: the certificates that are trusted, and from which others descend.
        revoked: lists of revoked certificates (CRL), each signed by one of the authorities; None, or not there: nobody was revoked.
        next_key: a key that is to replace `key`; it is used as soon as the certificate is its.
    """

    certificate: Path
    key: Path
    authority: Path
    revoked: Path | None = None
    next_key: Path | None = None

    @staticmethod
    def of(folder: Path, name: str) -> Paths:
        """Return the files of a node in a folder of keys."""
        return Paths(folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem", folder / "ca.crl", folder / f"{name}.next.key")

    def __iter__(self) -> Iterator[Path]:
        yield from (path for path in (self.certificate, self.key, self.authority, self.revoked, self.next_key) if path is not None)


@dataclass(frozen=True)
class _Read:
    """What was in the files."""

    own: OwnCertificate
    authorities: tuple[x509.Certificate, ...]
    listen: ssl.SSLContext
    connect: ssl.SSLContext


class Credentials:
    """The files, and the two contexts for TLS that always use the latest of them.

    Args:
        paths: of the files.
        clock: the time, with a zone.
        admits: returns why the holder of a certificate (DER) that TLS has found good is not let in, or connected to; empty: it is.
        list_needed: nobody is let in whose authority has no list of revoked certificates here.

    Attributes:
        listen: for connections of others, who have to show certificates.
        connect: for connections to others.

    Raises:
        BadCredentials: a file is missing or cannot be used, or others may read the key.

    Example:
        >>> credentials = Credentials(Paths.of(Path("keys"), "julia"))
        >>> async with ActorSystem("wss://0.0.0.0:4000", ssl=credentials.listen, connect_ssl=credentials.connect) as system:
        ...     await system.serve_forever()
    """

    def __init__(
        self,
        paths: Paths,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        admits: Callable[[bytes], str] | None = None,
        list_needed: bool = False,
    ) -> None:
        self._paths, self._clock = paths, clock
        self._admits, self._list_needed = admits, list_needed
        self._told: list[Callable[[], None]] = []
        self.listen, self.connect = Renewed(self, ssl.PROTOCOL_TLS_SERVER), Renewed(self, ssl.PROTOCOL_TLS_CLIENT)
        self._stamp = self._stamped()
        self._now = self._read()
        self._revoked = Revoked().updated(paths.revoked, self._now.authorities)
        self._damaged = ""  # why the list that is there cannot be used
        self._known()
        for outer, inner in ((self.listen, self._now.listen), (self.connect, self._now.connect)):
            outer.take_settings(inner)

    def __repr__(self) -> str:
        return f"<Credentials of {self.own.name!r}>"

    @property
    def own(self) -> OwnCertificate:
        """The certificate that this system shows."""
        return self._now.own

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """Whose certificates are trusted."""
        return self._now.authorities

    @property
    def revoked(self) -> int:
        """How many certificates are on the lists of those that were revoked."""
        return len(self._revoked)

    def revocation(self, certificate: bytes | None) -> str:
        """Return why somebody's certificate (DER) does not count any more; empty if it was not revoked."""
        return "" if certificate is None else self._revoked.reason(certificate)

    def refusal(self, certificate: bytes | None) -> str:
        """Return why the holder of a certificate (DER) that TLS has found good is not let in, or connected to; empty if it may be.

        It is told to the other side as well, and names no file.
        """
        if certificate is None:
            return ""
        if reason := self._revoked.reason(certificate):
            return reason
        doubt = "the list of revoked certificates is damaged" if self._damaged else ""
        doubt = doubt or self._revoked.doubt(certificate, self._clock(), needed=self._list_needed)
        if doubt:
            name = shown(common_name(certificate), NAME_LIMIT)
            return f"{doubt}: {name!r} is refused until there is one that can be used"
        return "" if self._admits is None else self._admits(certificate)

    def on_change(self, told: Callable[[], None]) -> Callable[[], None]:
        """Have a function called after new files were read; returns one that ends this."""
        self._told.append(told)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._told.remove(told)

        return end

    def refresh(self, *, force: bool = False) -> bool:
        """Read the files again if they have changed, or in any case; returns whether something new is used.

        What cannot be used is told in the log.
        """
        stamp = self._stamped()
        if stamp == self._stamp and not force:
            return False
        self._stamp = stamp
        before = self._revoked, self._damaged
        read = self._read_again()
        self._read_lists()  # whatever is wrong with the other files
        if not read and (self._revoked, self._damaged) == before:
            return False
        log.info("%s", self.summary())
        for told in tuple(self._told):
            told()
        return True

    def _read_again(self) -> bool:
        try:
            self._now = self._read()
        except BadCredentials as error:
            log.error("the certificates of %r were not read again, those before stay in use: %s", self.own.name, error)
            return False
        self._known()
        return True

    def _read_lists(self) -> None:
        try:
            self._revoked, self._damaged = self._revoked.updated(self._paths.revoked, self._now.authorities), ""
        except BadCredentials as error:
            self._damaged = str(error)
            log.error("nobody is let in until this list of revoked certificates is a good one, or gone: %s", error)

    def summary(self) -> str:
        """Return in a line what is in use."""
        lists = "nobody is let in: the list of revoked certificates is damaged" if self._damaged else f"{self.revoked} revoked"
        until = "" if self._damaged or self._revoked.until is None else f", by a list until {self._revoked.until:%Y-%m-%d}"
        return f"certificates: {self.own.name} until {self.own.until:%Y-%m-%d}, {lists}{until}"

    def concerns(self, *, days: int) -> list[str]:
        """Return what has to be done about these files, in a line each: what expires within so many days, or does not count any more."""
        found, now = [], self._clock()
        authority = min(self.authorities, key=lambda one: one.not_valid_after_utc)
        for what, until in ((f"the certificate of {self.own.name!r}", self.own.until), ("the authority", authority.not_valid_after_utc)):
            left = (until - now).days
            if until <= now:
                found.append(f"{what} expired on {until:%Y-%m-%d}: it is refused everywhere; confide certs renew makes another")
            elif left < days:
                found.append(f"{what} expires on {until:%Y-%m-%d}, in {left} days")
        if self.own.since > now:
            found.append(
                f"the certificate of {self.own.name!r} is valid from {self.own.since:%Y-%m-%d %H:%M} UTC only: is the clock right?"
            )
        if reason := self._revoked.reason(self.own.certificate):
            found.append(f"this system is refused everywhere: {reason}")
        if self._damaged:
            found.append(f"nobody is let in until this list of revoked certificates is a good one, or gone: {self._damaged}")
        return found + self._revoked.concerns(now, days=days)

    def latest(self, outer: Renewed) -> ssl.SSLContext:
        """Return the context that does the work of `outer` now, with the settings of that."""
        self.refresh()
        inner = self._now.listen if outer is self.listen else self._now.connect
        Renewed.copy_settings(outer, inner)
        return inner

    def _stamped(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes when one of the files is replaced, changed, or made readable for others."""
        return tuple(_stamp(path) for path in self._paths)

    def _known(self) -> None:
        for context in (self.listen, self.connect):
            know_own_certificate(context, self.own)

    def _read(self) -> _Read:
        certificate = _parsed(self._paths.certificate, x509.load_pem_x509_certificate)
        authorities = tuple(_parsed(self._paths.authority, x509.load_pem_x509_certificates))
        key = self._key()
        listen = self._context(ssl.Purpose.CLIENT_AUTH, key)
        listen.verify_mode = ssl.CERT_REQUIRED
        listen.num_tickets = 0  # no session outlives the certificate that it was opened with
        own = OwnCertificate.of(certificate)
        return _Read(own, authorities, listen, self._context(ssl.Purpose.SERVER_AUTH, key))

    def _context(self, purpose: ssl.Purpose, key: Path) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(purpose, cafile=str(self._paths.authority))
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an authority below another one can be trusted alone
            context.hostname_checks_common_name = False  # the name of a member is none of a host
            context.load_cert_chain(self._paths.certificate, key, password=lambda: _refuse_encrypted(key))
        except ssl.SSLError as error:
            raise BadCredentials(f"{self._paths.certificate} and {key} cannot be used: {error.reason or 'OpenSSL refuses them'}") from None
        except (OSError, ValueError) as error:
            raise BadCredentials(f"{self._paths.certificate} and {key} cannot be used: {type(error).__name__}") from None
        return context

    def _key(self) -> Path:
        """Return the file with the key of the certificate. While both are replaced, it may be the next one."""
        certificate, following = self._paths.certificate, self._paths.next_key
        if following is not None and following.is_file():
            check_private(following)
            with contextlib.suppress(ssl.SSLError, OSError, BadCredentials):
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
                    certificate, following, password=lambda: _refuse_encrypted(following)
                )
                return following
        check_private(self._paths.key)
        return self._paths.key


class Renewed(ssl.SSLContext):
    """A context for TLS that uses the latest files of its credentials for each new connection."""

    _credentials: Credentials

    def __new__(cls, credentials: Credentials, protocol: int) -> Renewed:
        """See `ssl.SSLContext`."""
        made = super().__new__(cls, protocol)
        made._credentials = credentials
        return made

    def __init__(self, credentials: Credentials, protocol: int) -> None:
        pass

    @property
    def credentials(self) -> Credentials:
        """Whose context it is."""
        return self._credentials

    def take_settings(self, other: ssl.SSLContext) -> None:
        """Show the settings of another context."""
        self.check_hostname = False
        self.verify_mode = other.verify_mode
        self.check_hostname = other.check_hostname
        Renewed.copy_settings(other, self)

    @staticmethod
    def copy_settings(source: ssl.SSLContext, target: ssl.SSLContext) -> None:
        """Copy what users may set: versions of TLS and how strictly certificates are verified."""
        if source.verify_flags != target.verify_flags:
            target.verify_flags = source.verify_flags
        if source.minimum_version != target.minimum_version:
            target.minimum_version = source.minimum_version
        if source.maximum_version != target.maximum_version:
            target.maximum_version = source.maximum_version

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """See `ssl.SSLContext.wrap_bio`."""
        return self._credentials.latest(self).wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """See `ssl.SSLContext.wrap_socket`."""
        return self._credentials.latest(self).wrap_socket(*args, **options)


def credentials_of(context: ssl.SSLContext | None) -> Credentials | None:
    """Return the credentials that a context was made by, if it was."""
    return context.credentials if isinstance(context, Renewed) else None


def check_private(key: Path) -> None:
    """Refuse a key that others can read, or could have written.

    Raises:
        BadCredentials: it is so, or there is no such file.
    """
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise BadCredentials(f"{key} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise BadCredentials(f"{key} is no file")
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        raise BadCredentials(
            f"{key} has mode {stat.S_IMODE(mode):04o}: others on this machine can read or replace this key; chmod 600 it, and if somebody"
            " may have read it, ask for a new certificate with another key"
        )


def names_of(path: Path) -> str:
    """Return the common name in a PEM certificate, fit to be shown; empty if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return shown(common_name(ssl.PEM_cert_to_DER_cert(path.read_text())), NAME_LIMIT)
    return ""


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _parsed(path: Path, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise BadCredentials(f"{path} cannot be read: {error.strerror}") from None
    except UNREADABLE:
        raise BadCredentials(f"{path} is no certificate in PEM") from None


def _refuse_encrypted(key: Path) -> str:
    raise BadCredentials(
        f"{key} is encrypted: a node starts without anybody who could type a passphrase; keep its key in a file that only it reads"
    )

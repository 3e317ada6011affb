"""An authority, folders of keys of its members, and what goes through TLS with them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import SSLContext

from cryptography import x509

from actors.credentials.files import Credentials, Paths
from federated.authority import member_file
from federated.authority.authority import Authority
from federated.authority.issuing import Grant

HOST = "127.0.0.1"


@dataclass
class Members:
    """Members of one authority, each with a folder of its own.

    Attributes:
        root: of all folders.
        now: the time of the authority; a list, so that a test can set it.
    """

    root: Path
    now: list[datetime] = field(default_factory=lambda: [datetime.now(UTC)])

    def __post_init__(self) -> None:
        today, self.now[0] = self.now[0], self.now[0] - timedelta(days=200)  # so that members can have expired
        self.authority = Authority.create(self.root / "authority", None, clock=lambda: self.now[0])
        self.now[0] = today

    def keys(self, name: str) -> Path:
        return self.root / name

    def add(self, name: str, role: str = "owner", *hosts: str, may: tuple[str, ...] = (), days: int = 365) -> Path:
        """A new member; returns its folder."""
        return self._placed(self.authority.add(Grant(name, role, may, hosts), days=days))

    def renew(self, name: str, days: int = 365) -> Path:
        return self._placed(self.authority.renew(name, days=days))

    def _placed(self, made: member_file.MemberFile) -> Path:
        member_file.accept(made.write(self.root), self.keys(made.name))
        return self.keys(made.name)

    def revoke(self, name: str, *told: str) -> None:
        """Revoke a member, and bring the list to others."""
        self.authority.revoke(name)
        for each in told:
            self.bring_list(each)

    def bring_list(self, name: str) -> None:
        member_file.accept_list(self.authority.list_file, self.keys(name) / "ca.crl", [self.authority.certificate])

    def credentials(self, name: str, **options) -> Credentials:
        return Credentials(Paths.of(self.keys(name), name), **options)


async def shown(address: str, tls: SSLContext) -> x509.Certificate:
    """The certificate of whoever listens at a wss:// address."""
    host, _, port = address.removeprefix("wss://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    try:
        return x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    finally:
        writer.transport.abort()

"""Where a system listens: scheme, host and port. What may be reached without encryption is decided here."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from actors.errors import BadAddress, InsecureAddress

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
"""The form of an actor's name: it is the path of its address."""


@dataclass(frozen=True)
class Address:
    """The address of a system, `ws://host:port` or `wss://host:port`.

    Attributes:
        secure: whether the connection is encrypted (wss).
        host: a name or an IP address, without brackets.
        port: 0 to 65535; 0 lets the operating system choose one to listen on.
    """

    secure: bool
    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """Understand `ws://host:port` and `wss://host:port`.

        Raises:
            BadAddress: it is something else.
        """
        parts = _split(text)
        if parts.path not in ("", "/"):
            raise BadAddress(f"{text!r} names an actor; expected the address of a system, such as 'ws://127.0.0.1:4000'")
        return _address(text, parts)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.secure else 'ws'}://{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def wildcard(self) -> bool:
        """Whether it stands for all addresses of this machine, so that nobody can connect to it by that."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def check_encryption(self, allow_plaintext: bool) -> None:
        """Refuse plaintext that leaves this machine.

        Raises:
            InsecureAddress: `ws://` to another host, and `allow_plaintext` is not set.
        """
        if not (self.secure or self.loopback or allow_plaintext):
            raise InsecureAddress(
                f"{self} is not encrypted and not on this machine; use wss:// with an ssl context, or allow_plaintext=True to send "
                "everything in the clear"
            )


def parse_actor(text: str) -> tuple[Address, str]:
    """Split `ws://host:port/name` into the address of the system and the name of the actor.

    Raises:
        BadAddress: it is something else.
    """
    parts = _split(text)
    name = parts.path.removeprefix("/")
    if not NAME.fullmatch(name):
        raise BadAddress(f"{text!r} names no actor; expected 'ws://host:port/name'")
    return _address(text, parts), name


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise BadAddress(f"{text!r} is not an address: {error}") from None


def _address(text: str, parts: SplitResult) -> Address:
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadAddress(f"{text!r} is not an address: {error}") from None
    plain = not (parts.query or parts.fragment or parts.username)
    if parts.scheme not in ("ws", "wss") or not host or port is None or not plain:
        raise BadAddress(f"{text!r} is not an address; expected 'ws://host:port' or 'wss://host:port'")
    return Address(parts.scheme == "wss", host, port)

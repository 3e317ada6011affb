"""Where a worker is: one process that can be a server or the crypto provider of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from protocols.errors import ClusterError

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Worker:
    """A worker by its address.

    Args:
        address: "localhost:4000", "ws://host:port" or "wss://host:port". Port 0 lets a worker that the cluster starts choose its port.
        data: folder in which a worker that the cluster starts keeps shares; None: it keeps none. Each worker needs one of its own. A
            worker that runs already has the one that it was started with.
        name: the common name that its certificate must have (wss://); None: any that the authority has signed for its host.

    Attributes:
        name: that name, or "".
        url: ws:// or wss://, with a port.

    Raises:
        ClusterError: the address cannot be understood.

    Example:
        >>> Worker("localhost:4000").url
        'ws://127.0.0.1:4000'
    """

    def __init__(self, address: str, *, data: str | os.PathLike[str] | None = None, name: str | None = None) -> None:
        self.name = name or ""
        self.data = None if data is None else Path(data)
        try:
            parts = urlsplit(address if "://" in address else f"ws://{address}")
            port = parts.port
        except ValueError:  # no number, or no IPv6 address between brackets
            parts, port = urlsplit(""), None
        if parts.scheme not in ("ws", "wss") or not parts.hostname or port is None or parts.path not in ("", "/"):
            raise ClusterError(f"{address!r} is not the address of a worker; expected 'host:port', 'ws://host:port' or 'wss://host:port'")
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
        self.url = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def local(self) -> bool:
        """Whether it is on this machine, so that a cluster may start it."""
        return urlsplit(self.url).hostname in LOOPBACK

    @property
    def address(self) -> str:
        """host:port."""
        return self.url.partition("://")[2]

    @property
    def port_is_free_choice(self) -> bool:
        """Whether the worker may choose its port."""
        return self.url.endswith(":0")

    def __repr__(self) -> str:
        return f"Worker({self.url!r})"

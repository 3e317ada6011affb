"""`/healthz` and `/metrics`: what a system answers to a GET, on its own port and on one of this machine alone.

Whoever can connect may read `/healthz`, which says whether the system works. Who may read `/metrics` is for `Observing` to say: they show
who uses what how much. A web page that has a browser of this machine ask for it is refused by the name that it asks under.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from actors.identity.caller import common_name
from actors.observing.counts import SystemCounts
from actors.observing.figures import Figure

HEALTH, METRICS = "/healthz", "/metrics"
WITHIN = 5.0
"""Seconds that the figures may take."""


@dataclass(frozen=True)
class Shown:
    """What there is to be seen.

    Attributes:
        ailments: why the system does not work, in words for everybody; empty if it does.
        figures: collects them; slow.
        counts: of the system.
        watchers: see `Observing`.
    """

    ailments: Callable[[], Collection[str]]
    figures: Callable[[], Awaitable[Collection[Figure]]]
    counts: SystemCounts
    watchers: Collection[str]

    async def answer(
        self, connection: ServerConnection, request: Request, certificate: bytes | None, *, encrypted: bool
    ) -> Response | None:
        """Return the page that was asked for; None: it is none of these.

        Args:
            connection: whose request it is.
            request: the GET.
            certificate: that the other side has shown, DER.
            encrypted: whether it came over TLS.
        """
        path = request.path.partition("?")[0]
        if path == HEALTH:
            ailments = self.ailments()
            status = HTTPStatus.SERVICE_UNAVAILABLE if ailments else HTTPStatus.OK
            return connection.respond(status, "".join(f"{line}\n" for line in ailments or ["ok"]))
        if path != METRICS:
            return None
        why = self._refusal(connection, request, certificate, encrypted=encrypted)
        if why:
            return connection.respond(HTTPStatus.FORBIDDEN, f"{why}\n")
        try:
            async with asyncio.timeout(WITHIN):
                exposition = await asyncio.to_thread(importlib.import_module, "actors.observing.exposition")
                figures = await self.figures()
        except TimeoutError:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"the figures took more than {WITHIN:g} s\n")
        response = connection.respond(HTTPStatus.OK, "")
        response.body = exposition.exposed(figures, self.counts.durations)
        del response.headers["Content-Type"], response.headers["Content-Length"]
        response.headers["Content-Type"], response.headers["Content-Length"] = exposition.CONTENT_TYPE, str(len(response.body))
        return response

    def _refusal(self, connection: ServerConnection, request: Request, certificate: bytes | None, *, encrypted: bool) -> str:
        """Why whoever asks must not read the metrics; empty if they may."""
        if encrypted:
            name = "" if certificate is None else common_name(certificate)
            return "" if name and name in self.watchers else "the metrics are for those who are named for them: see docs/observability.md"
        place = connection.remote_address
        if not place or not _is_loopback(str(place[0])):
            return "in the clear the metrics are for this machine only: use --metrics-port, or TLS"
        asked = request.headers.get("Host", "")
        return "" if _is_loopback(asked) else "the metrics are at 127.0.0.1 or localhost, under no other name"


def _is_loopback(host: str) -> bool:
    """Whether a host, with a port or without, is this machine itself."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host if host.count(":") > 1 else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

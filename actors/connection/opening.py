"""How connections come to be: dialing a system, and listening for others. `websocket.py` runs them once they are open."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, cast

from websockets.asyncio.client import connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import InvalidMessage, InvalidStatus, WebSocketException
from websockets.http11 import Request, Response

from actors.address import Address
from actors.connection.home import Home
from actors.connection.peer import Peer
from actors.connection.websocket import (
    CLOSE_WITHIN,
    FRAGMENT,
    OPEN_WITHIN,
    PING_EVERY,
    PING_WITHIN,
    REFUSED,
    WHOLE,
    Link,
    brief,
    certificate_of,
)
from actors.connection.wire import WORDS
from actors.credentials.files import credentials_of
from actors.errors import AddressInUse, BadAddress, ConnectFailed, InsecureAddress, LinkError, WireError
from actors.guard.awake import Awake
from actors.guard.door import Door, Listener
from actors.guard.limited_log import LimitedLog
from actors.guard.progress import WatchedClient, WatchedServer
from actors.guard.refusals import Witnessed, explained, refused_by_other
from actors.guard.words import shown
from actors.identity.published import kept_in_the_clear, reached
from actors.observing.pages import HEALTH, METRICS, Shown

LOOPBACK = "127.0.0.1"
AT_ONCE = 16
"""Connections to the port for pages that may be open at once."""

log = logging.getLogger(__name__)
log_of_websockets = logging.getLogger(f"{__name__}.server")
log_of_websockets.setLevel(logging.WARNING)  # it tells of each connection that strangers open
log_of_websockets.addFilter(lambda record: record.msg != "opening handshake failed")  # strangers cause it, with a traceback each


Refusal = Callable[[bytes | None], tuple[str, str] | None]
"""Why the holder of a certificate (DER) is not to be connected to: as it is told, and as it is said here; None: it may be."""


async def dial(
    address: Address,
    home: Home,
    *,
    limit: int,
    tls: ssl.SSLContext | None,
    keep: Callable[[Link], None],
    refusal: Refusal = lambda certificate: None,
    busy: int = 0,
) -> Peer:
    """Open a connection and exchange greetings.

    Args:
        address: of the other system.
        home: this system.
        limit: the largest message that is taken, in bytes.
        tls: for wss; None for the certificates that the operating system trusts.
        keep: is given the link, to run it and to close it with the system.
        refusal: is asked before anything of the other side is handled.
        busy: seconds for which the loop of this system may be busy.

    Raises:
        ConnectFailed: nobody answers there, or not with this protocol, or somebody who is refused.
        VersionMismatch: another version is spoken there.
    """
    opened: list[WatchedClient] = []

    class Remembered(WatchedClient):
        """Known also if it could not be opened, for the reason."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    try:
        async with Awake(OPEN_WITHIN):
            await connect(
                reached(address) if kept_in_the_clear(address) else str(address),  # localhost could be ::1, where somebody else may listen
                **(await _secured(address, tls or ssl.create_default_context()) if address.secure else {}),
                proxy=None,
                open_timeout=None,
                user_agent_header=None,
                create_connection=Remembered,
                **_of_each_end(limit),
            )
    except (OSError, TimeoutError, WebSocketException) as error:
        why = _unopened(address, error, opened[-1].error if opened else None, tls)
        if isinstance(error, ssl.SSLCertVerificationError):
            log_refused(home, why)
        raise ConnectFailed(why) from None
    if refused := refusal(certificate_of(opened[-1])):
        told, why = refused
        await opened[-1].close(REFUSED, brief(told))
        log_refused(home, why)
        raise ConnectFailed(why)
    link = Link(opened[-1], home, address=str(address), limit=limit, busy=busy)
    keep(link)
    try:
        async with Awake(OPEN_WITHIN):
            await asyncio.shield(link.peer.greeted)
    except BaseException as error:
        await opened[-1].close()
        if isinstance(error, WireError) or not isinstance(error, (LinkError, TimeoutError)):
            raise
        why = str(error) or link.peer.introduction.missing() or f"no greeting within {OPEN_WITHIN:g} s"
        raise ConnectFailed(f"{address} does not speak this protocol: {why}") from None
    return link.peer


def log_refused(home: Home, why: str) -> None:
    """Log that this system has refused whoever listens where it has dialed. Of a process that nobody dials, the error says it all."""
    if home.listens:
        home.log.write(log, logging.WARNING, "refused here", "refused by this system: %s", why)


async def _secured(address: Address, tls: ssl.SSLContext) -> dict[str, Any]:
    """Connect a socket for TLS whose failure the other side is told of."""
    loop = asyncio.get_running_loop()
    failed: OSError | None = None
    for family, kind, protocol, _, place in await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.setblocking(False)
            await loop.sock_connect(made, place)
        except OSError as error:
            made.close()
            failed = failed or error
            continue
        except BaseException:
            made.close()
            raise
        return {"sock": made, "ssl": Witnessed.dialing(tls, made)}
    raise failed or OSError(f"{address.host} has no address")


def _of_each_end(limit: int) -> dict[str, Any]:
    """Return the settings of a connection that are the same for who dials and who listens."""
    return {
        "compression": None,
        "max_size": (limit + WHOLE, WHOLE + FRAGMENT),
        "close_timeout": CLOSE_WITHIN,
        "ping_interval": PING_EVERY,
        "ping_timeout": PING_WITHIN,
    }


def _unopened(address: Address, error: Exception, cause: Exception | None, tls: ssl.SSLContext | None) -> str:
    """Why there is no connection: `error` is what opening it raised, `cause` what ended the socket under it, `tls` what we showed."""
    if isinstance(error, InvalidStatus):
        body = shown((error.response.body or b"").decode(errors="replace").strip(), WORDS)
        return f"{address} refused the connection: {error.response.status_code} {body}".rstrip()
    if cause is not None and refused_by_other(cause):
        return f"{address} refused the connection: {explained(cause, tls)}"
    if isinstance(error, ssl.SSLError):
        return f"{address} cannot be trusted or reached: {explained(error, tls)}"
    if type(error) is TimeoutError:  # not one of the operating system
        return f"nobody answers at {address}: TimeoutError: no connection within {OPEN_WITHIN:g} s"
    text = f"nobody answers at {address}: {type(error).__name__}: {shown(str(error))}"
    if isinstance(error, (InvalidMessage, ConnectionResetError)):
        hint = "whether it listens on wss://, and demands a certificate" if address.secure else "whether it wants wss://"
        return f"{text}; the log there may say why, or check {hint}"
    return text


async def listen(
    address: Address,
    home: Home,
    *,
    limit: int,
    tls: ssl.SSLContext | None,
    door: Door,
    run: Callable[[Link], Awaitable[None]],
    pages: Shown,
    busy: int = 0,
) -> tuple[list[Server], int]:
    """Listen for connections; return the servers, one for each address that the host has here, and their port.

    Args:
        address: to bind; port 0 chooses one, at the first address of the host.
        home: this system.
        limit: the largest message that is taken, in bytes.
        tls: for wss.
        door: counts the connections, and refuses those that are too many.
        run: runs a link as long as its connection lasts.
        pages: what it answers who asks for a page.
        busy: seconds for which the loop of this system may be busy.

    Raises:
        AddressInUse: somebody else listens there.
        BadAddress: it is no address of this machine.
        InsecureAddress: wss without certificates.
    """
    if address.secure and tls is None:
        raise InsecureAddress(f"{address} needs a certificate; give the system ssl=... with an ssl.SSLContext for servers")
    secured = Witnessed.listening(tls, home.log) if tls is not None and address.secure else None
    credentials = credentials_of(tls)
    door.open()

    async def let_in(connection: ServerConnection, request: Request) -> Response | None:
        name, certificate = connection.remote_address, certificate_of(connection)
        host = str(name[0]) if name else "somebody"
        refused = credentials.refusal(certificate) if credentials is not None else ""
        if refused:
            home.log.write(log, logging.WARNING, "refused", "a connection from %s was refused: %s", host, refused)
            return connection.respond(403, f"{refused}\n")
        page = await pages.answer(connection, request, certificate, encrypted=secured is not None)
        if page is not None:
            return page
        reason = door.refusal(_descriptor(connection), host, certificate)
        return connection.respond(503, f"{reason}\n") if reason else None

    async def handle(connection: ServerConnection) -> None:
        await run(Link(cast(WatchedServer, connection), home, address="", limit=limit, busy=busy))

    async def served(listener: Listener) -> Server:
        return await serve(
            handle,
            sock=listener,
            ssl=secured,
            origins=[None],  # no web page may talk to us
            process_request=let_in,
            open_timeout=OPEN_WITHIN,
            server_header=None,
            logger=log_of_websockets,
            create_connection=WatchedServer,
            **_of_each_end(limit),
        )

    try:
        servers = [await served(listener) for listener in await _bound(address, door)]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{address} is in use by another process; choose another port, or 0 for any that is free") from None
        raise BadAddress(f"cannot listen on {address}: {error}") from None
    return servers, next(iter(servers[0].sockets)).getsockname()[1]


async def listen_for_pages(port: int, pages: Shown, lines: LimitedLog) -> Server:
    """Answer with pages, and nothing else, at a port of this machine alone, in the clear.

    Args:
        port: on 127.0.0.1; 0 chooses one.
        pages: what is answered.
        lines: takes what goes into the log.

    Raises:
        AddressInUse: somebody else listens there.
        BadAddress: this process may not listen there.
    """

    async def turned_away(connection: ServerConnection) -> None:
        """Nobody gets here: `answered` has answered."""

    async def answered(connection: ServerConnection, request: Request) -> Response:
        page = await pages.answer(connection, request, None, encrypted=False)
        return page if page is not None else connection.respond(404, f"there are {HEALTH} and {METRICS}\n")

    try:
        listener = Listener.bind_to((LOOPBACK, port), socket.AF_INET, Door(AT_ONCE, AT_ONCE, lines))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"port {port} of {LOOPBACK}, for metrics, is in use by another process; choose another one") from None
        raise BadAddress(f"cannot listen on port {port} of {LOOPBACK} for metrics: {error}") from None
    return await serve(
        turned_away,
        sock=listener,
        process_request=answered,
        open_timeout=OPEN_WITHIN,
        server_header=None,
        logger=log_of_websockets,
        max_size=0,
    )


async def _bound(address: Address, door: Door) -> list[Listener]:
    """Sockets that are bound to the addresses of a host."""
    places = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    places.sort(key=lambda one: one[0] != socket.AF_INET)  # localhost is dialed as 127.0.0.1
    found = {place: family for family, _, _, _, place in places}
    listeners: list[Listener] = []
    try:
        for place, family in list(found.items())[: None if address.port else 1]:
            listeners.append(Listener.bind_to(place, family, door))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _descriptor(connection: ServerConnection) -> int:
    raw = connection.transport.get_extra_info("socket")
    return -1 if raw is None else raw.fileno()

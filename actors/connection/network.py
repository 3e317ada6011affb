"""The connections of one system: those it accepts, those it opens, and their end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import cast
from weakref import WeakValueDictionary

from websockets.asyncio.server import Server

from actors.address import Address
from actors.connection import opening, showing
from actors.connection.dialed import Dialed
from actors.connection.home import Home
from actors.connection.peer import Peer
from actors.connection.websocket import Link
from actors.credentials.files import Credentials, credentials_of
from actors.errors import ConnectFailed, SystemClosed
from actors.guard.door import Door
from actors.identity.caller import common_name
from actors.identity.published import kept_in_the_clear
from actors.observing.figures import Figure
from actors.observing.pages import Shown

WHY_CLOSED = "the system was closed"


class Network:
    """Opens when the system opens, closes when it closes.

    Args:
        home: the system.
        listen: where others may connect, or None.
        limit: the largest message that is taken, in bytes.
        door: counts the connections that are accepted.
        server_tls, client_tls: for wss.
        allow_plaintext: permit `ws://` to and from other machines.
        named: address -> the common name that the certificate shown there must have.
        known_only: who is dialed on loopback without certificates must prove to run for the same user.
        busy: seconds for which the loop of the system may be busy, as others are told.

    Attributes:
        metrics_address: where metrics are read in the clear, on this machine, if they have a port of their own; otherwise empty.

    Raises:
        InsecureAddress: plaintext to other machines that is not permitted.
    """

    def __init__(
        self,
        home: Home,
        listen: Address | None,
        *,
        limit: int,
        door: Door,
        server_tls: ssl.SSLContext | None,
        client_tls: ssl.SSLContext | None,
        allow_plaintext: bool,
        named: Mapping[str, str],
        known_only: bool = False,
        busy: int = 0,
    ) -> None:
        if listen is not None:
            listen.check_encryption(allow_plaintext)
        self._home = home
        self._listen = listen
        self._limit, self._busy = limit, busy
        self._door = door
        self._server_tls, self._client_tls = server_tls, client_tls
        self._allow_plaintext = allow_plaintext
        self._named, self._known_only = dict(named), known_only
        self._open = False
        self._servers: list[Server] = []
        self._dialed: WeakValueDictionary[str, Dialed] = WeakValueDictionary()
        self._in_use: dict[asyncio.Task[None], Dialed] = {}
        self._links: dict[asyncio.Task[None], Link] = {}
        found = (credentials_of(server_tls), credentials_of(client_tls))
        self._credentials: set[Credentials] = {one for one in found if one is not None}
        self._watching: list[Callable[[], None]] = []
        observer = home.observer
        self.metrics_address = ""
        self._metrics_port = observer.settings.metrics_port
        self._pages = Shown(
            lambda: showing.ailments(home, self._credentials), self._figures, observer.counts, frozenset(observer.settings.watchers)
        )

    async def open(self) -> str:
        """Listen, if this system should; return the address, with the real port."""
        address = ""
        if self._listen is not None:
            self._servers, port = await opening.listen(
                self._listen,
                self._home,
                limit=self._limit,
                tls=self._server_tls,
                door=self._door,
                run=self._run,
                pages=self._pages,
                busy=self._busy,
            )
            address = str(Address(self._listen.secure, self._listen.host, port))
        if self._metrics_port is not None:
            try:
                await self._listen_for_pages(self._metrics_port)
            except BaseException:
                self.stop_listening()
                raise
        loop = asyncio.get_running_loop()

        def look_again() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._end_revoked)  # another thread may have read the files

        self._watching = [one.on_change(look_again) for one in self._credentials]
        self._open = True
        return address

    async def _listen_for_pages(self, port: int) -> None:
        server = await opening.listen_for_pages(port, self._pages, self._home.log)
        self._servers.append(server)
        self.metrics_address = "http://{}:{}/metrics".format(*next(iter(server.sockets)).getsockname())

    def stop_listening(self) -> None:
        """Accept no new connections and open none; those that are open go on."""
        self._open = False
        for server in self._servers:
            server.close(close_connections=False)

    async def close(self) -> None:
        """End all connections, once what waits has been written."""
        for end in self._watching:
            end()
        links = dict(self._links)
        await asyncio.gather(*(link.close(WHY_CLOSED) for link in links.values()))
        if links:
            await asyncio.wait(links)
        for server in self._servers:
            await server.wait_closed()

    def to(self, address: Address) -> Dialed:
        """Return the transport to the system at an address; it connects when it is needed.

        It lives as long as a reference uses it, or its connection is open: addresses that are only named leave nothing behind.

        Raises:
            InsecureAddress: plaintext to another machine that is not permitted.
        """
        address.check_encryption(self._allow_plaintext)
        key = str(address)
        dialed = self._dialed.get(key)
        if dialed is None:
            dialed = self._dialed[key] = Dialed(key, partial(self._dial, address), timeout=self._home.timeout)
        return dialed

    async def _dial(self, address: Address, dialed: Dialed) -> Peer:
        if not self._open:
            raise SystemClosed(f"{address} cannot be reached: this system is not open")
        keep = partial(self._keep, dialed)
        peer = await opening.dial(
            address,
            self._home,
            limit=self._limit,
            tls=self._client_tls,
            keep=keep,
            refusal=partial(self._refused_at, address),
            busy=self._busy,
        )
        if self._known_only and kept_in_the_clear(address) and not peer.caller.same_user:
            await next(link for link in self._links.values() if link.peer is peer).close("it has not proven to run for the same user")
            raise ConnectFailed(
                f"whoever listens at {address} has not proven to run for the same user of this machine as this process: it may have taken"
                " the port of a process that has ended, or HOME and XDG_RUNTIME_DIR differ between the two. Between users use wss://"
            )
        return peer

    def _refused_at(self, address: Address, certificate: bytes | None) -> tuple[str, str] | None:
        """Why whoever listens at an address is not to be connected to: as it is told, and as it is said here."""
        if reason := self._refusal(certificate):
            return reason, f"{address} cannot be trusted: {reason}"
        expected, shown = self._named.get(str(address)), "" if certificate is None else common_name(certificate)
        if expected is not None and shown != expected:
            why = f"{address} has shown the certificate of {shown[:100]!r}; that of {expected!r} is expected there"
            return f"the certificate of {expected!r} is expected there", why
        return None

    def _refusal(self, certificate: bytes | None) -> str:
        """Why there is to be no new connection to the holder of a certificate; empty if there may be."""
        return next((reason for one in self._credentials if (reason := one.refusal(certificate))), "")

    def _revocation(self, certificate: bytes | None) -> str:
        """Why the certificate at the other end of an open connection does not count any more; empty if it does."""
        return next((reason for one in self._credentials if (reason := one.revocation(certificate))), "")

    def _end_revoked(self) -> None:
        """End the connections to holders of certificates that were revoked, with all that is under way over them."""
        for task, link in self._links.items():
            reason = self._revocation(link.peer.caller.certificate)
            if reason:
                link.cut(task, reason)

    def _keep(self, dialed: Dialed, link: Link) -> None:
        task = asyncio.create_task(link.run())
        self._links[task], self._in_use[task] = link, dialed
        task.add_done_callback(self._drop)

    def _drop(self, task: asyncio.Task[None]) -> None:
        del self._links[task], self._in_use[task]

    async def _figures(self) -> list[Figure]:
        """Put together what this system shows of itself."""
        home, observer, now = self._home, self._home.observer, datetime.now(UTC)
        found = [*observer.counts.figures(), *showing.figures_of_connections([link.peer for link in self._links.values()], home.log)]
        if self._credentials:
            found += showing.figures_of_credentials(min(self._credentials, key=lambda one: one.own.until), now)
        if observer.audit is not None:
            found += observer.audit.figures()
        return found + await showing.figures_of_actors(home)

    async def _run(self, link: Link) -> None:
        """Run an accepted connection in the task that the server made for it."""
        if not self._open:
            await link.close(WHY_CLOSED)
            return
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if refused := self._refusal(link.peer.caller.certificate):  # since it was let in
            await link.refuse(refused)
            return
        self._links[task] = link
        observer, peer = self._home.observer, link.peer
        observer.met("connected", peer.caller, peer.label)
        try:
            await link.run()
        finally:
            del self._links[task]
            observer.met("disconnected", peer.caller, peer.label, reason=peer.closed.why if peer.closed is not None else "")

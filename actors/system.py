"""The actors of one process: where they are spawned and found, and how they are reached from elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from actors import limits, shipping
from actors.actor import Actor
from actors.address import Address, parse_actor
from actors.allocation import keep_freed_memory
from actors.connection.dialed import Dialed
from actors.connection.network import Network
from actors.connection.peer import peer_of
from actors.errors import ActorNotFound, ActorStopped, CallTimeout, LinkError, OneWayFailed, SystemClosed
from actors.guard.door import Door
from actors.guard.limited_log import LimitedLog
from actors.guard.words import shown, trace
from actors.identity import LOCAL, Caller, caller
from actors.identity.proofs import Identity
from actors.identity.published import kept_in_the_clear
from actors.messages.portable import told
from actors.messages.reference import ActorRef, as_reference
from actors.messages.schema import Message, messages_of, reference_type
from actors.observing.observer import Observer, Observing
from actors.processes import SECRET_BYTES, told_to_end
from actors.running.cell import Cell
from actors.running.directory import Found
from actors.running.memory import Memory
from actors.running.names import Names
from actors.running.roles import Roles, check_role
from actors.supervision import NEVER, Restart, Terminated

A = TypeVar("A", bound=Actor)

log = logging.getLogger(__name__)


class ActorSystem:
    """Spawns actors in this process and reaches those of others. An async context manager; leaving it ends all that it began.

    Args:
        listen: `ws://host:port` or `wss://host:port` to be reached at; port 0 chooses one. None: only answers over connections that this
            system opened, and only for actors whose references it has sent.
        timeout: default deadline of calls in seconds; None for none.
        trust: secrets whose holders may run code here (`spawn_on`, `run_on`). Empty: nobody may.
        secrets: address of a node -> secret to run code there. `start_node` adds its own.
        mailbox: default bound of a mailbox: how many messages may be under way to an actor before senders wait. It counts messages, not
            bytes: over each connection up to `mailbox` * `message_limit` bytes may wait for one actor.
        message_limit: largest message that is taken, in bytes, from 1 MiB to 1 TiB. Who sends a larger one is told so, with both sizes.
        max_connections: how many connections from others may be open at once. Fewer if this process may not open so many files
            (`ulimit -n`); its soft limit is raised as far as the hard one allows. More are refused, with the reason and one log line.
        max_connections_per_peer: how many of them may belong to one certificate, or without certificates to one host.
        ssl: certificate of this system, for listening on wss.
        connect_ssl: whom to trust when connecting to wss; None for the authorities that the operating system trusts.
        allow_plaintext: permit `ws://` to and from other machines.
        advertise: the address that others reach this system at, if it is not the one it listens on. A system that listens on all
            addresses (0.0.0.0) and advertises none is reached, through references that it sends, over the same connection only.
        roles: of whoever sends a message from another process. With it a message is handled only if one of its `by` is among the roles
            of its sender, or is `ANYONE`; all others are refused before they are looked at, and leave one line in the log. None: whoever
            can connect may send everything.
        refer: whether references in messages may lead to other systems than the two ends of a connection, so that a message can make
            this one connect to an address that its sender names.
        named: address -> the common name that the certificate shown there must have; others are refused when they are dialed.
        for_user: show, on loopback, to systems of the same user that this one is, too.
        known_only: dial, on loopback without certificates, systems of the same user only: whoever has taken the port of one that has ended
            is not dialed.
        busy: seconds, up to an hour, for which this event loop may be busy with other work: so long others wait for it to answer a ping.
        observing: how what happens here can be seen, and by whom; None: metrics from this machine only, and no audit log.
        on_error: called with a `OneWayFailed` for each message without reply that failed; the default logs it.

    Example:
        >>> async with ActorSystem() as system:
        ...     counter = await system.spawn(Counter, start=1, name="counter")
        ...     print(await counter.add(3))
    """

    def __init__(
        self,
        listen: str | None = None,
        *,
        timeout: float | None = 30.0,
        trust: Collection[bytes] = (),
        secrets: Mapping[str, bytes] | None = None,
        mailbox: int = 1024,
        message_limit: int = limits.MESSAGE_LIMIT,
        max_connections: int = 4096,
        max_connections_per_peer: int = 1024,
        ssl: tls.SSLContext | None = None,
        connect_ssl: tls.SSLContext | None = None,
        allow_plaintext: bool = False,
        advertise: str | None = None,
        roles: Roles | None = None,
        refer: bool = True,
        named: Mapping[str, str] | None = None,
        for_user: bool = True,
        known_only: bool = False,
        busy: int = 0,
        observing: Observing | None = None,
        on_error: Callable[[OneWayFailed], None] | None = None,
    ) -> None:
        self.timeout = timeout
        self.for_user = for_user
        self.identity: Identity | None = None
        self._roles, self.refer, self.message_limit = roles, refer, limits.message_limit(message_limit)
        self.secrets = dict(secrets or {})
        self.advertised = str(Address.parse(advertise)) if advertise else ""
        self._listen = Address.parse(listen) if listen is not None else None
        self._trust = tuple(trust)
        if any(len(secret) < SECRET_BYTES for secret in self._trust):
            raise ValueError(f"trust: a secret has at least {SECRET_BYTES} random bytes; secrets.token_bytes makes one")
        for what, most in (("max_connections", max_connections), ("max_connections_per_peer", max_connections_per_peer)):
            if most < 1:
                raise ValueError(f"{what}={most}: a system that listens takes at least one connection")
        self._mailbox = mailbox
        self.log, self.observer = LimitedLog(), Observer(observing or Observing())
        self._scope = contextlib.AsyncExitStack()
        self._on_error = on_error or self._log_error
        self._address = ""
        self._open = False
        self.names = Names()
        self.memory = Memory(self.cell, self.report, timeout=timeout)
        self._network = Network(
            self,
            self._listen,
            limit=self.message_limit,
            door=Door(max_connections, max_connections_per_peer, self.log),
            server_tls=ssl,
            client_tls=connect_ssl,
            allow_plaintext=allow_plaintext,
            named=named or {},
            known_only=known_only,
            busy=busy,
        )

    @property
    def address(self) -> str:
        """Where this system listens, with the real port; empty if it does not listen."""
        return self._address

    @property
    def metrics_address(self) -> str:
        """Where metrics are read that have a port of their own; empty if they have none."""
        return self._network.metrics_address

    @property
    def listens(self) -> bool:
        """Whether anybody may connect."""
        return self._listen is not None

    # Life.

    async def __aenter__(self) -> Self:
        if self._listen is not None:
            keep_freed_memory()
        await self._scope.enter_async_context(self.observer.opened())
        try:
            self._address = await self._network.open()
        except BaseException:
            await self._scope.aclose()
            raise
        if not (self.advertised or self._listen is None or self._listen.wildcard):
            self.advertised = self._address
        self.memory.address = self.advertised
        if self._listen is not None and kept_in_the_clear(self._listen):
            self.identity = Identity(Address.parse(self._address))
        self._open = True
        if self._trust:
            await self.spawn(shipping.Shipyard, self._trust, self.memory.stop, name=shipping.SHIPYARD)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open = False
        self._network.stop_listening()
        for cell in self.names.youngest_first():
            await cell.stop("its system was closed")
        await self._network.close()
        await self._scope.aclose()
        if self.identity is not None:
            self.identity.withdraw()

    async def serve_forever(self) -> None:
        """Wait until the process is told to end by SIGINT or SIGTERM, or the task is cancelled."""
        await told_to_end()

    # Actors.

    async def spawn(
        self,
        actor: type[A],
        /,
        *args: Any,
        name: str | None = None,
        restart: Restart | None = None,
        mailbox: int | None = None,
        **kwargs: Any,
    ) -> A:
        """Start an actor in this process.

        Args:
            actor: its class.
            *args: for its constructor, as they are. After a crash it is built from them again.
            name: for others to find it by; letters, digits, '.', '_', '-'. None: made from the class.
            restart: how often it is rebuilt after a crash; None: never.
            mailbox: how many messages may be under way to it before senders wait.
            **kwargs: for its constructor, too.

        Returns:
            A reference to it. It is declared as `A`, so that type checkers know its messages; at run time it is an `ActorRef` that has
            the messages of the actor, and `with_options`, and nothing else.

        Raises:
            NameTaken: an actor of that name lives here.
            TypeError: the class is not an actor, or an annotation of a message cannot be sent.
            Exception: whatever its constructor or `started` raised.
        """
        if not self._open:
            raise SystemClosed(f"{actor.__name__} cannot be spawned: use the system inside 'async with ActorSystem() as system:'")
        messages = messages_of(actor)
        name = self.names.free(name, actor.__name__)
        ref = reference_type(actor)(self.memory, name)

        def build() -> Actor:
            instance = actor.__new__(actor)
            instance.system, instance.me = self, cast(Any, ref)
            instance.__init__(*args, **kwargs)  # type: ignore[misc]
            return instance

        cell = Cell(
            f"{actor.__name__} {str(ref)!r}",
            actor.__qualname__,
            build,
            messages,
            capacity=self._mailbox if mailbox is None else mailbox,
            restart=restart or NEVER,
            forget=lambda reason: self.names.forget(name, reason),
        )
        self.names.add(name, cell)
        try:
            await cell.start()
        except BaseException as error:
            await cell.stop(f"it did not start: {told(error)}")
            raise
        return cast(A, ref)

    async def connect(self, address: str, actor: type[A]) -> A:
        """Return a reference to an actor elsewhere.

        Opens the connection if there is none yet, and checks that the actor is there and answers the messages of `actor`.

        Args:
            address: `ws://host:port/name`.
            actor: its class, or a base class that declares the messages.

        Raises:
            ActorNotFound: nobody of that name is there, or it does not answer all the messages.
            ConnectFailed: nobody listens there.
            CallTimeout: somebody does, and did not answer within the default deadline.
            InsecureAddress: plaintext to another machine.
            BadAddress: the address cannot be understood.
        """
        where, name = parse_actor(address)
        ref = self.reference(str(where), name)
        try:
            async with asyncio.timeout(self.timeout) as deadline:
                found = await self._found(ref, name)
        except TimeoutError:
            if deadline.expired():
                raise CallTimeout(f"{where} did not say within {self.timeout:g} s whether {name!r} is there") from None
            raise
        missing = sorted(set(messages_of(actor)) - set(found.messages))
        if missing:
            raise ActorNotFound(
                f"the actor at {address} is a {found.class_name}, which answers {', '.join(found.messages) or 'nothing'}; "
                f"{actor.__qualname__} needs {', '.join(missing)}"
            )
        return cast(A, reference_type(actor)(ref._transport, name))

    async def _found(self, ref: ActorRef, name: str) -> Found:
        if isinstance(ref._transport, Dialed):
            return await ref._transport.find(name)
        cell = self.cell(name)
        return Found(cell.class_name, list(cell.messages), cell.mailbox.capacity)

    async def watch(self, ref: Actor | ActorRef) -> Terminated:
        """Wait until an actor has ended, or its connection is lost.

        Returns:
            The reference and the reason. For an actor that has ended already, at once.
        """
        watched = as_reference(ref)
        try:
            reason = await watched._transport.watch(watched._name)
        except (ActorNotFound, ActorStopped, CallTimeout, LinkError) as error:
            reason = str(error)
        return Terminated(ref, reason)

    def certificate(self, ref: Actor | ActorRef) -> bytes | None:
        """Return the certificate of the system that a received reference leads to: calls through it reach its holder only.

        Returns:
            The certificate, DER. It was verified if the `ssl` of this system demands certificates. None: there was none to show.

        Raises:
            MessageRejected: the reference does not go over the connection that it came by, but to an address, or to this system.
        """
        return peer_of(ref).caller.certificate

    def holder(self, ref: Actor | ActorRef) -> Caller:
        """Return who is at the other end of the connection that a received reference came by, if that is where it leads.

        Raises:
            MessageRejected: it leads elsewhere.
        """
        if as_reference(ref)._transport is self.memory and caller().local:
            return LOCAL
        return peer_of(ref).caller

    async def stop(self, ref: Actor | ActorRef) -> None:
        """End an actor of this system, or one that `spawn_on` started: its handlers are cancelled, its `stopped` hook runs.

        Raises:
            ActorNotFound, ActorStopped: it is not there (any more).
            MessageRejected: it belongs to another system.
        """
        stopped = as_reference(ref)
        address = stopped._transport.address
        if address in self.secrets and stopped._transport is not self.memory:
            await shipping.stop_on(self, address, stopped._name)
        else:
            await stopped._transport.stop(stopped._name)

    # Code on other nodes.

    @contextlib.asynccontextmanager
    async def start_node(self, address: str = "ws://127.0.0.1:0", *, ready_within: float = 20.0) -> AsyncIterator[str]:
        """Start a process that runs code for this system only; yield its address, and end it with the block."""
        async with shipping.started_node(self.secrets, address, ready_within=ready_within, limit=self.message_limit) as node:
            yield node

    async def spawn_on(self, node: str, actor: type[A], /, *args: Any, name: str | None = None, **kwargs: Any) -> A:
        """Start an actor on a node that trusts this system; class and arguments are sent there as code (cloudpickle).

        Raises:
            CodeNotTrusted: the node does not trust this system.
            NameTaken: an actor of that name lives there.
        """
        where = await shipping.spawn_on(self, node, actor, args, kwargs, name=name)
        return await self.connect(where, actor)

    async def run_on(self, node: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function on a node that trusts this system, in a thread there unless it is `async`; return its result, a plain value.

        Raises:
            CodeNotTrusted: the node does not trust this system.
        """
        return await shipping.run_on(self, node, function, args, kwargs)

    # What connections need from their system (`peer.Home`).

    def check(self, sender: Caller, cell: Cell, message: Message) -> None:
        """Refuse a message that its sender may not send.

        Raises:
            NotAllowed: it may be sent by others, or by nobody.
        """
        check_role(self._roles, sender, message, self.log)

    def cell(self, name: str) -> Cell:
        """Return the running actor of a name.

        Raises:
            ActorNotFound, ActorStopped: it is not there (any more).
        """
        return self.names.find(name, f"at {self._address}" if self._address else "in this system")

    def reference(self, address: str, name: str) -> ActorRef:
        """Return an untyped reference to an actor of the system at `address`; empty for this system."""
        if address in ("", self._address, self.advertised):
            return ActorRef(self.memory, name)
        return ActorRef(self._network.to(Address.parse(address)), name)

    def _log_error(self, error: OneWayFailed) -> None:
        cause = error.__cause__ or error
        self.log.write(log, logging.ERROR, "message without reply", "%s: %s", shown(str(error)), trace(cause))

    def report(self, what: str, error: BaseException) -> None:
        """Tell `on_error` of a message without reply that failed."""
        try:
            failed = OneWayFailed(f"{what} failed: {type(error).__name__}: {error}")
            failed.__cause__ = error
            self._on_error(failed)
        except Exception:
            log.exception("on_error failed")

"""The three workers of a cluster: found where they are, or started on this machine, and connected."""

from __future__ import annotations

import contextlib
from ssl import SSLContext
from types import TracebackType
from typing import Self

from actors import ActorError, ActorSystem, ChildFailed, ChildProcess, ConnectFailed, NotAllowed, limits
from protocols.authority.enrolment import ENROLMENT, Enrolment
from protocols.authority.presence import Presence
from protocols.authority.seats import Seats, helper_of, seats
from protocols.clusters.connections import Links, actor_at, connected, unreachable
from protocols.clusters.roles import roles
from protocols.clusters.worker import Worker
from protocols.concurrency import at_once
from protocols.errors import ClusterError, WorkerUnreachable
from protocols.serving.hosting import Addresses
from protocols.workers.compute_server import ComputeServer

BUSY = 600
"""Seconds for which the event loop of a program that uses a cluster may be busy, as workers are told: it trains models, and predicts."""
START_WITHIN = 60.0
"""Seconds that a worker may take to start: two with compiled kernels at hand, more when they are compiled for the first time."""


class ThreeWorkers:
    """The three workers of a cluster, as whoever uses them reaches them: found or started, enrolled, connected. `Cluster` adds data.

    Attributes:
        equals: whether they are three equals.
        workers: the three workers; a crypto provider last.
        children: the processes that were started here, by the number of the worker.

    Args:
        servers, crypto_provider, auto_managed, timeout, ssl, allow_plaintext, message_limit: see `Cluster`.

    Raises:
        ClusterError: not three workers, or one worker in two roles.
        ValueError, TypeError: `message_limit` is out of its range, or not an integer.
    """

    def __init__(
        self,
        *servers: Worker,
        crypto_provider: Worker | None = None,
        auto_managed: bool = True,
        timeout: float = 30.0,
        ssl: SSLContext | None = None,
        allow_plaintext: bool = False,
        message_limit: int = limits.MESSAGE_LIMIT,
    ) -> None:
        self.equals = crypto_provider is None
        self.workers = _three(servers, crypto_provider)
        fixed = [worker.url for worker in self.workers if not worker.port_is_free_choice]
        if len(set(fixed)) != len(fixed):
            raise ClusterError("a cluster must be three different workers: one that is two of them learns all")
        self.auto_managed = auto_managed
        self._timeout, self._ssl, self._allow_plaintext = timeout, ssl, allow_plaintext
        self._message_limit = limits.message_limit(message_limit)
        self._stack = contextlib.AsyncExitStack()
        self._links: tuple[Links, ...] = ()
        self._presence: Presence | None = None
        self.children: dict[int, ChildProcess] = {}

    def system(self, *, known_only: bool) -> ActorSystem:
        """Make an actor system that can reach the workers, and those only that show the certificates of their names, if these are known.

        Args:
            known_only: on loopback only those of this user, unless plaintext is allowed between machines, where nobody is known.
        """
        plain = self._allow_plaintext
        return ActorSystem(
            timeout=self._timeout,
            connect_ssl=self._ssl,
            allow_plaintext=plain,
            named={worker.url: worker.name for worker in self.workers if worker.name},
            known_only=known_only and not plain,
            message_limit=self._message_limit,
            busy=BUSY,
        )

    @property
    def addresses(self) -> Addresses:
        """The urls of the workers in their roles, real ports included once they run. Among equals: for what needs two servers only."""
        return self.addresses_for("")

    def addresses_for(self, model: str) -> Addresses:
        """Return the same for a model of this name: among equals its roles."""
        first, second, third = (worker.url for worker in self.workers)
        return roles((first, second, third), helper_of(model)) if self.equals else Addresses((first, second), third)

    def seats_for(self, model: str) -> Seats:
        """Return who does what for a model of this name, by the places of the workers in this cluster."""
        return seats(self.equals, model)

    @property
    def links(self) -> Links:
        """The connections to the workers, in the roles of `addresses`.

        Raises:
            ClusterError: outside of the `async with` block.
        """
        return self.links_for("")

    def links_for(self, model: str) -> Links:
        """Return the connections to the workers in the roles of a model of this name.

        Raises:
            ClusterError: outside of the `async with` block.
        """
        if not self._links:
            raise ClusterError("the cluster is not running; use it inside 'async with cluster:'")
        return self._links[helper_of(model) if self.equals else 0]

    @property
    def presence(self) -> Presence:
        """What tells the crypto provider that this process is here.

        Raises:
            ClusterError: outside of the `async with` block.
        """
        if self._presence is None:
            raise ClusterError("the cluster is not running; use it inside 'async with cluster:'")
        return self._presence

    async def __aenter__(self) -> Self:
        if self._links:
            raise ClusterError("the cluster is running already; give each block a Cluster of its own")
        async with contextlib.AsyncExitStack() as stack:
            system = await stack.enter_async_context(self.system(known_only=True))
            stack.callback(self.children.clear)
            await at_once(*(self._find(number, system, stack) for number in range(3)))
            await at_once(*(self._enrol(system, worker) for worker in self.workers))
            self._links = tuple(await at_once(*(connected(system, addresses) for addresses in self._all_roles())))
            self._presence = await system.spawn(Presence)
            self._stack = stack.pop_all()
        return self

    async def enrol(self) -> None:
        """Tell those workers of this machine that were started again whose they are. Whoever does not answer is left to who uses it next.

        Raises:
            ClusterError: outside of the `async with` block, or a worker belongs to another cluster.
        """
        system = self.links.system

        async def told(worker: Worker) -> None:
            with contextlib.suppress(ActorError, WorkerUnreachable):
                await self._enrol(system, worker)

        await at_once(*(told(worker) for worker in self.workers))

    def _all_roles(self) -> list[Addresses]:
        """Return the roles by the place of the helper; with a crypto provider there is but one."""
        if not self.equals:
            return [self.addresses]
        first, second, third = (worker.url for worker in self.workers)
        return [roles((first, second, third), helper) for helper in range(3)]

    async def _find(self, number: int, system: ActorSystem, stack: contextlib.AsyncExitStack) -> None:
        """Connect to the worker; start it first if it is not running."""
        worker = self.workers[number]
        try:
            if not worker.port_is_free_choice:
                await system.connect(f"{worker.url}/server", ComputeServer)
                return
            reason = "its port is not chosen yet"
        except ConnectFailed as error:
            reason = str(error)
        except ActorError as error:
            raise unreachable(worker.url, error) from None
        if not (self.auto_managed and worker.local):
            raise WorkerUnreachable(f"{worker}: {reason}; start it there with: confide worker {worker.address}")
        try:
            limit = () if self._message_limit == limits.MESSAGE_LIMIT else ("--message-limit", str(self._message_limit))
            folder = () if worker.data is None else (str(worker.data),)
            child = await ChildProcess.start("protocols.workers.worker_process", *limit, worker.address, *folder, ready_within=START_WITHIN)
        except ChildFailed as error:
            raise WorkerUnreachable(f"{worker}: {reason}; and no worker could be started there: {error}") from None
        stack.push_async_callback(child.stop)
        self.children[number] = child
        worker.url = child.address

    async def _enrol(self, system: ActorSystem, worker: Worker) -> None:
        """Tell a worker of this machine and user whose it is. Others know it from their cluster file, or are somebody else's."""
        if not (worker.local and worker.url.startswith("ws://")):
            return
        first, second, third = (each.url for each in self.workers)
        enrolment = await actor_at(system, f"{worker.url}/{ENROLMENT}", Enrolment)
        with contextlib.suppress(NotAllowed):  # of another user, or of a cluster file: then this process is a client to it
            await enrolment.join((first, second, third))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._links, self._presence = (), None
        await self._stack.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(worker.url for worker in self.workers)})"


def _three(servers: tuple[Worker, ...], crypto_provider: Worker | None) -> tuple[Worker, Worker, Worker]:
    if crypto_provider is None:
        if len(servers) != 3:
            raise ClusterError(
                f"{len(servers)} workers were given and no crypto_provider=: three equals are needed, or two servers and a crypto provider"
            )
        return servers[0], servers[1], servers[2]
    if len(servers) != 2:
        raise ClusterError(f"{len(servers)} servers were given; the protocol runs between exactly two, with a crypto provider beside them")
    return servers[0], servers[1], crypto_provider

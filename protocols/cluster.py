"""Two servers and a crypto provider, or three equals: found where they are, or started on this machine, and connected."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import numpy.typing as npt

from actors import Actor, ActorError, ActorNotFound, ActorSystem, ChildFailed, ChildProcess, ConnectFailed, NotAllowed
from actors.guard import limits
from protocols.authority.enrolment import ENROLMENT, Enrolment
from protocols.authority.seats import Seats, helper_of, seats
from protocols.compute_server import ComputeServer
from protocols.concurrency import at_once
from protocols.crypto_provider import CryptoProvider
from protocols.errors import ClusterError, WorkerUnreachable
from protocols.hosting import Addresses
from protocols.presence import Presence
from protocols.roles import roles
from protocols.worker import Worker

if TYPE_CHECKING:
    from protocols.training.deposits import Deposited, Grant, Granting
    from protocols.training.kept import Use
    from protocols.training.terms import SharedArray

A = TypeVar("A", bound=Actor)

BUSY = 600
"""Seconds for which the event loop of a program that uses a cluster may be busy, as workers are told: it trains models, and predicts."""
START_WITHIN = 60.0
"""Seconds that a worker may take to start: two with compiled kernels at hand, more when they are compiled for the first time."""


class Cluster:
    """Two compute servers and a crypto provider, or three equals; no two of the three may collude.

    `Cluster(julia, greg, crypto_provider=me)`: the third worker deals randomness, always. `Cluster(julia, greg, me)`: the three are equals
    (honest majority). For each model and its training two of them evaluate and the third helps; which one follows from the model's name,
    so that this turns (see `protocols.preprocessing`, and there what leaks to whom). Rounds and bytes are the same in both forms. Everybody
    who uses a cluster of equals lists its workers in the same order.

    As a context manager it connects to each worker, and starts as a process of this machine those that nobody answers for (if
    `auto_managed`); these end with the block. A client needs no block: it passes the cluster to `connect`.

    Attributes:
        workers: the three workers; a crypto provider last.
        children: the processes that this cluster has started, by the number of the worker.

    Args:
        servers: the two servers; or the three equals.
        crypto_provider: the third worker beside two servers; it deals randomness and sees no masked value.
        auto_managed: start local workers that are not running.
        timeout: default deadline of a message in seconds.
        ssl: whom to trust, and our own certificate, for workers at wss:// addresses.
        allow_plaintext: permit ws:// to other machines. Whoever can read both servers' links then learns everything.
        message_limit: bytes of the largest message that this process, and workers that it starts, take: 1 MiB to 1 TiB. Weights and
            randomness travel in pieces that the receiver takes.

    Raises:
        ClusterError: not three workers, or one worker in two roles.
        ValueError, TypeError: `message_limit` is out of its range, or not an integer.

    Example:
        >>> async with Cluster(Worker("localhost:4000"), Worker("localhost:4001"), crypto_provider=Worker("localhost:4002")) as cluster:
        ...     ...
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
        """A new actor system that can reach the workers, and those only that show the certificates of their names, if these are known.

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
        """The same for a model of this name: among equals its roles."""
        first, second, third = (worker.url for worker in self.workers)
        return roles((first, second, third), helper_of(model)) if self.equals else Addresses((first, second), third)

    def seats_for(self, model: str) -> Seats:
        """Who does what for a model of this name, by the places of the workers in this cluster."""
        return seats(self.equals, model)

    @property
    def links(self) -> Links:
        """The connections to the workers, in the roles of `addresses`.

        Raises:
            ClusterError: outside of the `async with` block.
        """
        return self.links_for("")

    def links_for(self, model: str) -> Links:
        """The connections to the workers in the roles of a model of this name.

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

    async def store(self, name: str, array: npt.ArrayLike, *, classes: int | None = None) -> SharedArray:
        """Secret-shares an array among the servers, to train on it: neither sees more than its shape and what kind of numbers it holds.

        Steps: (1) encode: one integer an example becomes a one-hot row, other numbers get 16 fractional bits; (2) send x + lambda to both
        servers, each half of lambda to one of them, and both halves to the crypto provider; or to three equals the replicated shares of
        `protocols.training.replicated`, on which models with any helper can be trained. It stays there as long as this block.

        **Leaks** to the workers the shape, whether they are labels, whether all numbers are 0 or 1, and whether each row sums to 1.

        Args:
            name: what errors call it; the workers see it.
            array: (examples, ...) numbers between -512 and 512, best to about 1; or (examples,) integers, which are labels from 0.
            classes: for labels, how many there can be; the largest label and one if None, which the workers then learn.

        Raises:
            InputError: not numbers, too large, so small that nothing of them would be left in 16 fractional bits, or labels out of range.

        Warns:
            PrecisionWarning: columns spread over less than 256 steps of 2^-16; it names them.
            WorkerLost: a worker went away.
            ClusterError: outside of the `async with` block.
        """
        from protocols.training.stored import store  # noqa: PLC0415  it needs this module

        return await store(self, name, array, classes)

    async def deposit(
        self,
        name: str,
        array: npt.ArrayLike,
        *,
        classes: int | None = None,
        ids: Sequence[object] | None = None,
        allow: Iterable[str] | Mapping[str, Use] = (),
        use: Use | None = None,
    ) -> Grant:
        """Leaves shares of an array with the workers, for somebody to train on when its owner has gone; `confide share` does it for files.

        Each worker writes its part, encrypted under its own key, into its folder (`confide worker --data`). Afterwards see `load`.

        Args:
            name: under which it is found; 1 to 100 letters, digits, '.', '_' and '-'.
            array: as for `store`.
            classes: as for `store`.
            ids: for each example its record id. A digest of all of them, in their order, becomes public, so that nobody joins rows of
                different records by mistake. It hides no list that somebody can guess as a whole.
            allow: common names in the certificates of those who may train on it without a grant; or for each what it may do.
            use: what those may do who have the grant, and those in `allow` of whom nothing else is said; None: train as they like.

        Returns:
            The right to train on it, and to remove it. `Grant.to_give` is for others.

        Raises:
            InputError, PrecisionWarning: as for `store`.
            NameTaken: data of that name are kept there already.
            KeepsNothing: a worker was started without a folder.
            WorkerLost: a worker went away.
        """
        from protocols.training.deposits import deposit  # noqa: PLC0415  it needs this module

        return await deposit(self, name, array, classes=classes, ids=ids, allow=allow, use=use)

    async def load(self, *names: str, axis: int = 0, grants: Granting | Iterable[Granting] = ()) -> SharedArray:
        """Data that their owners have left with the workers, as one array to train on; it is there as long as this block.

        All parts are re-randomised: files that somebody copied before are worth nothing beside those of afterwards.

        Args:
            names: whose data. Those of several owners are put together: for x and y in the same order.
            axis: 0: each owner has other examples of the same features. 1: each has other features of the same examples, in the same
                order; the labels are those of one of them.
            grants: of the owners: `Grant` objects, files, or folders of files; none where the certificate of this process is enough.

        Raises:
            InputError: the parts do not fit each other.
            UnknownData: the workers keep no such data.
            NotGranted: their owner has not given the right.
            WorkerLost: a worker went away.
        """
        from protocols.training.deposits import load  # noqa: PLC0415  it needs this module

        return await load(self, names, axis, grants)

    async def deposits(self) -> list[Deposited]:
        """What data these workers keep: names and shapes, which anybody may know who can reach them."""
        from protocols.training.deposits import deposits  # noqa: PLC0415  it needs this module

        return await deposits(self)

    async def withdraw(self, grant: Grant) -> None:
        """Has the workers remove data, for their owner. A training that has loaded them goes on.

        Raises:
            NotGranted: this is not the owner's grant.
            WorkerLost: a worker went away.
        """
        from protocols.training.deposits import withdraw  # noqa: PLC0415  it needs this module

        await withdraw(self, grant)

    async def discard(self, folder: str | os.PathLike[str]) -> None:
        """Has the servers remove the checkpoints of a training, for whoever has its folder; see `SharedModel.fit`.

        Raises:
            CheckpointError: the folder holds no training.
            WorkerLost: a worker went away.
        """
        from protocols.training.checkpoints import discard  # noqa: PLC0415  it needs this module

        await discard(self, folder)

    async def __aenter__(self) -> Cluster:
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
        """By the place of the helper; with a crypto provider there is but one."""
        if not self.equals:
            return [self.addresses]
        first, second, third = (worker.url for worker in self.workers)
        return [roles((first, second, third), helper) for helper in range(3)]

    async def _find(self, number: int, system: ActorSystem, stack: contextlib.AsyncExitStack) -> None:
        """Leaves a running worker alone, and starts one that is not."""
        worker = self.workers[number]
        try:
            if not worker.port_is_free_choice:
                await system.connect(f"{worker.url}/server", ComputeServer)
                return
            reason = "its port is not chosen yet"
        except ConnectFailed as error:
            reason = str(error)
        except ActorError as error:
            raise _unreachable(worker.url, error) from None
        if not (self.auto_managed and worker.local):
            raise WorkerUnreachable(f"{worker}: {reason}; start it there with: confide worker {worker.address}")
        try:
            limit = () if self._message_limit == limits.MESSAGE_LIMIT else ("--message-limit", str(self._message_limit))
            folder = () if worker.data is None else (str(worker.data),)
            child = await ChildProcess.start("protocols.worker_process", *limit, worker.address, *folder, ready_within=START_WITHIN)
        except ChildFailed as error:
            raise WorkerUnreachable(f"{worker}: {reason}; and no worker could be started there: {error}") from None
        stack.push_async_callback(child.stop)
        self.children[number] = child
        worker.url = child.address

    async def _enrol(self, system: ActorSystem, worker: Worker) -> None:
        """Tells a worker of this machine and user whose it is. Others know it from their cluster file, or are somebody else's."""
        if not (worker.local and worker.url.startswith("ws://")):
            return
        first, second, third = (each.url for each in self.workers)
        enrolment = await _connected(system, f"{worker.url}/{ENROLMENT}", Enrolment)
        with contextlib.suppress(NotAllowed):  # of another user, or of a cluster file: then this process is a client to it
            await enrolment.join((first, second, third))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._links, self._presence = (), None
        await self._stack.aclose()

    def __repr__(self) -> str:
        return f"Cluster({', '.join(worker.url for worker in self.workers)})"


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


class Links:
    """Typed references to the three workers of a cluster, and the actor system that reaches them."""

    def __init__(self, system: ActorSystem, servers: tuple[ComputeServer, ComputeServer], provider: CryptoProvider) -> None:
        self.system = system
        self.servers = servers
        self.provider = provider


async def connected(system: ActorSystem, addresses: Addresses) -> Links:
    """Connects to all three workers in their roles.

    Raises:
        WorkerUnreachable: one of them does not answer, or is not a worker of confide.
    """
    first, second = await at_once(*(server_at(system, url) for url in addresses.servers))
    provider = await _connected(system, f"{addresses.crypto_provider}/provider", CryptoProvider)
    return Links(system, (first, second), provider)


async def server_at(system: ActorSystem, url: str) -> ComputeServer:
    """Connects to the compute server of one worker.

    Raises:
        WorkerUnreachable: it does not answer, or is not a worker of confide.
    """
    return await _connected(system, f"{url}/server", ComputeServer)


async def _connected(system: ActorSystem, address: str, actor: type[A]) -> A:
    try:
        return await system.connect(address, actor)
    except ConnectFailed as error:
        raise WorkerUnreachable(f"{error}; is the cluster running?") from None
    except ActorError as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: ActorError) -> WorkerUnreachable:
    what = "whoever answers there is not a worker of confide" if isinstance(error, ActorNotFound) else "it cannot be used"
    return WorkerUnreachable(f"{address}: {what}: {error}")

"""Connections to the three workers of a cluster: typed references, and the actor system that reaches them."""

from __future__ import annotations

from typing import TypeVar

from actors import Actor, ActorError, ActorNotFound, ActorSystem, ConnectFailed
from protocols.concurrency import at_once
from protocols.errors import WorkerUnreachable
from protocols.serving.hosting import Addresses
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider

A = TypeVar("A", bound=Actor)


class Links:
    """Typed references to the three workers of a cluster, and the actor system that reaches them."""

    def __init__(self, system: ActorSystem, servers: tuple[ComputeServer, ComputeServer], provider: CryptoProvider) -> None:
        self.system = system
        self.servers = servers
        self.provider = provider


async def connected(system: ActorSystem, addresses: Addresses) -> Links:
    """Connect to all three workers in their roles.

    Raises:
        WorkerUnreachable: one of them does not answer, or is not a worker of confide.
    """
    first, second = await at_once(*(server_at(system, url) for url in addresses.servers))
    provider = await actor_at(system, f"{addresses.crypto_provider}/provider", CryptoProvider)
    return Links(system, (first, second), provider)


async def server_at(system: ActorSystem, url: str) -> ComputeServer:
    """Connect to the compute server of one worker.

    Raises:
        WorkerUnreachable: it does not answer, or is not a worker of confide.
    """
    return await actor_at(system, f"{url}/server", ComputeServer)


async def actor_at(system: ActorSystem, address: str, actor: type[A]) -> A:
    """Connect to one actor of a worker.

    Raises:
        WorkerUnreachable: it does not answer, or is not a worker of confide.
    """
    try:
        return await system.connect(address, actor)
    except ConnectFailed as error:
        raise WorkerUnreachable(f"{error}; is the cluster running?") from None
    except ActorError as error:
        raise unreachable(address, error) from None


def unreachable(address: str, error: ActorError) -> WorkerUnreachable:
    """Return the error of a worker that answers, and cannot be used."""
    what = "whoever answers there is not a worker of confide" if isinstance(error, ActorNotFound) else "it cannot be used"
    return WorkerUnreachable(f"{address}: {what}: {error}")

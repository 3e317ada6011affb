"""What each node of a cluster file answers when it is asked how it is, and until when its certificate is valid."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from actors import ActorError, ActorSystem
from actors.address import Address
from federated.machines.aggregator import NAME, Aggregator, AggregatorStatus
from federated.machines.certificates import expiry
from federated.machines.cluster_file import AggregatorNode, ClientNode, ClusterFile, Node, OwnerNode
from federated.machines.node import OWNER_ACTOR, encryption
from federated.owners.owner import DataOwner
from protocols.nodes.worker_nodes import CryptoProviderNode, ServerNode
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.worker_process import Encryption

WITHIN = 5.0
"""Seconds that a node has to answer."""


@dataclass(frozen=True)
class NodeState:
    """One node.

    Attributes:
        name: in the cluster file.
        role: as it is written there.
        ready: whether it answers; of owners that connect to the aggregator, whether they have joined.
        text: what it does, or why it is not ready.
        until: when the certificate expires that it shows; None: that is not known here.
    """

    name: str
    role: str
    ready: bool
    text: str
    until: datetime | None = None

    def days(self, now: datetime) -> int | None:
        """Whole days that its certificate is valid from now on; below 0: it has expired."""
        return None if self.until is None else (self.until - now).days


def asked_with(cluster: ClusterFile, keys: Path | None) -> tuple[Path | None, Encryption]:
    """Return the folder of keys, and how to connect as the first node whose key is in it.

    Args:
        cluster: the file.
        keys: the folder; None: `keys` beside the file, if it is there.

    Raises:
        KeysError: certificates are needed and not there.
    """
    if keys is None and (cluster.path.parent / "keys").is_dir():
        keys = cluster.path.parent / "keys"
    asking = next((name for name in cluster.nodes if keys is not None and (keys / f"{name}.key").is_file()), next(iter(cluster.nodes)))
    return keys, encryption(cluster, keys, asking)


async def states(cluster: ClusterFile, encryption: Encryption, keys: Path | None = None) -> list[NodeState]:
    """Ask all nodes at once; owners that are not in the file and have joined by their certificates come last.

    Args:
        cluster: the file.
        encryption: how to connect.
        keys: folder in which certificates of nodes may be that nobody can connect to.
    """
    async with ActorSystem(timeout=WITHIN, connect_ssl=encryption.connect, allow_plaintext=encryption.allow_plaintext) as system:
        standing = asyncio.create_task(_standing(system, cluster))
        listed = await asyncio.gather(*(_state(system, name, node, standing) for name, node in cluster.nodes.items()))
        until = await asyncio.gather(*(_until(name, node, standing, encryption, keys) for name, node in cluster.nodes.items()))
        found = [replace(one, until=when) for one, when in zip(listed, until, strict=True)]
        there = await standing
        if isinstance(there, AggregatorStatus):
            others = [name for name, here in there.here.items() if here and name not in cluster.nodes]
            found += [NodeState(name, "owner", True, "has joined, by its certificate", _told(there, name)) for name in others]
        return found


async def _until(
    name: str, node: Node, standing: asyncio.Task[AggregatorStatus | ActorError | None], encryption: Encryption, keys: Path | None
) -> datetime | None:
    """When the certificate of a node expires: as it shows it, as the aggregator saw it, or as it lies in the folder here."""
    there = await standing
    shown = None
    if node.address is not None and node.address.startswith("wss") and encryption.connect is not None:
        shown = await _shown(Address.parse(node.address), encryption.connect)
    elif isinstance(there, AggregatorStatus):
        shown = _told(there, name)
    if shown is None and keys is not None:
        with contextlib.suppress(OSError, ValueError):
            shown = datetime.fromtimestamp(expiry(ssl.PEM_cert_to_DER_cert((keys / f"{name}.pem").read_text())), UTC)
    return shown


def _told(standing: AggregatorStatus, name: str) -> datetime | None:
    return datetime.fromtimestamp(standing.until[name], UTC) if name in standing.until else None


async def _shown(address: Address, tls: ssl.SSLContext) -> datetime | None:
    """Return when the certificate that is shown in TLS at an address ends, if it is trusted."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(WITHIN):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        finally:
            writer.transport.abort()  # nothing was asked
        return datetime.fromtimestamp(expiry(certificate), UTC)
    return None


async def _standing(system: ActorSystem, cluster: ClusterFile) -> AggregatorStatus | ActorError | None:
    """Ask the aggregator for its status, if there is one; return why it says nothing otherwise."""
    if not any(isinstance(node, AggregatorNode) for node in cluster.nodes.values()):
        return None
    try:
        return await (await system.connect(f"{cluster.aggregator.address}/{NAME}", Aggregator)).standing()
    except ActorError as error:
        return error


async def _state(system: ActorSystem, name: str, node: Node, standing: asyncio.Task[AggregatorStatus | ActorError | None]) -> NodeState:
    role = str(node.__struct_config__.tag)
    try:
        return NodeState(name, role, *await _answer(system, name, node, standing))
    except ActorError as error:
        return NodeState(name, role, False, str(error))


async def _answer(
    system: ActorSystem, name: str, node: Node, standing: asyncio.Task[AggregatorStatus | ActorError | None]
) -> tuple[bool, str]:
    match node:
        case ServerNode():
            server = await system.connect(f"{node.address}/server", ComputeServer)
            return True, f"models: {', '.join(await server.names()) or 'none'}"
        case CryptoProviderNode():
            await system.connect(f"{node.address}/provider", CryptoProvider)
            return True, ""
        case OwnerNode(address=str()):
            await system.connect(f"{node.address}/{OWNER_ACTOR}", DataOwner)
            return True, ""
        case ClientNode():
            return True, "it runs nothing"
    there = await standing
    if not isinstance(there, AggregatorStatus):
        return False, str(there)
    if isinstance(node, AggregatorNode):
        return True, f"{there.played} of {node.rounds} rounds, {sum(there.here.values())} of {len(there.here)} owners have joined"
    return (True, "has joined") if there.here.get(name) else (False, "has not joined the aggregator")

"""What each node of a cluster file answers when it is asked how it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from actors import ActorError, ActorSystem
from federated.machines.aggregator import NAME, Aggregator, AggregatorStatus
from federated.machines.cluster_file import AggregatorNode, ClientNode, ClusterFile, Node, OwnerNode
from federated.machines.node import OWNER_ACTOR
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
    """

    name: str
    role: str
    ready: bool
    text: str


async def states(cluster: ClusterFile, encryption: Encryption) -> list[NodeState]:
    """Asks all nodes at once."""
    async with ActorSystem(timeout=WITHIN, connect_ssl=encryption.connect, allow_plaintext=encryption.allow_plaintext) as system:
        standing = asyncio.create_task(_standing(system, cluster))
        return list(await asyncio.gather(*(_state(system, name, node, standing) for name, node in cluster.nodes.items())))


async def _standing(system: ActorSystem, cluster: ClusterFile) -> AggregatorStatus | ActorError | None:
    """What the aggregator says, if there is one; or why it says nothing."""
    if not cluster.owners:
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

"""The workers in a cluster file, and the cluster that they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from ssl import SSLContext
from typing import TypeAlias

import msgspec

from protocols.clusters.worker import Worker
from protocols.errors import ClusterError
from protocols.owner.cluster import Cluster

CLIENT = "client"
"""The role of a node that runs nothing: it shares, trains or asks."""


class ServerNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="role", tag="server"):
    """A compute server.

    Attributes:
        address: that others reach it at.
        listen: the address that it binds, if that is another one.
        data: folder beside the cluster file in which it keeps shares (`confide share`, checkpoints); None: it keeps none.
        data_key: file beside the cluster file with the key of that folder; None: it is made in the folder.
    """

    address: str
    listen: str | None = None
    data: str | None = None
    data_key: str | None = None


class CryptoProviderNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="role", tag="crypto_provider"):
    """The crypto provider; attributes as for `ServerNode`."""

    address: str
    listen: str | None = None
    data: str | None = None
    data_key: str | None = None


WorkerNode: TypeAlias = ServerNode | CryptoProviderNode
ROLES = ("server", "crypto_provider")
IN_THE_CLEAR = (
    "is not encrypted and not on this machine: use wss:// and certificates (confide certs), or write allow_plaintext = true above all"
    " tables, to send everything in the clear"
)
"""Said of an address."""


def three_workers(path: Path, nodes: Mapping[str, object]) -> dict[str, WorkerNode]:
    """Return the three workers by name, in the order of their cluster: two servers and the crypto provider, or three equal servers.

    Raises:
        ClusterError: there are others.
    """
    servers = {name: node for name, node in nodes.items() if isinstance(node, ServerNode)}
    providers = {name: node for name, node in nodes.items() if isinstance(node, CryptoProviderNode)}
    if (len(servers), len(providers)) not in ((2, 1), (3, 0)):
        raise ClusterError(
            f"{path} has {len(servers)} servers and {len(providers)} crypto providers: two and one are needed, or three servers as equals"
        )
    return {**servers, **providers}


def cluster_among(workers: Mapping[str, WorkerNode], *, ssl: SSLContext | None, allow_plaintext: bool, message_limit: int) -> Cluster:
    """Return the cluster of three workers of a file, none of which is started; at wss:// they show the certificates of their names."""
    first, second, third = (Worker(node.address, name=name if node.address.startswith("wss") else None) for name, node in workers.items())
    provided = any(isinstance(node, CryptoProviderNode) for node in workers.values())
    servers, provider = ((first, second), third) if provided else ((first, second, third), None)
    return Cluster(
        *servers,
        crypto_provider=provider,
        auto_managed=False,
        ssl=ssl,
        allow_plaintext=allow_plaintext,
        message_limit=message_limit,
    )


def acting(names: Collection[str], clients: Collection[str], keys: Path | None) -> str:
    """Return the node that a process acts for if nobody says: the first client, or else the first node, whose key is in the folder."""
    ordered = sorted(names, key=lambda name: name not in clients)
    return next((name for name in ordered if keys is not None and (keys / f"{name}.key").is_file()), ordered[0])

"""A cluster file as who uses its three workers reads it: their tables, and the names and roles of all others."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from actors import ActorError, limits
from actors.address import Address
from actors.errors import InsecureAddress
from protocols.authority.admission import AdmissionSettings
from protocols.errors import ClusterError
from protocols.nodes.certificate import encryption
from protocols.nodes.misspelt import misspelt, unknown_field
from protocols.nodes.worker_nodes import (
    CLIENT,
    IN_THE_CLEAR,
    ROLES,
    CryptoProviderNode,
    ServerNode,
    WorkerNode,
    acting,
    cluster_among,
    three_workers,
)
from protocols.owner.cluster import Cluster


def cluster(path: str | os.PathLike[str], *, keys: str | os.PathLike[str] | None = None, name: str | None = None) -> Cluster:
    """Return the three workers of a cluster file, over TLS if they are at wss:// addresses. Nothing is connected yet.

    Args:
        path: of the cluster file.
        keys: folder with `ca.pem`, `NAME.pem` and `NAME.key`; None: `keys` beside the file, if there is TLS.
        name: the node that this process acts for; None: the first client, or else the first node, whose key is in the folder.

    Raises:
        ClusterError: the file cannot be used, has other workers than three, or no node of that name; or a certificate is missing.
    """
    file = Path(path)
    tables, allow_plaintext, limit, admission = _read(file)
    if name is not None and name not in tables:
        raise ClusterError(f"{file} has no node {name!r}; it has {', '.join(tables)}")
    if admission != AdmissionSettings() and not any(str(table.get("address")).startswith("wss://") for table in tables.values()):
        raise ClusterError(f"{file}: [admission] is about certificates, and no node has a wss:// address: nobody would show one")
    workers = three_workers(file, {node: _worker(file, node, table) for node, table in tables.items() if table.get("role") in ROLES})
    for node, worker in workers.items():
        _check(file, node, worker.address, allow_plaintext)
    if not any(worker.address.startswith("wss://") for worker in workers.values()):
        return cluster_among(workers, ssl=None, allow_plaintext=allow_plaintext, message_limit=limit)
    folder = Path(keys) if keys is not None else file.parent / "keys"
    clients = [node for node, table in tables.items() if table.get("role") == CLIENT]
    listed = {node: str(table.get("role")) for node, table in tables.items()}
    tls = encryption(folder, name or acting(tables, clients, folder), listed=listed, admission=admission)
    return cluster_among(workers, ssl=tls.connect, allow_plaintext=allow_plaintext, message_limit=limit)


def _read(file: Path) -> tuple[dict[str, dict[str, Any]], bool, int, AdmissionSettings]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ClusterError(f"{file} is not TOML: {error}") from None
    nodes, plain = content.get("nodes"), content.get("allow_plaintext", False)
    if not isinstance(nodes, dict) or not nodes or not all(isinstance(table, dict) for table in nodes.values()):
        raise ClusterError(f"{file}: [nodes.NAME] tables are needed, one for each machine, with its role")
    if not isinstance(plain, bool):
        raise ClusterError(f"{file}: allow_plaintext = {plain!r}: expected true or false")
    admits = content.get("admission", {})
    if isinstance(admits, dict) and (why := unknown_field(admits, AdmissionSettings.__struct_fields__, "it")):
        raise ClusterError(f"{file}: [admission]: {why}")
    try:
        admission = msgspec.convert(admits, AdmissionSettings)
    except msgspec.ValidationError as error:
        raise ClusterError(f"{file}: [admission]: {error}") from None
    try:
        return nodes, plain, limits.message_limit(content.get("message_limit", limits.MESSAGE_LIMIT)), admission
    except (TypeError, ValueError) as error:
        raise ClusterError(f"{file}: {error}") from None


def _worker(file: Path, name: str, table: dict[str, Any]) -> WorkerNode:
    if why := misspelt(table, (ServerNode, CryptoProviderNode)):
        raise ClusterError(f"{file}: [nodes.{name}]: {why}")
    try:
        return msgspec.convert(table, WorkerNode)  # type: ignore[no-any-return]  # a union of structs
    except msgspec.ValidationError as error:
        raise ClusterError(f"{file}: [nodes.{name}]: {error}") from None


def _check(file: Path, name: str, address: str, allow_plaintext: bool) -> None:
    try:
        Address.parse(address).check_encryption(allow_plaintext)
    except InsecureAddress:
        raise ClusterError(f"{file}: [nodes.{name}]: {address} {IN_THE_CLEAR}") from None
    except ActorError as error:
        raise ClusterError(f"{file}: [nodes.{name}]: {error}") from None

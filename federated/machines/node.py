"""One node of a cluster file, as the process that `confide run` is: it serves, has its owner trained, or plays the rounds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors import ActorSystem
from actors.address import Address
from actors.credentials.files import credentials_of
from actors.credentials.watching import watched
from actors.identity.published import reached
from actors.observing.observer import Observing
from actors.observing.service_manager import announced
from federated.consent.admission import Policy
from federated.errors import ClusterFileError, KeysError
from federated.machines import certificates
from federated.machines.cluster_file import AggregatorNode, ClientNode, ClusterFile, Node, OwnerNode
from federated.machines.joining import JoiningOwners, joining_owners
from federated.machines.membership import stay_joined
from federated.owners.owner import DataOwner
from federated.runs.federation import Federation
from protocols import Cluster, Worker
from protocols.authority.membership import Member, Membership, Trio, rights
from protocols.nodes.worker_nodes import CryptoProviderNode, ServerNode, acting, cluster_among
from protocols.workers import worker_process
from protocols.workers.worker_process import Encryption

OWNER_ACTOR = "owner"
"""Name of the actor at an owner."""

Say = Callable[[str], None]


def encryption(cluster: ClusterFile, keys: Path | None, name: str) -> Encryption:
    """How a node listens and connects: TLS with its own certificate if any node of the cluster has a wss:// address.

    Raises:
        KeysError: certificates are needed and not there.
    """
    if not cluster.encrypted:
        return Encryption(allow_plaintext=cluster.allow_plaintext)
    if keys is None:
        raise KeysError(f"{cluster.path} has wss:// addresses: give the folder of the certificates with --keys; confide certs makes them")
    tls = certificates.encryption(keys, name, listed=cluster.roles, admission=cluster.admission)
    return replace(tls, allow_plaintext=cluster.allow_plaintext)


async def run(name: str, cluster: ClusterFile, keys: Path | None, say: Say, observing: Observing | None = None) -> None:
    """Run a node: an aggregator until its rounds are over, others until they are told to end or are cancelled.

    Args:
        name: of the node.
        cluster: the file that it is in.
        keys: folder with its certificate; None: there is no TLS.
        say: is told in a line what happens; `ready ADDRESS` when the node can be reached.
        observing: how what happens can be seen; who reads metrics over TLS is for the cluster file to say, see `watchers`.

    Raises:
        ClusterFileError: there is no such node, or its code cannot be used.
        KeysError: its certificate cannot be used.
        ActorError: it cannot listen, or (`JoinRefused`) the aggregator does not take it.
    """
    node = cluster.node(name)
    tls = encryption(cluster, keys, name)
    observing = replace(observing or Observing(), watchers=watchers(cluster, name))
    match node:
        case ServerNode() | CryptoProviderNode():
            beside = cluster.path.parent
            await worker_process.run(
                (node.listen or node.address).partition("://")[2],
                tls,
                with_parent=False,
                cluster=membership(cluster, name),
                data=None if node.data is None else beside / node.data,
                data_key=None if node.data_key is None else beside / node.data_key,
                message_limit=cluster.message_limit,
                observing=observing,
            )
        case OwnerNode():
            async with watched(credentials_of(tls.connect), say):
                identity = certificates.identity(keys, name) if keys and cluster.encrypted else None
                await _own(name, node, cluster, tls, identity, say, observing)
        case AggregatorNode():
            async with watched(credentials_of(tls.listen), say):
                await _aggregate(node, cluster, tls, say, observing)
        case ClientNode():
            raise ClusterFileError(f"{name} is a client: it has a certificate and runs nothing; see confide share")


def watchers(cluster: ClusterFile, name: str) -> frozenset[str]:
    """Return whose certificates let them read the metrics of a node over TLS: its own, those of workers and of the aggregator, and clients
    that may "watch".
    """
    running = (ServerNode, CryptoProviderNode, AggregatorNode)
    clients = {each for each, node in cluster.nodes.items() if isinstance(node, ClientNode) and "watch" in node.may}
    return frozenset({name, *clients, *(each for each, node in cluster.nodes.items() if isinstance(node, running))})


def membership(cluster: ClusterFile, name: str) -> Membership:
    """Return what the worker `name` knows of its cluster: the other two, their certificates, and what everybody in the file may do.

    Without three workers in the file, or with ports that are chosen at start, it belongs to no cluster (yet).
    """
    people = {node: _roles(kind) for node, kind in cluster.nodes.items()}
    believe = cluster.allow_plaintext and not cluster.encrypted
    trio = None
    with contextlib.suppress(ClusterFileError):
        addresses = {node: Address.parse(worker.address) for node, worker in cluster.workers.items()}
        if name in addresses and all(address.port for address in addresses.values()):
            first, second, third = (Member(reached(one), node if one.secure else "") for node, one in addresses.items())
            trio = Trio((first, second, third), list(addresses).index(name), cluster.equals)
    return Membership(trio, people=people, models=cluster.models, believe=believe, strict=cluster.admission.roles_needed)


def worker_membership(cluster: ClusterFile, address: str, certificate: Path | None) -> Membership:
    """Return what a worker knows of its cluster that is not started by its name, but by its address; see `worker_name`."""
    return membership(cluster, worker_name(cluster, address, certificate))


def worker_name(cluster: ClusterFile, address: str, certificate: Path | None) -> str:
    """Return the name of a worker that is started by its address.

    Args:
        cluster: the file.
        address: host:port that it listens on.
        certificate: PEM file whose common name is its name; None: the node at that address is meant.

    Raises:
        ClusterFileError: the file has no worker of that name or address, or other than three workers.
    """
    workers = cluster.workers
    if certificate is not None:
        try:
            name = certificates.shown_name(ssl.PEM_cert_to_DER_cert(certificate.read_text()))
        except (OSError, ValueError) as error:
            raise ClusterFileError(f"{certificate} is no certificate: {type(error).__name__}") from None
    else:
        url = Worker(address).url
        name = next((name for name, node in workers.items() if reached(Address.parse(node.address)) == url), "")
    if name not in workers:
        what = f"named {name!r} as in {certificate}" if certificate is not None else f"at {address}"
        raise ClusterFileError(f"{cluster.path} has no worker {what}; its workers are {', '.join(workers)}")
    return name


def _roles(node: Node) -> frozenset[str]:
    return rights(str(node.__struct_config__.tag), node.may if isinstance(node, ClientNode) else ())


def computing_cluster(path: str | os.PathLike[str], *, keys: str | os.PathLike[str] | None = None, name: str | None = None) -> Cluster:
    """Connect to the three workers of a cluster file, to share, train or ask. They have to show their certificates.

    Args:
        path: of the cluster file.
        keys: folder with `ca.pem`, `NAME.pem` and `NAME.key`; None: `keys` beside the file, if there is TLS.
        name: the node that this process acts for; None: the first client, or else the first node, whose key is in the folder.

    Raises:
        ClusterFileError: the file has other than two servers and one provider, or three servers, or cannot be read.
        KeysError: certificates are needed and not there.
    """
    cluster = ClusterFile.read(Path(path))
    found = cluster.workers
    folder = Path(keys) if keys is not None else cluster.path.parent / "keys" if cluster.encrypted else None
    tls = encryption(cluster, folder, name or _acting(cluster, folder))
    limit = cluster.message_limit
    return cluster_among(found, ssl=tls.connect, allow_plaintext=cluster.allow_plaintext, message_limit=limit)


def _acting(cluster: ClusterFile, keys: Path | None) -> str:
    return acting(cluster.nodes, [name for name, node in cluster.nodes.items() if isinstance(node, ClientNode)], keys)


async def _own(
    name: str,
    node: OwnerNode,
    cluster: ClusterFile,
    tls: Encryption,
    identity: Ed25519PrivateKey | None,
    say: Say,
    observing: Observing,
) -> None:
    data = await asyncio.to_thread(cluster.load(node.data), name)
    evaluation = None if node.evaluation is None else await asyncio.to_thread(cluster.load(node.evaluation), name)
    async with _system(node.address, node.listen, tls, cluster, observing) as system:
        aggregator = next(each for each, one in cluster.nodes.items() if one is cluster.aggregator)
        plain = cluster.allow_plaintext and (node.address or "").startswith("ws://")  # where nobody can show who it is
        policy = Policy(aggregator=aggregator, plaintext=plain, servers=_servers(cluster))
        owner = await system.spawn(DataOwner, data, evaluation, identity=identity, policy=policy, name=OWNER_ACTOR)
        async with announced():
            if node.address is None:
                await stay_joined(system, cluster.aggregator.address, name=name, owner=owner, tell=say)
            else:
                say(f"ready {system.address}")
                await system.serve_forever()


def _servers(cluster: ClusterFile) -> list[str]:
    """List the workers of the file that may be servers of a sum; none if there are not three."""
    with contextlib.suppress(ClusterFileError):
        return [reached(Address.parse(node.address)) for node in cluster.workers.values() if isinstance(node, ServerNode)]
    return []


def _system(address: str | None, listen: str | None, tls: Encryption, cluster: ClusterFile, observing: Observing) -> ActorSystem:
    """Build the system of an owner: whom it dials has to show the certificate of the node at that address."""
    nodes = {name: Address.parse(node.address) for name, node in cluster.nodes.items() if node.address is not None}
    return ActorSystem(
        listen or address,
        ssl=tls.listen,
        connect_ssl=tls.connect,
        allow_plaintext=tls.allow_plaintext,
        advertise=address if listen else None,
        named={str(one): name for name, one in nodes.items() if one.secure},
        known_only=not tls.allow_plaintext,
        message_limit=cluster.message_limit,
        observing=observing,
    )


async def _aggregate(node: AggregatorNode, cluster: ClusterFile, tls: Encryption, say: Say, observing: Observing) -> None:
    owners = _owners(node, cluster, tls, say, observing)
    federation = cluster.load(node.federation)(owners)
    if not isinstance(federation, Federation):
        raise ClusterFileError(
            f"{node.federation!r} returned a {type(federation).__name__}: it takes the owners and returns a Federation of them"
        )
    async with federation, announced():
        owners.played = len(federation.history)
        async for outcome in federation.rounds(node.rounds):
            owners.played = outcome.round
            owners.seen.add(outcome)
            say(str(outcome))
            for owner, why in outcome.dropped.items():
                say(f"  {owner} dropped: {why}")
            for owner, why in outcome.faults.items():
                say(f"  {owner}: {why}")
    if node.save is not None:
        path = cluster.path.parent / node.save
        federation.model.save(path)
        say(f"saved {path}")


def _owners(node: AggregatorNode, cluster: ClusterFile, tls: Encryption, say: Say, observing: Observing) -> JoiningOwners:
    return joining_owners(
        [name for name, owner in cluster.owners.items() if owner.address is None],
        node.listen or node.address,
        dialed={name: f"{owner.address}/{OWNER_ACTOR}" for name, owner in cluster.owners.items() if owner.address is not None},
        ssl=tls.listen,
        connect_ssl=tls.connect,
        allow_plaintext=tls.allow_plaintext,
        advertise=node.address if node.listen else None,
        wait=node.wait,
        patience=node.patience,
        tell=say,
        message_limit=cluster.message_limit,
        observing=observing,
    )

"""A worker as a process of its own: `python -m protocols.workers.worker_process [--message-limit BYTES] HOST:PORT [FOLDER]`.

It offers all roles: it computes, trains, deals randomness, sums, and keeps shares in the folder, if there is one. It
prints `ready ADDRESS` when it can be reached and its kernels are compiled. It never imports TensorFlow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from actors import Actor, ActorError, ActorSystem, exit_with_parent, limits
from actors.address import Address
from actors.allocation import given_back_when_idle, keep_freed_memory
from actors.credentials.files import Credentials, Paths, credentials_of
from actors.credentials.watching import watched
from actors.identity.published import reached
from actors.observing.log_lines import event
from actors.observing.observer import Observing
from actors.observing.service_manager import announced
from actors.processes import log_to_parent
from protocols.authority.enrolment import ENROLMENT, Enrolment
from protocols.authority.membership import Member, Membership, Trio
from protocols.concurrency import at_once
from protocols.errors import ProtocolError
from protocols.storage.holdings import Holdings
from protocols.storage.vault import Vault
from protocols.workers.compute_server import ComputeServer
from protocols.workers.crypto_provider import CryptoProvider
from protocols.workers.keeper import Keeper
from protocols.workers.sum_server import SumServer
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer

log = logging.getLogger(__name__)

DRAINED_WITHIN = 10.0
"""Seconds that a worker which has been told to end takes at most to answer the requests that are under way; told again, it ends at once."""
PARTS: Mapping[str, type[Actor]] = {
    "server": ComputeServer,
    "provider": CryptoProvider,
    "sums": SumServer,
    "training": TrainingServer,
    "training-dealer": TrainingDealer,
    "keeper": Keeper,
}
"""The actors of a worker, by their names. Each is given the cluster; those in `HOLDING` also what the worker holds."""
HOLDING = frozenset({"server", "provider", "training", "training-dealer", "keeper"})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encryption:
    """How a worker is reached and reaches others: its own certificate, and whom it trusts. Without one, in the clear on loopback only."""

    listen: SSLContext | None = None
    connect: SSLContext | None = None
    allow_plaintext: bool = False


def mutual(paths: Paths, *, admits: Callable[[bytes], str] | None = None, list_needed: bool = False) -> Encryption:
    """Return TLS with certificates on both sides, signed by one authority. Files that are replaced are read again.

    Args:
        paths: of the files.
        admits: why somebody is refused whose certificate is good; see `Credentials`.
        list_needed: nobody is let in without a list of revoked certificates.

    Raises:
        BadCredentials: a file is missing, or is not what it should be.
    """
    credentials = Credentials(paths, admits=admits, list_needed=list_needed)
    return Encryption(credentials.listen, credentials.connect)


@contextlib.asynccontextmanager
async def opened(
    address: str,
    encryption: Encryption,
    cluster: Membership,
    *,
    data: Path | None = None,
    data_key: Path | None = None,
    parts: Mapping[str, type[Actor]] | None = None,
    message_limit: int = limits.MESSAGE_LIMIT,
    observing: Observing | None = None,
) -> AsyncIterator[tuple[ActorSystem, Holdings]]:
    """Offer all parts of a worker as long as the block lasts; yield its system, and what it holds.

    What its actors are sent is checked against the cluster and the roles in `cluster`, and no message makes it connect to an address that
    is not in there.

    Args:
        address: host:port; port 0 chooses one.
        encryption: in the clear, or TLS.
        cluster: whose worker it is.
        data: folder in which shares are kept; None: nothing is kept.
        data_key: file with the key that they are encrypted under; None: a file in the folder.
        parts: classes to use instead of those in `PARTS`, by name.
        message_limit: bytes of the largest message that it takes: 1 MiB to 1 TiB.
        observing: how what happens can be seen; see `ActorSystem`.

    Raises:
        VaultError: the folder or the key cannot be used.
        AuditUnwritable: the audit log cannot.
    """
    scheme = "ws" if encryption.listen is None else "wss"
    with contextlib.closing(Holdings(None if data is None else Vault.open(data, data_key))) as holdings:
        async with ActorSystem(
            listen=f"{scheme}://{address}",
            ssl=encryption.listen,
            connect_ssl=encryption.connect,
            allow_plaintext=encryption.allow_plaintext,
            roles=cluster.roles,
            refer=False,
            named=cluster.names,
            for_user=False,
            known_only=not cluster.believe,
            message_limit=message_limit,
            observing=observing,
        ) as system:
            _recall(cluster, holdings, system.address)
            for name, part in {**PARTS, **(parts or {})}.items():
                await system.spawn(part, cluster, *([holdings] if name in HOLDING else []), name=name)
            if not system.address.startswith("wss"):
                await system.spawn(Enrolment, cluster, name=ENROLMENT)
            yield system, holdings


def _recall(cluster: Membership, holdings: Holdings, address: str) -> None:
    """Have a worker on loopback belong to the cluster of the models that it keeps: no process has to tell it again."""
    if not holdings.keeps or cluster.enrolled or not address.startswith("ws://"):
        return
    own = reached(Address.parse(address))
    for members in sorted({about.members for about in holdings.kept.abouts()}):
        if own in members:
            first, second, third = (Member(url) for url in members)
            cluster.enrol(Trio((first, second, third), members.index(own)))
            return
        log.error("models are kept here for the workers %s, and this one is %s: start it where it was", ", ".join(members), own)


async def run(
    address: str,
    encryption: Encryption,
    *,
    with_parent: bool,
    cluster: Membership | None = None,
    data: Path | None = None,
    data_key: Path | None = None,
    message_limit: int = limits.MESSAGE_LIMIT,
    observing: Observing | None = None,
) -> None:
    """Serve until told to stop; with a parent, no longer than the parent lives.

    Args:
        address: host:port; port 0 chooses one.
        encryption: in the clear, or TLS.
        with_parent: started by a cluster.
        cluster: whose worker it is; None: it learns that from a process of its own user, on loopback.
        data: folder in which shares are kept; None: nothing is kept.
        data_key: file with the key that they are encrypted under; None: a file in the folder.
        message_limit: bytes of the largest message that it takes: 1 MiB to 1 TiB.
        observing: how what happens can be seen; see `ActorSystem`.

    Raises:
        VaultError: the folder or the key cannot be used.
        AuditUnwritable: the audit log cannot.
        ValueError: `message_limit` is out of its range.
    """
    membership = cluster or Membership()
    keep_freed_memory(large=True)  # randomness is as large as hundreds of megabytes, and comes and goes with every step
    async with (
        opened(address, encryption, membership, data=data, data_key=data_key, message_limit=message_limit, observing=observing) as (
            system,
            _,
        ),
        watched(credentials_of(encryption.listen), _say),
        given_back_when_idle(),
    ):
        print(f"ready {system.address}", flush=True)
        event(log, logging.INFO, "ready", address=system.address, metrics=system.metrics_address)
        if with_parent:
            await exit_with_parent()
        else:
            async with announced():
                await system.serve_forever()
            await _drained(system)


async def _drained(system: ActorSystem) -> None:
    """Answer the requests under way, and begin no others: `DRAINED_WITHIN` seconds at most."""
    event(log, logging.INFO, "draining", within=DRAINED_WITHIN)
    server = await system.connect(f"{system.address}/server", ComputeServer)
    provider = await system.connect(f"{system.address}/provider", CryptoProvider)
    try:
        async with asyncio.timeout(DRAINED_WITHIN):
            await at_once(*(part.with_options(timeout=None).drain() for part in (server, provider)))
    except TimeoutError:
        event(log, logging.WARNING, "not drained", within=DRAINED_WITHIN)
    except ActorError as error:
        event(log, logging.WARNING, "not drained", reason=str(error))
    else:
        event(log, logging.INFO, "drained")


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # whoever has started this process may read no more
        print(line, flush=True)


def _started() -> None:
    """Run what a cluster starts."""
    parser = argparse.ArgumentParser(prog="python -m protocols.workers.worker_process")
    parser.add_argument("--message-limit", type=int, default=limits.MESSAGE_LIMIT)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path, nargs="?")
    given = parser.parse_args()
    try:
        work = run(given.address, Encryption(), with_parent=True, data=given.folder, message_limit=given.message_limit)
        asyncio.run(work)
    except (ActorError, ProtocolError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    log_to_parent()
    _started()

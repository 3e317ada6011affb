"""What a system shows of itself: its figures, put together when somebody looks, and whether it works."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import UTC, datetime

from actors.connection.home import Home
from actors.connection.peer import Peer
from actors.credentials.files import Credentials
from actors.guard.limited_log import LimitedLog
from actors.guard.words import name_of
from actors.observing.figures import Figure, Observed, count, state

log = logging.getLogger(__name__)

DAY = 24 * 60 * 60.0


def figures_of_connections(peers: Collection[Peer], lines: LimitedLog) -> list[Figure]:
    """Return what is known of the connections of a system."""
    running = sum(peer.incoming.under_way for peer in peers)
    found = [
        state("connections", "connections that are open", len(peers)),
        state("messages_running", "messages from elsewhere that have come and are not answered", running),
    ]
    meaning = "lines for the log that others have caused, by kind, whether they were written or left out"
    return found + [count("incidents", meaning, number, kind=kind) for kind, number in sorted(lines.counts.items())]


def figures_of_credentials(credentials: Credentials, now: datetime) -> list[Figure]:
    """Return how long the certificate of a system is valid, and how many others were revoked."""
    left = (credentials.own.until - now).total_seconds() / DAY
    return [
        state("certificate_days_left", "days until the certificate of this node expires; below 0 it has", left),
        state("revoked_certificates", "certificates on the lists of those that were revoked", credentials.revoked),
    ]


async def figures_of_actors(home: Home) -> list[Figure]:
    """Ask each actor of a system what it shows. One that fails at it shows nothing, and leaves a line."""
    found: list[Figure] = []
    for cell in home.names.youngest_first():
        found.append(
            state("mailbox", "messages to an actor that run, or wait for their turn or for room", cell.mailbox.size, actor=cell.class_name)
        )
        actor = cell.actor
        if isinstance(actor, Observed):
            try:
                found += await actor.observed()
            except Exception as error:
                text = "%s does not show its figures: %s"
                home.log.write(log, logging.ERROR, "figures", text, cell.label, name_of(type(error)))
    return _each_once(found)


def _each_once(figures: Collection[Figure]) -> list[Figure]:
    """Add up figures of one name and the same labels: of two actors of one class."""
    added: dict[tuple[str, tuple[tuple[str, str], ...]], Figure] = {}
    for one in figures:
        key = one.name, one.labels
        added[key] = one if key not in added else one._replace(value=one.value + added[key].value)
    return list(added.values())


def ailments(home: Home, credentials: Collection[Credentials]) -> list[str]:
    """Return why a system does not work, in words for everybody who can connect."""
    found = ["an actor of this node has crashed"] if home.names.crashed else []
    if home.observer.audit is not None and home.observer.audit.broken:
        found.append("the audit log of this node cannot be written")
    if any(one.own.until <= datetime.now(UTC) for one in credentials):
        found.append("the certificate of this node has expired")
    return found

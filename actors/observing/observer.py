"""What one system tells those who are responsible for it: it is told of each message from elsewhere, and of nothing that is in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from actors.errors import AuditUnwritable
from actors.guard.limited_log import Limited
from actors.guard.words import name_of, shown
from actors.identity.caller import Caller
from actors.observing import spans
from actors.observing.audit_log import AuditLog
from actors.observing.counts import ANSWERED, SystemCounts
from actors.observing.log_lines import event, tidy_event
from actors.observing.notes import Fact, Notes

log = logging.getLogger(__name__)

UNKNOWN = "a message that is not known"
"""In place of a name that a stranger has chosen."""


@dataclass(frozen=True)
class Observing:
    """How what happens in a system can be seen.

    Attributes:
        watchers: common names in certificates whose holders may read `/metrics` where the system listens over TLS. Where it listens in the
            clear, whoever connects from this machine may, and nobody else.
        metrics_port: a port on 127.0.0.1 for `/metrics` and `/healthz` in the clear, for every user of this machine; None: there is none.
        audit: the file of the audit log; None: there is none.
    """

    watchers: Collection[str] = ()
    metrics_port: int | None = None
    audit: Path | None = None


class Observer:
    """Of one system.

    Args:
        settings: what can be seen, and by whom.

    Attributes:
        counts: of messages, bytes and connections.
        audit: the audit log, while the system is open, if there is one.
    """

    def __init__(self, settings: Observing) -> None:
        self.settings, self.counts = settings, SystemCounts()
        self.audit: AuditLog | None = None
        self._limited = Limited()

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the audit log open as long as the block lasts.

        Raises:
            AuditUnwritable: it cannot be written.
        """
        if self.settings.audit is None:
            yield
            return
        self.audit = audit = AuditLog(self.settings.audit)
        syncing = asyncio.create_task(audit.sync())
        try:
            yield
        finally:
            syncing.cancel()
            await asyncio.gather(syncing, return_exceptions=True)
            self.audit = None
            audit.close()
            event(log, logging.INFO, "audit log closed", entries=audit.entries, head=audit.head)

    def met(self, what: str, other: Caller, place: str, **facts: Fact) -> None:
        """Log that somebody has connected, or is gone: ten times at once, then once a minute for each of those who are known."""
        if log.isEnabledFor(logging.INFO):
            asked = who(other)
            left_out = self._limited.take(f"{what} {asked}")
            if left_out is not None:
                more: dict[str, Fact] = {"left_out": left_out} if left_out else {}
                event(log, logging.INFO, what, who=asked, place=place, **facts, **more)

    # Messages that ask for an answer.

    def begun(self, label: str) -> Notes:
        """Begin to observe a message that will be handled.

        Raises:
            AuditUnwritable: what comes of it could not be written down, so it must not be handled.
        """
        if self.audit is not None:
            self.audit.check()
        notes = Notes()
        notes.span = spans.of_message(label)
        return notes

    def ended(self, sender: Caller, label: str, notes: Notes, error: BaseException | None) -> None:
        """Write down what came of it, before the answer leaves.

        Args:
            sender: of the message.
            label: of the message.
            notes: what `begun` has returned, with what the handler has noted.
            error: that the handler has raised; None: it has returned.

        Raises:
            AuditUnwritable: it cannot be written down, so no answer must leave.
        """
        outcome = ANSWERED if error is None else name_of(type(error))
        seconds = perf_counter() - notes.began
        self.counts.answered(label, outcome, seconds)
        if notes.span is not None:
            spans.end_of_message(notes.span, outcome, notes.facts)
        if not isinstance(error, AuditUnwritable):
            self._write(sender, label, outcome, notes, seconds)

    def refused(self, sender: Caller, label: str, error: BaseException) -> None:
        """Write down that a message was refused before it was looked at."""
        outcome = name_of(type(error))
        self.counts.messages[label, outcome] += 1
        if not isinstance(error, AuditUnwritable):
            with contextlib.suppress(AuditUnwritable):  # nothing was done that would have to be written down
                self._write(sender, label, outcome, Notes(), 0.0)

    def one_way(self, label: str, error: BaseException | None) -> None:
        """Count a message without answer."""
        self.counts.messages[label, ANSWERED if error is None else name_of(type(error))] += 1

    def _write(self, sender: Caller, label: str, outcome: str, notes: Notes, seconds: float) -> None:
        """Write a line and an entry. What only asks, and what was not done, is written ten times at once, then once a minute of a kind."""
        level = logging.INFO if notes.facts else logging.DEBUG
        logs = log.isEnabledFor(level)
        if not logs and self.audit is None:
            return
        asked = who(sender)
        left_out = self._limited.take(f"{asked} {label} {outcome}") if outcome != ANSWERED or not notes.facts else 0
        if left_out is None:
            return
        more: dict[str, Fact] = {"left_out": left_out} if left_out else {}
        if logs:
            facts: dict[str, Fact] = {"who": shown(asked), "outcome": outcome, "seconds": round(seconds, 6), **notes.facts, **more}
            tidy_event(log, level, label, facts)
        if self.audit is not None:
            decision = {"decision": ANSWERED} if outcome == ANSWERED else {"decision": "not answered", "reason": outcome}
            noted = {"facts": notes.facts} if notes.facts else {}
            self.audit.write(who=asked, what=label, **decision, **noted, **more)


def who(sender: Caller) -> str:
    """Return in short who has sent a message, as far as it has been shown."""
    if sender.local:
        return "this process"
    if sender.certificate is not None:
        return f"certificate {sender.common_name[:100]}"
    if sender.address:
        return f"system {sender.address}"
    return "a process of the same user" if sender.same_user else "nobody known"

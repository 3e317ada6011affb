"""The targets by name: what each reads, what it may raise, and where its seeds come from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.fuzz import files, served, wire
from benchmarks.fuzz.recorded import recorded


@dataclass(frozen=True)
class Target:
    """Something that reads what others have written.

    Attributes:
        ready: makes what is run with each input; that raises only if the input did what none may do.
        made: makes inputs as they are meant.
        name: of its recorded corpus.
    """

    ready: Callable[[], AbstractContextManager[Callable[[bytes], None]]]
    made: Callable[[], list[bytes]]
    name: str

    def seeds(self) -> list[bytes]:
        """Return inputs as they are meant, and the recorded ones."""
        return self.made() + recorded(self.name)


TARGETS = {
    name: Target(ready, made, name)
    for name, ready, made in (
        ("frames", wire.frames, wire.frame_seeds),
        ("messages", wire.messages, wire.message_seeds),
        ("handshake", served.handshake, served.handshake_seeds),
        ("worker", served.worker, wire.frame_seeds),
        ("cluster", files.cluster, files.cluster_seeds),
        ("vault", files.vault, files.vault_seeds),
        ("counts", files.counts, files.counts_seeds),
        ("certificates", files.certificates, files.certificate_seeds),
    )
}

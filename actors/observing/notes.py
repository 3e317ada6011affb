"""What a handler says of the message that it is handling, for the log, the audit log and spans: names and counts, never a secret."""

from __future__ import annotations

from contextvars import ContextVar
from time import perf_counter
from typing import Any, TypeAlias

from actors.guard.words import shown

Fact: TypeAlias = str | int | float | bool
MOST_FACTS = 16
"""Facts of one message that are kept."""
FACT_LIMIT = 300
"""Characters of a fact."""


class Notes:
    """Of one message.

    Attributes:
        facts: by name.
        began: when the message arrived, in the seconds of `perf_counter`.
        span: of the message, if somebody traces.
    """

    __slots__ = ("began", "facts", "span")

    def __init__(self) -> None:
        self.facts: dict[str, Fact] = {}
        self.began = perf_counter()
        self.span: Any = None


NOTES: ContextVar[Notes | None] = ContextVar("notes", default=None)
"""Set by the cell before it runs a handler. A thread or task that the handler starts inherits it."""


def noted(**facts: Fact) -> None:
    """Note facts about the message that is being handled: which model, how many examples. Outside of a handler nothing happens.

    Whoever may read the log reads them: give what is public among the parties, and nothing that depends on a weight, an input, an answer
    or a key. Text is cut and escaped.

    Example:
        >>> noted(model=name, examples=len(x))
    """
    notes = NOTES.get()
    if notes is not None and len(notes.facts) + len(facts) <= MOST_FACTS:
        notes.facts.update(tidy(facts))


def tidy(facts: dict[str, Fact]) -> dict[str, Fact]:
    """Return facts fit to be shown.

    Raises:
        TypeError: one is neither text nor a number, and so may hold what nobody must see.
    """
    for name, fact in facts.items():
        if not isinstance(fact, (str, int, float)):
            raise TypeError(f"{name} is a {type(fact).__name__}: facts are text, numbers and truths")
    return {name: shown(fact, FACT_LIMIT) if isinstance(fact, str) else fact for name, fact in facts.items()}

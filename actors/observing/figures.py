"""Numbers that an actor shows whoever is responsible for its process: counts and states, with names that are public."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, Protocol, runtime_checkable

from actors.guard.words import NAME_LIMIT, shown


class Figure(NamedTuple):
    """One number.

    Attributes:
        name: by the rules of Prometheus, with its unit; the same for all figures of a kind.
        meaning: in words, the same for all figures of a name.
        value: now.
        labels: what tells figures of one name apart. Few values each: names of models, kinds of answers.
        grows: it is a count that never falls, as long as the process runs.
    """

    name: str
    meaning: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    grows: bool = False


@runtime_checkable
class Observed(Protocol):
    """An actor that shows figures. It is asked when somebody looks, and never by a message from elsewhere."""

    async def observed(self) -> Collection[Figure]:
        """Return what may be seen of it: quickly, and nothing that depends on a secret."""


def state(name: str, meaning: str, value: float, **labels: str) -> Figure:
    """Return a figure that rises and falls (a gauge)."""
    return Figure(f"confide_{name}", meaning, value, _labelled(labels))


def count(name: str, meaning: str, value: float, **labels: str) -> Figure:
    """Return a figure that only grows (a counter); Prometheus appends `_total` to its name."""
    return Figure(f"confide_{name}", meaning, value, _labelled(labels), True)


def _labelled(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, shown(value, NAME_LIMIT)) for name, value in labels.items())

"""Who lives in a system under which name, and why those who do not any more have ended."""

from __future__ import annotations

from collections import OrderedDict

from actors.address import NAME
from actors.errors import ActorNotFound, ActorStopped, NameTaken
from actors.running.cell import CRASHED, Cell

REMEMBERED = 1024
"""How many actors that have ended are remembered, so that calls to them say why."""


class Names:
    """The actors of one system by name."""

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._numbers: dict[str, int] = {}

    def free(self, name: str | None, stem: str) -> str:
        """Return a name that nobody has: `name`, or one made from `stem`.

        Raises:
            NameTaken: somebody has it.
            ValueError: it cannot be a name.
        """
        if name is None:
            return self._numbered(stem.strip("_").lower())
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be the name of an actor; use letters, digits, '.', '_' and '-', and begin with one of the first two"
            )
        if name in self._cells:
            raise NameTaken(f"an actor named {name!r} lives in this system already; choose another name or stop it first")
        return name

    def _numbered(self, stem: str) -> str:
        while True:
            self._numbers[stem] = self._numbers.get(stem, 0) + 1
            name = f"{stem}-{self._numbers[stem]}"
            if name not in self._cells:
                return name

    def add(self, name: str, cell: Cell) -> None:
        """Somebody new."""
        self._cells[name] = cell
        self._ended.pop(name, None)

    def forget(self, name: str, reason: str) -> None:
        """Somebody has ended."""
        del self._cells[name]
        self._ended[name] = reason
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    @property
    def crashed(self) -> bool:
        """Whether an actor has ended that nobody stopped, and no other has its name."""
        return any(reason.startswith(CRASHED) for reason in self._ended.values())

    def find(self, name: str, where: str) -> Cell:
        """Return the actor of a name. `where` is for the error.

        Raises:
            ActorNotFound, ActorStopped: it is not there (any more).
        """
        cell = self._cells.get(name)
        if cell is not None:
            return cell
        if name in self._ended:
            raise ActorStopped(f"actor {name!r} {where} has ended: {self._ended[name]}")
        raise ActorNotFound(f"no actor named {name!r} lives {where}")

    def youngest_first(self) -> list[Cell]:
        """All of them, the last one first."""
        return list(self._cells.values())[::-1]

"""What somebody else said, made fit to be shown: in a log, on a terminal, in the message of an error."""

from __future__ import annotations

import traceback

TEXT_LIMIT = 4_000
"""Characters of one text of another process."""
NAME_LIMIT = 100
"""Characters of a name in it: of a class, an actor, a message."""
CAUSES = 5
"""Errors of a chain of causes that are shown."""
FRAMES = 12
"""Innermost frames of each of them."""


def shown(text: str, most: int = TEXT_LIMIT) -> str:
    """Return the text in one line of at most `most` characters, without anything that a terminal or a reader of logs would obey.

    Control characters, line breaks, marks that turn the direction of writing, and halves of characters are written as escapes.
    """
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)[:most]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def name_of(cls: type) -> str:
    """Return the bare name of a class of errors if it is short and plain; otherwise `Exception`."""
    return checked_name(cls.__name__)


def checked_name(name: str) -> str:
    """Return the name itself if it can be the dotted name of a class; otherwise `Exception`."""
    plain = len(name) <= NAME_LIMIT and name.isascii() and all(part.isidentifier() for part in name.split("."))
    return name if plain else "Exception"


def trace(error: BaseException) -> str:
    """Where an error was raised, and from which others: for the log of the process in which it happened.

    The stack shows lines of code and no values of variables. The message of each error, which may have parts that a stranger chose, stays
    in one line.
    """
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(parts) < CAUSES:
        stack = "".join(traceback.format_tb(cause.__traceback__, limit=-FRAMES))
        parts.append(f"{stack}{type(cause).__name__}: {shown(str(cause))}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\ncaused by:\n".join(parts)

"""Errors that cross from one process to another without pickle: by the name of a registered class, with plain arguments.

Only the texts of registered classes cross: whoever registers a class vouches for what it says. Of any other error, those of Python and of
libraries included, the bare name of its class crosses and nothing else. Its text may quote what the handler worked on, and its traceback
shows the files of a machine: both stay in the log of the process where it was raised.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from actors import errors
from actors.errors import ChildFailed, OneWayFailed, RemoteError
from actors.guard.words import TEXT_LIMIT, checked_name, name_of, shown

E = TypeVar("E", bound=type[BaseException])
Plain = None | bool | int | float | str

ARGUMENTS_LIMIT = 16
"""Arguments of an error that are sent."""
KEPT_THERE = "failed inside the handler; the log of its own system says why"
"""Told in place of what an error says that is not portable."""

_registered: dict[str, type[BaseException]] = {}


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error on the wire: qualified name of its class, its arguments, and its message.

    Of an error that is not portable: the bare name of its class, no arguments, and `KEPT_THERE`. Earlier versions sent a traceback as well;
    it is not read.
    """

    class_name: str
    arguments: list[Plain]
    text: str


def portable_error(cls: E) -> E:
    """Register a class of errors that keeps its class when it crosses from one process to another.

    The class is made again from its arguments `args`, so it must be possible to call it with them. Arguments that are no None, bool, int,
    float or str are replaced by the name of their type. It must be registered in both processes, which importing its module does. What it
    says is shown to callers: put nothing into it that they must not see, no text of another error either.

    Example:
        >>> @portable_error
        ... class OutOfStock(Exception):
        ...     pass
    """
    if not (isinstance(cls, type) and issubclass(cls, Exception)):
        raise TypeError(f"{cls!r} is not a class of exceptions; only these can be portable errors")
    _registered[_name(cls)] = cls
    return cls


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def is_portable(error: BaseException) -> bool:
    """Whether what an error says may leave this process."""
    return _registered.get(_name(type(error))) is type(error)


def told(error: BaseException) -> str:
    """Return what others may be told of an error, in a sentence."""
    if is_portable(error):
        return f"{type(error).__name__}: {_text(error)}"
    return f"{name_of(type(error))}: {KEPT_THERE}"


def to_wire(error: BaseException) -> Failure:
    """Return an error as it is sent."""
    if isinstance(error, RemoteError):  # passes through
        return Failure(error.class_name, [], KEPT_THERE)
    if not is_portable(error):
        return Failure(name_of(type(error)), [], KEPT_THERE)
    arguments = [_plain(argument) for argument in error.args[:ARGUMENTS_LIMIT]]
    return Failure(_name(type(error)), arguments, _text(error))


def _plain(value: object) -> Plain:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return "<a large int>"
    return value if value is None or isinstance(value, (bool, int, float)) else f"<{type(value).__name__}>"


def _clean(text: str) -> str:
    """Text that can be encoded, of bounded length."""
    return text[:TEXT_LIMIT].encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    """Return the message of an error, unless it would show an argument that is not sent."""
    shown = all(isinstance(argument, (str, bool, int, float, type(None))) for argument in error.args)
    return _clean(str(error)) if shown else f"<{type(error).__name__}>"


def from_wire(failure: Failure, where: str) -> BaseException:
    """Return an error as it is raised at the caller: of its own class if that is registered here, otherwise a `RemoteError`.

    Args:
        failure: what arrived. Its words are made fit to be shown; those of a class that is not registered here are not shown at all.
        where: the message and the address of the actor, for the note.
    """
    cls = _registered.get(failure.class_name)
    error: BaseException
    if cls is None:
        error = RemoteError(checked_name(failure.class_name), KEPT_THERE)
    else:
        arguments = [shown(one) if isinstance(one, str) else one for one in failure.arguments]
        try:
            error = cls(*arguments)
        except Exception:  # a class that its own arguments do not make again
            error = RemoteError(checked_name(failure.class_name), shown(failure.text))
    error.add_note(f"raised by {where}")
    return error


for _error in vars(errors).values():
    if isinstance(_error, type) and issubclass(_error, errors.ActorError) and _error not in (ChildFailed, OneWayFailed, RemoteError):
        portable_error(_error)

"""Errors that cross from one process to another without pickle: by the name of a registered class, with plain arguments."""

from __future__ import annotations

import builtins
import traceback
from typing import TypeVar

import msgspec

from actors import errors
from actors.errors import RemoteError

E = TypeVar("E", bound=type[BaseException])
Plain = None | bool | int | float | str

TRACEBACK_LIMIT = 16_000
TEXT_LIMIT = 64_000
ARGUMENTS_LIMIT = 16
"""What is sent of an error: characters of its traceback, of its message and each argument, and how many arguments."""

_BUILTINS = (
    "ArithmeticError AssertionError AttributeError BufferError EOFError FileExistsError FileNotFoundError FloatingPointError "
    "IndexError InterruptedError IsADirectoryError KeyError LookupError MemoryError NotADirectoryError NotImplementedError OSError "
    "OverflowError PermissionError ProcessLookupError RecursionError ReferenceError RuntimeError TimeoutError TypeError ValueError "
    "ZeroDivisionError ConnectionError ConnectionAbortedError ConnectionRefusedError ConnectionResetError BrokenPipeError"
)
_registered: dict[str, type[BaseException]] = {}


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error on the wire: qualified name of its class, its arguments, its message, and its traceback as text (without values)."""

    class_name: str
    arguments: list[Plain]
    text: str
    traceback: str


def portable_error(cls: E) -> E:
    """Registers a class of errors that keeps its class when it crosses from one process to another.

    The class is made again from its arguments `args`, so it must be possible to call it with them. Arguments that are no None, bool, int,
    float or str are replaced by the name of their type. It must be registered in both processes, which importing its module does.

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


def to_wire(error: BaseException) -> Failure:
    """An error as it is sent."""
    if isinstance(error, RemoteError):  # passes through as it came
        return Failure(error.class_name, [], error.text, error.traceback)
    lines = _clean("".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:])
    arguments = [_plain(argument) for argument in error.args[:ARGUMENTS_LIMIT]]
    return Failure(_name(type(error)), arguments, _text(error), lines)


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
    """The message of an error, unless it would show an argument that is not sent."""
    shown = all(isinstance(argument, (str, bool, int, float, type(None))) for argument in error.args)
    return _clean(str(error)) if shown else f"<{type(error).__name__}>"


def from_wire(failure: Failure, where: str) -> BaseException:
    """An error as it is raised at the caller: of its own class if that is registered here, otherwise a `RemoteError`.

    Args:
        failure: what arrived.
        where: the message and the address of the actor, for the note with the traceback.
    """
    cls = _registered.get(failure.class_name)
    error: BaseException
    try:
        error = RemoteError(failure.class_name, failure.text, failure.traceback) if cls is None else cls(*failure.arguments)
    except Exception:  # a class that its own arguments do not make again
        error = RemoteError(failure.class_name, failure.text, failure.traceback)
    error.add_note(f"raised by {where}; traceback there:\n{failure.traceback}")
    return error


for _error in [getattr(builtins, name) for name in _BUILTINS.split()] + list(vars(errors).values()):
    if isinstance(_error, type) and issubclass(_error, Exception):
        portable_error(_error)

"""The annotations of a handler as its schema: what may be sent to it, what comes back, and what is checked on the way.

The schema of a class is built when it is first spawned or connected to, because annotations may name classes that are defined later.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from actors.actor import MARK, Actor, Declared
from actors.errors import MessageRejected
from actors.guard.words import name_of
from actors.messages.portable import is_portable
from actors.messages.reference import ActorRef
from actors.messages.values import DTYPES, PLAIN, Packed, pack, unpack

_ATOMS = frozenset({bool, int, float, str, bytes, type(None)})
SMALLEST_INT, LARGEST_INT = -(1 << 63), (1 << 64) - 1
_QUOTING = {
    "Invalid enum value": "a value that is none of those allowed",
    "Invalid value": "a kind of object that is none of those allowed",
    "Object contains unknown field": "an object with a field that is not known",
}
"""How msgspec begins a message that quotes a value, and what is said instead."""
_PLACE = re.compile(r" - at `\$\[(\d+)\](.*)`")


class Form:
    """The types of a row of values: the arguments of a message, or its result alone.

    Args:
        label: of the message, for errors.
        names: what to call each value in errors.
        types: their annotations.

    Raises:
        TypeError: a type that cannot be sent.
    """

    def __init__(self, label: str, names: Sequence[str], types: Sequence[Any]) -> None:
        self.label, self.names = label, names
        self._exact = tuple(type(None) if kind is None else kind for kind in types)
        self._all_atoms = all(isinstance(kind, type) and kind in _ATOMS for kind in self._exact)
        fields = [(f"value{i}", kind) for i, kind in enumerate(types)]
        self._struct = msgspec.defstruct("Values", fields, array_like=True, forbid_unknown_fields=True)
        for name, kind in zip(names, types, strict=True):
            _check_sendable(f"{name} of {label}", kind)

    def pack(self, values: tuple[Any, ...], *, copy: bool = False) -> Packed:
        """Take values apart to send them.

        Raises:
            MessageRejected: something in them cannot be sent.
        """
        try:
            return pack(values, copy=copy)
        except UnicodeError:
            raise MessageRejected(f"{self.label}: text that is no valid Unicode cannot be sent") from None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise MessageRejected(f"{self.label}: {error}") from None

    def unpack(self, packed: Packed) -> tuple[Any, ...]:
        """Put values together that arrived.

        Raises:
            MessageRejected: they do not fit the annotations. The message names the message and the argument, and quotes no value.
        """
        try:
            values = unpack(packed, self._struct, _converted)
        except Exception as error:  # a class in the annotations may raise anything when it is made
            raise MessageRejected(self._explain(_without_values(error))) from None
        return msgspec.structs.astuple(values)

    def transfer(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the values as they would arrive in another process: checked, and sharing no memory with the originals.

        Raises:
            MessageRejected: they cannot be sent, or do not fit the annotations.
        """
        if self._all_atoms and tuple(map(type, values)) == self._exact and _fit(values):
            return values
        return self.unpack(self.pack(values, copy=True))

    def _explain(self, text: str) -> str:
        place = _PLACE.search(text)
        if place is None:
            expected = ", ".join(self.names)
            return f"{self.label}: {text} (it takes: {expected or 'nothing'})"
        return f"{self.label}: {self.names[int(place[1])]}{place[2]}: {_PLACE.sub('', text)}"


def _without_values(error: Exception) -> str:
    """Say what was wrong with values that arrived, without quoting them: its reader may not be the one who sent them."""
    cause, text = error.__cause__, str(error)
    if isinstance(error, MessageRejected) or isinstance(cause, _Unfit) or (cause is not None and is_portable(cause)):
        return text
    place = _PLACE.search(text)
    where = place[0] if place else ""
    if cause is not None or not isinstance(error, msgspec.MsgspecError):  # raised by a class in the annotations
        return f"a value that its class refuses ({name_of(type(cause or error))}){where}"
    return next((instead + where for start, instead in _QUOTING.items() if text.startswith(start)), text)


def _fit(atoms: tuple[Any, ...]) -> bool:
    """Whether all integers fit 64 bits."""
    for atom in atoms:  # noqa: SIM110 (faster, and on the way of each call)
        if type(atom) is int and not SMALLEST_INT <= atom <= LARGEST_INT:
            return False
    return True


class Message:
    """One message of a class of actors.

    Attributes:
        name: of the method.
        label: "Class.method", for errors.
        reentrant: as given to `@message`.
        by: the roles of those who may send it where roles are known.
        asynchronous: False for a plain `def`.
        arguments, result: what may be sent and what comes back.
    """

    def __init__(self, cls: type[Actor], function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.label = f"{cls.__qualname__}.{self.name}"
        self.function = function
        declared: Declared = getattr(function, MARK)
        self.reentrant, self.by = declared.reentrant, declared.by
        self.asynchronous = inspect.iscoroutinefunction(function)
        hints = _hints(self.label, function)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        self._signature = inspect.Signature(parameters)
        self._positional = sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
        self._count = len(parameters)
        self._keywords = [parameter.name for parameter in parameters[self._positional :]]
        self.arguments = Form(self.label, [f"argument {p.name!r}" for p in parameters], [hints[p.name] for p in parameters])
        self.result = Form(self.label, ["result"], [hints.get("return", Any)])

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """All arguments in order, defaults included.

        Raises:
            TypeError: too many, too few, or an unknown name.
        """
        if len(args) == self._count and not kwargs and not self._keywords:
            return args
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.label}{self._signature}: {error}") from None
        bound.apply_defaults()
        return tuple(bound.arguments.values())

    def invoke(self, actor: Actor, arguments: tuple[Any, ...]) -> Any:
        """Call the handler: return its result, or a coroutine if it is `asynchronous`."""
        if not self._keywords:
            return self.function(actor, *arguments)
        named = dict(zip(self._keywords, arguments[self._positional :], strict=True))
        return self.function(actor, *arguments[: self._positional], **named)


_messages: dict[type, dict[str, Message]] = {}
_references: dict[type, type[ActorRef]] = {}


def messages_of(cls: type[Actor]) -> dict[str, Message]:
    """Return the messages of a class by name.

    Raises:
        TypeError: an annotation cannot be resolved, or is of a type that cannot be sent.
    """
    if cls not in _messages:
        _messages[cls] = _compile(cls)
    return _messages[cls]


def _compile(cls: type[Actor]) -> dict[str, Message]:
    found = {name: member for base in reversed(cls.__mro__) for name, member in vars(base).items() if hasattr(member, MARK)}
    return {name: Message(cls, function) for name, function in sorted(found.items())}


def _hints(label: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{label}: an annotation cannot be resolved: {error}; import or define it at the top of the module") from None
    function.__annotations__ = dict(hints)  # resolved, so that they can be shipped to a process that lacks the module
    return hints


def reference_type(cls: type[Actor]) -> type[ActorRef]:
    """Return the class of references to actors of `cls`: one method for each message.

    To `isinstance` a reference looks like an instance of `cls`, as it does to type checkers.
    """
    if cls not in _references:
        _references[cls] = _make_reference(cls)
    return _references[cls]


def _make_reference(cls: type[Actor]) -> type[ActorRef]:
    members: dict[str, Any] = {name: _method(one) for name, one in messages_of(cls).items()}
    members |= {"__slots__": (), "_messages": tuple(messages_of(cls)), "__class__": property(lambda self: cls), "__doc__": cls.__doc__}
    return type(f"Ref[{cls.__name__}]", (ActorRef,), members)


def _method(one: Message) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(one.function)
    def method(self: ActorRef, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        return self._deliver(one, one.bind(args, kwargs))

    return method


def typed(ref: ActorRef, cls: type[Actor]) -> ActorRef:
    """Return the same reference, with the messages of `cls`."""
    return reference_type(cls)(ref._transport, ref._name, timeout=ref._timeout, one_way=ref._one_way)


class _Unfit(ValueError):  # never leaves this file: `unpack` makes it a MessageRejected
    """A value is not what its annotation says. The message names types only."""


def _converted(kind: Any, value: Any) -> Any:
    """Convert what msgspec does not know: arrays of a declared dtype, and references to a declared class."""
    origin = get_origin(kind) or kind
    if origin is np.ndarray:
        return _array(kind, value)
    if not isinstance(value, ActorRef):
        raise _Unfit(f"Expected a reference to `{origin.__name__}`, got `{type(value).__name__}`")
    return value if origin is ActorRef else typed(value, origin)


def _array(kind: Any, value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise _Unfit(f"Expected an array, got `{type(value).__name__}`")
    dtype = _element(kind)
    if dtype is not None and not np.issubdtype(value.dtype, dtype):
        raise _Unfit(f"Expected an array of {dtype.__name__}, got one of {value.dtype}")
    return value


@functools.cache
def _element(kind: Any) -> type[np.generic] | None:
    """Return the scalar type in `np.ndarray[shape, np.dtype[scalar]]`; None if anything goes."""
    arguments = get_args(kind)
    inner = get_args(arguments[1]) if len(arguments) == 2 else ()
    return inner[0] if inner and isinstance(inner[0], type) and issubclass(inner[0], np.generic) else None


def _check_sendable(where: str, kind: Any) -> None:
    """Refuse a type that no value on the wire can have."""
    try:
        for leaf in _custom_leaves(msgspec.inspect.type_info(kind), set()):
            if not (issubclass(leaf, (np.ndarray, Actor, ActorRef))):
                raise TypeError(f"a {leaf.__module__}.{leaf.__qualname__} cannot be sent; these can: {PLAIN}")
        msgspec.msgpack.Decoder(kind)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    dtype = _element(kind)
    if dtype is not None and not any(issubclass(one.type, dtype) for one in DTYPES.values()):
        raise TypeError(f"{where}: arrays of {dtype.__name__} cannot be sent")


def _custom_leaves(info: Any, seen: set[int]) -> Iterator[type]:
    """Yield the classes in a type that msgspec does not know itself."""
    if isinstance(info, (list, tuple)):
        for item in info:
            yield from _custom_leaves(item, seen)
    elif isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    elif isinstance(info, msgspec.Struct) and id(info) not in seen:
        seen.add(id(info))
        yield from _custom_leaves([getattr(info, name) for name in info.__struct_fields__], seen)

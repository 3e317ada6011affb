"""What an actor is: a class whose methods marked with `@message` can be called from outside, one message at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, overload

from actors.supervision import Restart, Terminated

A = TypeVar("A")
B = TypeVar("B", bound="Actor")
P = ParamSpec("P")
R = TypeVar("R")

MARK = "__actor_message__"
"""The attribute of a method that holds its `Declared`."""
ANYONE = "anyone"
"""The role of everybody who can connect."""
RESERVED = frozenset({"with_options", "started", "stopped", "system", "me"})


@dataclass(frozen=True)
class Declared:
    """What `@message` was told."""

    reentrant: bool
    by: frozenset[str]


class Surroundings(Protocol):
    """What an actor can do with the system that it lives in. `ActorSystem` is it, and says more of each method."""

    @property
    def address(self) -> str:
        """Where the system listens, `ws://host:port`; empty if it cannot be reached by an address."""
        ...

    @property
    def listens(self) -> bool:
        """Whether other systems can connect."""
        ...

    async def spawn(
        self,
        actor: type[B],
        /,
        *args: Any,
        name: str | None = None,
        restart: Restart | None = None,
        mailbox: int | None = None,
        **kwargs: Any,
    ) -> B:
        """Start an actor in this process."""
        ...

    async def connect(self, address: str, actor: type[B]) -> B:
        """Return a reference to an actor elsewhere."""
        ...

    async def watch(self, ref: Actor) -> Terminated:
        """Wait until an actor has ended, or its connection is lost."""
        ...

    async def stop(self, ref: Actor) -> None:
        """End an actor of this system, or one that it has started elsewhere."""
        ...

    def certificate(self, ref: Actor) -> bytes | None:
        """Return the certificate of the system that a received reference leads to."""
        ...

    def holder(self, ref: Actor) -> Any:
        """Return the `Caller` at the other end of the connection that a received reference came by."""
        ...


class Actor:
    """State that only its own handlers touch. Subclass it, mark what may be called from outside with `@message`, and spawn it.

    `__init__` need not call `super().__init__()`. Two hooks may be overridden: `started` runs before the first message and may raise to
    refuse; `stopped` runs when this instance ends, for whatever reason.

    Attributes:
        system: the system that the actor lives in; set before `__init__` runs.
        me: a reference to the actor itself, to send to others; set before `__init__` runs.

    Example:
        >>> class Counter(Actor):
        ...     def __init__(self, start: int = 0) -> None:
        ...         self.total = start
        ...
        ...     @message
        ...     async def add(self, n: int) -> int:
        ...         self.total += n
        ...         return self.total
    """

    system: Surroundings
    me: Self

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, member in vars(cls).items():
            if hasattr(member, MARK):
                _check_message(cls, name, member)
            elif any(hasattr(vars(base).get(name), MARK) for base in cls.__mro__[1:]):
                raise TypeError(f"{cls.__qualname__}.{name} overrides a message; mark it with @message too")

    async def started(self) -> None:
        """Prepare this instance: run before the first message. An exception here counts as a crash."""

    async def stopped(self) -> None:
        """Clean up: run when this instance has ended, because it was stopped, has crashed, or its system ends."""

    def with_options(self, *, timeout: float | EllipsisType | None = ..., one_way: bool | None = None) -> Self:
        """Exist for type checkers only: `spawn` and `connect` return references, which have it. See `ActorRef.with_options`."""
        raise TypeError("with_options belongs to references; within an actor use self.me.with_options(...)")


def _check_message(cls: type, name: str, function: Any) -> None:
    where = f"{cls.__qualname__}.{name}"
    if name.startswith("_") or name in RESERVED:
        raise TypeError(
            f"{where} cannot be a message: names with a leading underscore and {sorted(RESERVED)} are not callable from outside"
        )
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where}: a message has a fixed list of arguments, and {parameter} is open-ended; use a list or dict argument")
        if parameter.annotation is parameter.empty:
            raise TypeError(
                f"{where}: argument {parameter.name!r} needs an annotation, which is checked on arrival; Any takes plain values"
            )


class _Mark(Protocol):
    @overload
    def __call__(
        self, handler: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], /
    ) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[A, P], R], /) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]: ...


@overload
def message(handler: Callable[Concatenate[A, P], Coroutine[Any, Any, R]], /) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]: ...
@overload
def message(handler: Callable[Concatenate[A, P], R], /) -> Callable[Concatenate[A, P], Coroutine[Any, Any, R]]: ...
@overload
def message(*, reentrant: bool = False, by: str | Collection[str] = ()) -> _Mark: ...
def message(handler: Any = None, /, *, reentrant: bool = False, by: str | Collection[str] = ()) -> Any:
    """Mark a method of an actor as callable from outside.

    The annotations of the method are its schema: arguments and result are checked against them where they arrive. An `async def`
    handler runs in a task of its own. A plain `def` handler runs straight away, without a task, and must not block.

    Args:
        handler: the method, when used without parentheses.
        reentrant: False: one message at a time, in order of arrival. True: the handler starts when the message arrives and may overlap
            others at each `await`.
        by: the roles of those who may send it from another process, `ANYONE` for everybody. It holds in a system that knows roles
            (`ActorSystem(roles=...)`): there a message that names none can be sent by nobody else. Elsewhere it says what is meant.

    Returns:
        The method itself. On a reference it is awaitable whether it is `async def` or `def`, and so it is declared for type checkers.

    Raises:
        TypeError: when the class is made, if an argument has no annotation, or the name is not allowed.
    """

    def mark(function: Any) -> Any:
        setattr(function, MARK, Declared(reentrant, frozenset((by,) if isinstance(by, str) else by)))
        return function

    return mark if handler is None else mark(handler)

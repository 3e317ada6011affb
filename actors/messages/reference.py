"""References to actors. A reference knows how to reach its actor and which messages it answers, and nothing of the actor itself."""

from __future__ import annotations

from collections.abc import Coroutine
from types import EllipsisType
from typing import Any, NoReturn, Self

from actors.errors import CallTimeout
from actors.messages.deadline import Expired
from actors.messages.transport import Labelled, Transport


class ActorRef:
    """A reference to an actor in this process or another.

    For each class of actors there is a subclass, made by `schema.reference_type`, with one method for each message. Such a method
    returns a coroutine: awaiting it sends the message and waits for the result. A reference can be sent in a message, is equal to every
    other reference to the same actor, and prints as its address.
    """

    __slots__ = ("_name", "_one_way", "_timeout", "_transport")
    _messages: tuple[str, ...] | None = None

    def __init__(self, transport: Transport[Any], name: str, *, timeout: float | EllipsisType | None = ..., one_way: bool = False) -> None:
        self._transport = transport
        self._name = name
        self._timeout = transport.timeout if isinstance(timeout, EllipsisType) else timeout
        self._one_way = one_way

    def with_options(self, *, timeout: float | EllipsisType | None = ..., one_way: bool | None = None) -> Self:
        """Return the same reference with other options.

        Args:
            timeout: deadline of a call in seconds, from awaiting it to its result; None for no deadline.
            one_way: send without waiting for a result. Awaiting waits only until the message has been accepted for delivery, which a
                full mailbox delays, and returns None. If the handler fails, `on_error` of this system is called.

        Raises:
            ValueError: a deadline that is not positive.
        """
        if isinstance(timeout, EllipsisType):
            timeout = self._timeout
        elif timeout is not None and not timeout > 0:
            raise ValueError(f"timeout={timeout}: a deadline is a positive number of seconds, or None for no deadline")
        return type(self)(self._transport, self._name, timeout=timeout, one_way=self._one_way if one_way is None else one_way)

    def _deliver(self, message: Labelled, arguments: tuple[Any, ...]) -> Coroutine[Any, Any, Any]:
        return (self._send if self._one_way else self._call)(message, arguments)

    async def _call(self, message: Labelled, arguments: tuple[Any, ...]) -> Any:
        try:
            return await self._transport.call(self._name, message, arguments, self._timeout)
        except Expired:
            raise self._late(message) from None

    async def _send(self, message: Labelled, arguments: tuple[Any, ...]) -> None:
        try:
            await self._transport.send(self._name, message, arguments, self._timeout)
        except Expired:
            raise self._late(message) from None

    def _late(self, message: Labelled) -> CallTimeout:
        what = "was not accepted" if self._one_way else "did not answer"
        return CallTimeout(
            f"{message.label} of {self} {what} within {self._timeout:g} s; "
            "if it needs longer, call with_options(timeout=...) on the reference"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if self._messages is None:
            raise AttributeError(f"{self} has no known class, so {name!r} cannot be called; annotate where it arrives with the class")
        raise AttributeError(f"{self} answers no message {name!r}; it answers: {', '.join(self._messages) or 'none'}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActorRef) or self._name != other._name:
            return False
        mine, theirs = self._transport, other._transport
        return mine is theirs or (bool(mine.address) and mine.address == theirs.address)

    def __hash__(self) -> int:
        return hash(self._name)

    def __str__(self) -> str:
        address = self._transport.address
        return f"{address}/{self._name}" if address else self._name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be pickled; send it in a message, or send its address and connect to it there")


def as_reference(ref: object) -> ActorRef:
    """Return what is declared as an actor as the reference that it is.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(ref, ActorRef):
        raise TypeError(f"a {type(ref).__qualname__} is not a reference to an actor; within an actor use self.me")
    return ref

"""What a reference needs from the system that its actor lives in, whether that is this one or another."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar


class Labelled(Protocol):
    """What a reference knows of a message that it sends: its name for errors, "Class.method"."""

    @property
    def label(self) -> str:
        """The class and the method."""
        ...


M_contra = TypeVar("M_contra", bound=Labelled, contravariant=True)


class Transport(Protocol[M_contra]):
    """A way to the actors of one system. `running/memory.py` and `connection/dialed.py` (over `connection/peer.py`) implement it.

    Both keep the order in which messages to one actor are begun, copy what they carry, make the sender wait while the actor's mailbox
    is full, and stop the handler when the awaiting task is cancelled.
    """

    @property
    def address(self) -> str:
        """Of the system, `ws://host:port`; empty if it cannot be reached by an address."""
        ...

    @property
    def timeout(self) -> float | None:
        """Default deadline of a call, in seconds."""
        ...

    async def call(self, target: str, message: M_contra, arguments: tuple[Any, ...], timeout: float | None) -> Any:
        """Send a message and wait for its result; raise `Expired` after `timeout` seconds."""
        ...

    async def send(self, target: str, message: M_contra, arguments: tuple[Any, ...], timeout: float | None) -> None:
        """Send a message; wait for room only, `Expired` after `timeout` seconds. A failure goes to `on_error` of this system."""
        ...

    async def watch(self, target: str) -> str:
        """Wait until the actor has ended; return the reason."""
        ...

    async def stop(self, target: str) -> None:
        """End the actor."""
        ...

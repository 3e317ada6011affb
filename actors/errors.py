"""What can go wrong between actors.

ActorError
 +-- ActorNotFound          nobody of that name lives there, or it does not answer the messages asked for
 +-- ActorStopped           the actor has ended, or ended while the call was under way
 +-- NameTaken              an actor of that name lives in this system already
 +-- Crash                  raised by an actor to say that it cannot go on; its supervisor restarts or ends it
 +-- CallTimeout            the deadline of a call passed (also a TimeoutError)
 +-- CallCancelled          the handler cancelled itself, or was cancelled there
 +-- MessageRejected        an argument or a result that does not fit its annotation, or cannot be sent
 +-- OneWayFailed           a message without reply failed; given to `on_error` of the sender's system
 +-- RemoteError            a handler elsewhere raised an error whose class is not portable
 +-- NotAllowed             a message was sent by somebody whose role it is not to send it
 +-- CodeNotTrusted         a node was asked to run code by somebody it does not trust
 +-- ChildFailed            a child process did not start, or ended before it was ready
 +-- SystemClosed           the actor system is not running (any more)
 +-- BadCredentials         certificates, keys or lists of revoked ones that cannot be used
 +-- AuditUnwritable        the audit log cannot be written, and nothing that belongs into it is done
 +-- AuditBroken            an audit log is not what its process has written
 +-- LinkError
      +-- ConnectFailed     nobody answers at an address, or not with this protocol
      +-- ConnectionLost    a connection ended while it was needed
      +-- AddressInUse      the address to listen on belongs to somebody else
      +-- BadAddress        an address that cannot be understood
      +-- InsecureAddress   plaintext outside of this machine, or TLS without certificates
      +-- WireError         bytes that are not this protocol; the connection they came over is closed
           +-- Truncated        a message ends too early
           +-- TooLarge         a message, or an array in it, is larger than allowed
           +-- Malformed        a header that cannot be understood
           +-- UnknownType      a kind of frame, or a dtype, that is not known
           +-- VersionMismatch  the other side speaks another version, or another protocol
           +-- Overrun          the other side sent more messages than it was allowed to

All of them but `ChildFailed` and `OneWayFailed`, which quote others, keep their class when they cross from one process to another.
"""

from __future__ import annotations


class ActorError(Exception):
    """The root of all errors of `actors`."""


class ActorNotFound(ActorError):
    """Nobody of that name lives there, or it does not answer the messages asked for."""


class ActorStopped(ActorError):
    """The actor has ended, or ended while the call was under way."""


class NameTaken(ActorError):
    """An actor of that name lives in this system already."""


class Crash(ActorError):
    """Raised by an actor to say that it cannot go on: the caller gets it too, and the actor is restarted or ended."""


class CallTimeout(ActorError, TimeoutError):
    """The deadline of a call passed. The handler has been told to stop."""


class CallCancelled(ActorError):
    """The handler cancelled itself, or was cancelled where it runs."""


class MessageRejected(ActorError):
    """An argument or a result does not fit its annotation, or cannot be sent at all. It was not delivered."""


class OneWayFailed(ActorError):
    """A message without reply failed. Its `__cause__` is the error."""


class RemoteError(ActorError):
    """A handler elsewhere raised an error that is not registered as portable. What it said is in the log of the system there.

    Attributes:
        class_name: of the error.
        text: what is told of it.
    """

    def __init__(self, class_name: str, text: str = "") -> None:
        super().__init__(class_name, text)
        self.class_name, self.text = class_name, text

    def __str__(self) -> str:
        return f"{self.class_name}: {self.text}"


class NotAllowed(ActorError):
    """A message was sent by somebody whose role it is not to send it. It was not looked at."""


class CodeNotTrusted(ActorError):
    """A node was asked to run code by somebody that it does not trust."""


class ChildFailed(ActorError):
    """A child process did not start, or ended before it was ready."""


class SystemClosed(ActorError):
    """The actor system is not running (any more)."""


class BadCredentials(ActorError):
    """A certificate, a key or a list of revoked certificates cannot be used. The message names the file, and shows nothing of a key."""


class AuditUnwritable(ActorError):
    """The audit log of a system cannot be written: what belongs into it is not done."""


class AuditBroken(ActorError):
    """An audit log is not what its process has written; the message names the first entry that is broken."""


class LinkError(ActorError):
    """The root of what concerns addresses and connections."""


class ConnectFailed(LinkError):
    """Nobody answers at an address, or not with this protocol."""


class ConnectionLost(LinkError):
    """A connection ended while it was needed.

    Attributes:
        address: of the other side.
        when: the time in UTC, as text.
        why: the reason as far as it is known.
    """

    def __init__(self, address: str, when: str = "", why: str = "") -> None:
        super().__init__(address, when, why)
        self.address, self.when, self.why = address, when, why

    def __str__(self) -> str:
        return f"the connection to {self.address} was lost at {self.when}: {self.why}"


class AddressInUse(LinkError):
    """The address to listen on belongs to somebody else."""


class BadAddress(LinkError, ValueError):
    """An address cannot be understood."""


class InsecureAddress(LinkError):
    """Plaintext outside of this machine was not allowed by name, or TLS was asked for without certificates."""


class WireError(LinkError):
    """Bytes arrived that are not this protocol. The connection they came over is closed."""


class Truncated(WireError):
    """A message ends before all that its header announced has arrived."""


class TooLarge(WireError):
    """A message, or an array in it, is larger than allowed."""


class Malformed(WireError):
    """A header cannot be understood."""


class UnknownType(WireError):
    """A kind of frame, or a dtype, is not known."""


class VersionMismatch(WireError):
    """The other side speaks another version, or another protocol."""


class Overrun(WireError):
    """The other side sent more messages than it was allowed to."""

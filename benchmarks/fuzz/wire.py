"""What other machines send: frames, greetings, and the arguments and results of each message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect, msgpack

from actors import limits
from actors.actor import Actor
from actors.connection.wire import FrameReader, Packet, encode, hello
from actors.errors import MessageRejected, WireError
from actors.messages.frames import Cancel, Credit, Failed, FailureReport, Invocation, OneWay, Payload, Proof, Reply
from actors.messages.portable import Failure
from actors.messages.reference import ActorRef
from actors.messages.schema import Form, messages_of
from actors.messages.values import ARRAY, REFERENCE, Packed
from actors.running.directory import Directory
from federated.machines.aggregator import Aggregator
from federated.owners.owner import DataOwner
from protocols.authority.enrolment import Enrolment
from protocols.authority.presence import Presence
from protocols.serving.settlement import Settlement
from protocols.workers.worker_process import PARTS

GREETING = encode(hello(limits.MESSAGE_LIMIT)).header
DEEPEST = 4
"""Levels to which values are made for seeds."""
ACTORS: tuple[type[Actor], ...] = (*PARTS.values(), Enrolment, Presence, Settlement, Directory, Aggregator, DataOwner)


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    """Yield data in pieces, all of it in one if `size` is 0."""
    for place in range(0, len(data), size or max(1, len(data))):
        yield data[place : place + (size or len(data))]


@contextlib.contextmanager
def frames() -> Iterator[Callable[[bytes], None]]:
    """What arrives after a greeting, in pieces of as many bytes as the last byte says, as the network may cut it."""

    def run(data: bytes) -> None:
        reader = FrameReader(limits.MESSAGE_LIMIT)
        size = data[-1] if data and len(data) < 1024 else 0
        try:
            for piece in (GREETING, *in_pieces(data, size)):
                for _ in reader.feed(piece):
                    pass
            reader.end()
        except WireError:
            pass

    yield run


def frame_seeds() -> list[bytes]:
    """Frames of each kind, and calls of each message."""
    array = np.arange(6, dtype="<u8").reshape(2, 3)
    payload = Payload(msgspec.Raw(msgpack.encode([1, "x", msgpack.Ext(ARRAY, bytes(4))])), [("<u8", (2, 3))], [("", "server")])
    failure = Failure("actors.errors.MessageRejected", ["why", 1, None, 2.5], "text")
    kinds = [
        Packet(Invocation(1, "", "find", Payload(msgspec.Raw(msgpack.encode(["server"])))), []),
        Packet(Invocation(2, "server", "describe", payload), [array]),
        Packet(OneWay("server", "names", payload), [array]),
        Packet(Reply(1, payload), [array]),
        Packet(Failed(1, failure), []),
        Packet(FailureReport("server", "names", failure), []),
        Packet(Cancel(1), []),
        Packet(Credit("server", 3), []),
        Packet(Proof("ws://127.0.0.1:1", bytes(32), bytes(32)), []),
    ]
    calls = [
        b"".join(_call(number, name, message, form) for number, (message, form) in enumerate(messages_of(cls).items(), 10))
        for name, cls in PARTS.items()
    ]
    found = b"".join(encode(kinds[0]).header for _ in range(1))
    return [encode(one).joined().header for one in kinds] + [found + one for one in calls]


def _call(number: int, target: str, message: str, form: Any) -> bytes:
    values, arrays = sample(form.arguments)
    specified = [(array.dtype.str, array.shape) for array in arrays]
    return encode(Packet(Invocation(number, target, message, Payload(msgspec.Raw(values), specified)), arrays)).joined().header


def forms() -> list[Form]:
    """Return the arguments and results of all messages of all actors, in an order that stays."""
    found = {message.label: message for cls in ACTORS for message in messages_of(cls).values()}
    return [form for label in sorted(found) for form in (found[label].arguments, found[label].result)]


@contextlib.contextmanager
def messages() -> Iterator[Callable[[bytes], None]]:
    """The body of a message or of a result; the first two bytes say of which, and arrays and a reference come along."""
    known, arrays = forms(), _arrays()
    transport: Any = None

    def run(data: bytes) -> None:
        form = known[int.from_bytes(data[:2], "big") % len(known)]
        with contextlib.suppress(MessageRejected):
            form.unpack(Packed(data[2:], [array.copy() for array in arrays], [ActorRef(transport, "a", timeout=1.0)]))

    yield run


def message_seeds() -> list[bytes]:
    """A body for each."""
    return [place.to_bytes(2, "big") + sample(form)[0] for place, form in enumerate(forms())]


def _arrays() -> list[np.ndarray[Any, Any]]:
    return [np.arange(4).reshape(2, 2).astype(dtype) for dtype in ("<u8", "<f4", "<f8", "|u1", "<i8", "|b1")]


def sample(form: Form) -> tuple[bytes, list[np.ndarray[Any, Any]]]:
    """Return a body that is nearly what a form takes, and arrays for it: kinds fit, and what they mean together may not."""
    arrays: list[np.ndarray[Any, Any]] = []
    info = inspect.type_info(form._struct)
    return msgpack.encode(_made(info, arrays, 0)), arrays


def _made(info: Any, arrays: list[np.ndarray[Any, Any]], depth: int) -> Any:
    """Make a value of a type."""
    match info:
        case inspect.UnionType():
            options = [one for one in info.types if not isinstance(one, inspect.NoneType)]
            return _made(options[0], arrays, depth + 1) if options and depth < DEEPEST else None
        case inspect.LiteralType() | inspect.EnumType():
            return next(iter(info.values)) if isinstance(info, inspect.LiteralType) else next(iter(info.cls)).value
        case inspect.IntType():
            return int(info.ge if info.ge is not None else 1)
        case inspect.FloatType():
            return 0.5
        case inspect.BoolType():
            return True
        case inspect.StrType():
            return "a"
        case inspect.BytesType():
            return bytes(16)
        case inspect.TupleType():
            return [_made(one, arrays, depth + 1) for one in info.item_types]
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
            return [_made(info.item_type, arrays, depth + 1)] if depth < DEEPEST else []
        case inspect.DictType():
            return {_made(info.key_type, arrays, depth + 1): _made(info.value_type, arrays, depth + 1)} if depth < DEEPEST else {}
        case inspect.StructType() | inspect.DataclassType():
            return _structured(info, arrays, depth)
        case inspect.CustomType() if issubclass(info.cls, (Actor, ActorRef)):
            return msgpack.Ext(REFERENCE, bytes(4))
        case inspect.CustomType():
            arrays.append(_arrays()[0])
            return msgpack.Ext(ARRAY, (len(arrays) - 1).to_bytes(4, "big"))
    return None


def _structured(info: Any, arrays: list[np.ndarray[Any, Any]], depth: int) -> Any:
    fields = {one.encode_name: _made(one.type, arrays, depth + 1) for one in info.fields if one.required or depth < DEEPEST}
    tag = getattr(info, "tag", None)
    if getattr(info, "array_like", False):
        return ([] if tag is None else [tag]) + list(fields.values())
    return fields if tag is None else {info.tag_field: tag, **fields}

"""How much one header may hold, and how much memory reading it may take."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import Malformed, MessageRejected, TooLarge, WireError
from actors.connection.wire import FrameReader, Packet, encode, hello, payload
from actors.guard import structure
from actors.guard.structure import HEADER_LIMIT, MAX_ARRAYS, MAX_CONTAINERS, MAX_REFERENCES, check_structure
from actors.messages.frames import Invocation
from actors.messages.reference import ActorRef
from actors.messages.schema import Form
from actors.messages.values import Packed

LIMIT = 1 << 30
HELLO = encode(hello(LIMIT)).header
MOST_MEMORY = 64 << 20

extensions = st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=20))
leaves = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=70000) | st.binary() | extensions
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=40))


def containers(value):
    """Counts what the scan counts, on the objects."""
    if isinstance(value, list):
        return 1 + sum(map(containers, value))
    if isinstance(value, dict):
        return 1 + sum(map(containers, value.values()))
    return int(isinstance(value, msgspec.msgpack.Ext))


@given(values)
def test_the_scan_counts_lists_maps_and_extensions(value):
    data, count = msgspec.msgpack.encode(value), containers(value)
    assert not structure._more_than(count, data)
    if count:
        assert structure._more_than(count - 1, data)


@pytest.mark.parametrize("length", [0, 31, 32, 255, 256, 65535, 65536, 100_000])
@pytest.mark.parametrize("kind", [bytes, str, lambda n: msgspec.msgpack.Ext(3, bytes(n))])
def test_the_scan_steps_over_what_is_long(kind, length):
    inside = kind(length) if kind is not str else "\x7f" * length
    data = msgspec.msgpack.encode([inside, [], 1.5, -(1 << 40), {"a": []}])
    count = 4 + (kind not in (bytes, str))
    assert not structure._more_than(count, data)
    assert structure._more_than(count - 1, data)


@given(st.binary(max_size=300))
def test_the_scan_ends_on_anything(data):
    structure._more_than(10, data)


def test_bytes_that_look_like_lists_are_not_counted():
    check_structure(msgspec.msgpack.encode([b"\x90" * (HEADER_LIMIT - 100)]))
    with pytest.raises(TooLarge, match="more than 32768 lists"):
        check_structure(b"\x91" * (MAX_CONTAINERS + 1))
    check_structure(b"\x91" * MAX_CONTAINERS)


def framed(head):
    assert len(head) <= HEADER_LIMIT
    return struct.pack("<I", len(head)) + head


def call(body=b"\x90", arrays=b"\x90", refs=b"\x90"):
    return framed(b"\x95\x01\x01\xa1x\xa1y\x93" + body + arrays + refs)


def repeated(item, size=HEADER_LIMIT - 100, most=1 << 30):
    count = min(size // len(item), most)
    return b"\xdd" + struct.pack(">I", count) + item * count


def mixed(container, text):
    """As many containers as one header may have, and texts up to its end."""
    count = MAX_CONTAINERS - 10
    texts = (HEADER_LIMIT - 300 - count * len(container)) // len(text)
    return b"\xdd" + struct.pack(">I", count + texts) + container * count + text * texts


ATTACKS = {
    "references": call(refs=repeated(b"\x92\xa0\xa0")),
    "references with addresses": call(refs=repeated(b"\x92\xafws://hhhhhhhh:1\xa1a")),
    "as many references as are taken": call(refs=repeated(b"\x92\xafws://hhhhhhhh:1\xa1a", most=MAX_REFERENCES)),
    "arrays": call(arrays=repeated(b"\x92\xa3<f4\x91\x00")),
    "as many arrays as are taken": call(arrays=repeated(b"\x92\xa3<f4\x91\x01", most=MAX_ARRAYS)),
    "axes": call(arrays=b"\x91\x92\xa3<f4" + repeated(b"\x00")),
    "large axes": call(arrays=b"\x91\x92\xa3<f4" + repeated(b"\xcf" + b"\xff" * 8)),
    "arguments of an error": framed(b"\x93\x04\x01\x94\xa1a" + repeated(b"\xc0") + b"\xa1b\xa1c"),
    "texts of an error": framed(b"\x93\x04\x01\x94\xa1a" + repeated(b"\xa1x") + b"\xa1b\xa1c"),
    "report": framed(b"\x94\x07\xa1a\xa1b\x93\xa1a" + repeated(b"\xc0") + b"\xa1b"),
    "nested": framed(b"\x91" * HEADER_LIMIT),
    "nested in a body": call(body=b"\x91" * (HEADER_LIMIT - 100)),
    "fields of a frame": framed(repeated(b"\x90")),
    "fields that are not known": framed(b"\xdc\xff\xff\x05\x01" + b"\xa0" * 65533),
}
HARMLESS = {"as many references as are taken", "as many arrays as are taken", "fields that are not known"}
BODIES = {
    "empty lists": (Any, repeated(b"\x90", HEADER_LIMIT - 200)),
    "lists of one": (Any, repeated(b"\x91\x00", HEADER_LIMIT - 200)),
    "maps": (Any, repeated(b"\x81\xa1x\x80", HEADER_LIMIT - 200)),
    "maps in maps": (Any, b"\x81\xa0" * 200 + repeated(b"\x81\xc0\x80", HEADER_LIMIT - 700)),
    "numbers": (Any, repeated(b"\xcd\xff\xff", HEADER_LIMIT - 200)),
    "short texts": (Any, repeated(b"\xa2xy", HEADER_LIMIT - 200)),
    "floats": (Any, repeated(b"\xca\x00\x00\x00\x01", HEADER_LIMIT - 200)),
    "sets": (list[set[int]], repeated(b"\x90", HEADER_LIMIT - 200)),
    "tuples": (list[tuple[int, ...]], repeated(b"\x91\x01", HEADER_LIMIT - 200)),
    "as many sets as are taken, and texts": (list[set[int] | str], mixed(b"\x90", b"\xa2xy")),
    "as many maps as are taken, and texts": (Any, mixed(b"\x81\xc0\xa2xy", b"\xa2xy")),
    "extensions": (list[ActorRef], repeated(b"\xd4\x02\x00", HEADER_LIMIT - 200)),
    "keys": (
        dict[int, int],
        b"\xdf" + struct.pack(">I", 170_000) + b"".join(b"\xce" + struct.pack(">I", n + 70_000) + b"\0" for n in range(170_000)),
    ),
}


def read(data):
    """All that happens to a frame on arrival, short of finding its actor."""
    reader = FrameReader(LIMIT)
    found = [packet for piece in (HELLO, data[:1000], data[1000:]) for packet in reader.feed(piece)]
    return found[1:]


def peak_of(work):
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_header_takes_more_memory_than_it_may(name):
    def work():
        with contextlib.suppress(WireError):
            read(ATTACKS[name])

    assert peak_of(work) < MOST_MEMORY


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - HARMLESS))
def test_headers_that_hold_too_much_are_refused(name):
    with pytest.raises((TooLarge, Malformed)):
        read(ATTACKS[name])


@pytest.mark.parametrize("name", BODIES)
def test_no_body_takes_more_memory_than_it_may(name):
    kind, body = BODIES[name]
    form = Form("Some.message", ["value"], [kind])

    def work():
        try:
            for packet in read(call(body=b"\x91" + body)):
                form.unpack(Packed(packet.frame.payload.body, packet.arrays, []))
        except (WireError, MessageRejected):
            pass

    assert peak_of(work) < MOST_MEMORY


@pytest.mark.parametrize("shape", [(), (2,), (0,)])
def test_what_is_taken_can_be_sent_and_what_is_not_cannot(shape):
    arrays = [np.zeros(shape, np.float32)] * MAX_ARRAYS
    [packet] = read(encode(Packet(Invocation(1, "a", "b", payload(b"\x90", arrays, [])), arrays)).joined().header)
    assert len(packet.arrays) == MAX_ARRAYS
    with pytest.raises(TooLarge, match="8193 arrays and 0 references"):
        payload(b"\x90", [*arrays, arrays[0]], [])
    refs = [("ws://somewhere:1", "name")] * MAX_REFERENCES
    [packet] = read(encode(Packet(Invocation(1, "a", "b", payload(b"\x90", [], refs)), [])).header)
    assert len(packet.frame.payload.refs) == MAX_REFERENCES
    with pytest.raises(TooLarge, match="0 arrays and 1025 references"):
        payload(b"\x90", [], [*refs, refs[0]])


def test_the_sender_is_told_before_anything_is_sent():
    with pytest.raises(TooLarge, match="more than 32768 lists"):
        encode(Packet(Invocation(1, "a", "b", payload(msgspec.msgpack.encode([[]] * (MAX_CONTAINERS + 1)), [], [])), []))

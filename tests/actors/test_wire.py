"""Frames to bytes and back, without a connection."""

from __future__ import annotations

import contextlib
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from actors.connection.websocket import FRAGMENT, fragments
from actors.connection.wire import HEADER_LIMIT, FrameReader, Packet, encode, hello, payload
from actors.errors import Malformed, TooLarge, Truncated, UnknownType, VersionMismatch
from actors.messages.frames import PROTOCOL, VERSION, Cancel, Credit, Failed, FailureReport, Hello, Invocation, OneWay, Reply
from actors.messages.portable import Failure
from actors.messages.values import DTYPES, pack

LIMIT = 1 << 20
HELLO = encode(hello(LIMIT)).header

numbers = st.integers(0, 2**63 - 1)
failures = st.builds(Failure, st.text(), st.lists(st.none() | st.booleans() | numbers | st.text(), max_size=16), st.text())
arrays = hnp.arrays(
    st.sampled_from([np.dtype(name).newbyteorder(order) for name in DTYPES for order in "<>"]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
views = st.tuples(arrays, st.booleans()).map(lambda pair: pair[0].T[..., ::-1] if pair[1] and pair[0].ndim else pair[0])


@st.composite
def packets(draw):
    packed = pack([*draw(st.lists(views, max_size=3)), draw(st.text())], copy=False)
    value = payload(packed.body, packed.arrays, draw(st.lists(st.tuples(st.text(), st.text()), max_size=2)))
    kinds = {
        Invocation: (draw(numbers), draw(st.text()), draw(st.text()), value),
        OneWay: (draw(st.text()), draw(st.text()), value),
        Reply: (draw(numbers), value),
        Failed: (draw(numbers), draw(failures)),
        Cancel: (draw(numbers),),
        Credit: (draw(st.text()), draw(numbers)),
        FailureReport: (draw(st.text()), draw(st.text()), draw(failures)),
    }
    kind = draw(st.sampled_from(list(kinds)))
    return Packet(kind(*kinds[kind]), packed.arrays if kind in (Invocation, OneWay, Reply) else [])


def whole(packet):
    return encode(packet).joined().header


def read(data, limit=LIMIT):
    reader = FrameReader(limit)
    found = list(reader.feed(data))
    reader.end()
    return found


@given(st.lists(packets(), max_size=4), st.data())
def test_frames_arrive_equal_in_whatever_pieces(sent, data):
    stream = HELLO + b"".join(map(whole, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader(LIMIT)
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.feed(stream[start:stop])
    reader.end()
    assert received[0].frame == Hello(PROTOCOL, VERSION, LIMIT)
    assert [msgspec.msgpack.encode(packet.frame) for packet in received[1:]] == [msgspec.msgpack.encode(packet.frame) for packet in sent]
    for got, packet in zip(received[1:], sent, strict=True):
        assert [array.dtype for array in got.arrays] == [array.dtype for array in packet.arrays]
        for arrived, array in zip(got.arrays, packet.arrays, strict=True):
            np.testing.assert_array_equal(arrived, array)


@given(views)
def test_packed_arrays_have_the_same_elements(array):
    [packed] = pack(array, copy=False).arrays
    np.testing.assert_array_equal(packed, array)
    assert packed.shape == array.shape
    assert packed.flags.c_contiguous
    assert packed.dtype.str in DTYPES


@given(packets(), st.data())
def test_a_truncated_message_is_refused(packet, data):
    stream = whole(packet)
    cut = data.draw(st.integers(1, len(stream) - 1))
    with pytest.raises(Truncated, match="ends within a frame"):
        read(HELLO + stream[:cut])


@given(st.binary(min_size=1, max_size=200))
def test_garbage_is_refused_or_waits_for_more(data):
    with pytest.raises((Truncated, Malformed, TooLarge, UnknownType, VersionMismatch)):
        read(data)


@given(packets(), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_frame_never_raises_anything_else(packet, place, value):
    stream = bytearray(whole(packet))
    stream[place % len(stream)] = value
    with contextlib.suppress(Truncated, Malformed, TooLarge, UnknownType):
        read(HELLO + bytes(stream))


def header(*fields):
    body = msgspec.msgpack.encode(fields)
    return struct.pack("<I", len(body)) + body


def reply(*arrays):
    return header(3, 1, [None, list(arrays), []])


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (header(99, 1), UnknownType, "unknown kind"),
        (header(5), Malformed, "length 2"),
        (header(5, "x"), Malformed, "Expected `int`"),
        (header(5, 1)[:-1] + b"\xc1", Malformed, "a header that is none"),
        (struct.pack("<I", 0), Malformed, "truncated"),
        (struct.pack("<I", HEADER_LIMIT + 1), TooLarge, "header of 1048577 bytes"),
        (header(0, PROTOCOL, VERSION, 1), Malformed, "second greeting"),
        (reply(("|O", (1,))), UnknownType, r"dtype '\|O'"),
        (reply(("<f8", (-1,))), Malformed, "negative"),
        (reply(("<f8", (1,) * 33)), Malformed, "33 axes"),
        (reply(("<f8", (LIMIT,))), TooLarge, "announced"),
        (reply(("<f8", (0, 1 << 40, 1 << 40))), TooLarge, "announced"),
        (reply(*[("<f8", (LIMIT // 16,))] * 3), TooLarge, "arrays of"),
        (struct.pack("<I", 4_004) + b"\x93\x03\x01\x93" + b"\x91" * 4_000, Malformed, "nested too deeply"),
    ],
)
def test_what_breaks_the_rules_says_which(data, error, text):
    with pytest.raises(error, match=text):
        read(HELLO + data)


def test_nothing_is_allocated_for_what_is_refused(monkeypatch):
    def allocate(*_):
        raise AssertionError("allocated")

    monkeypatch.setattr(np, "empty", allocate)
    with pytest.raises(TooLarge):
        read(HELLO + reply(("<f8", (LIMIT,))))


def test_too_many_arrays():
    with pytest.raises(TooLarge, match="8193 arrays"):
        read(HELLO + reply(*[("<f8", (0,))] * 8193), limit=HEADER_LIMIT)


def test_the_first_frame_is_a_greeting():
    with pytest.raises(Malformed, match="the first frame is of type Cancel; a Hello was expected"):
        read(header(5, 1))


@pytest.mark.parametrize("greeting", [("confide-actors", VERSION + 1, LIMIT), ("something-else", VERSION, LIMIT)])
def test_another_version_or_protocol(greeting):
    with pytest.raises(VersionMismatch, match=f"speaks '{greeting[0]}' version {greeting[1]}; here it is 'confide-actors' version 1"):
        read(header(0, *greeting))


@pytest.mark.parametrize(("version", "side"), [(VERSION + 1, "this side"), (VERSION - 1, "the other side")])
def test_another_version_names_the_side_to_upgrade(version, side):
    with pytest.raises(VersionMismatch, match=f"version {version}; here it is .* version {VERSION}: upgrade {side}, see docs"):
        read(header(0, PROTOCOL, version, LIMIT))


def test_a_greeting_of_a_later_version_may_say_more():
    with pytest.raises(VersionMismatch):
        read(header(0, PROTOCOL, VERSION + 1, LIMIT, "more", {"and": "more"}))


def test_a_header_too_large_to_send():
    with pytest.raises(TooLarge, match="uint8 array"):
        encode(Packet(Credit("x" * HEADER_LIMIT, 1), []))


@pytest.mark.parametrize("shapes", [[(700_000,)], [(10,), (300_000,), (3,), (0,), ()], [(200_000,)] * 5, [(5,)] * 3000])
def test_fragments_are_the_frame_in_pieces_of_bounded_size(shapes):
    values = [np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) for shape in shapes]
    packed = pack(values, copy=False)
    packet = Packet(Reply(1, payload(packed.body, packed.arrays, [])), packed.arrays)
    pieces = [bytes(piece) for piece in fragments(encode(packet))]
    assert b"".join(pieces) == whole(packet)
    assert max(map(len, pieces)) <= FRAGMENT
    assert len(pieces) <= len(whole(packet)) // FRAGMENT + 2 * len([v for v in values if v.nbytes >= FRAGMENT]) + 1


def test_only_what_can_be_changed_is_copied_when_a_frame_is_detached():
    changing, constant = np.zeros(10), np.zeros(10)
    constant.flags.writeable = False
    view = changing.view()
    view.flags.writeable = False
    read = np.frombuffer(bytes(80))
    for array, copied in [(changing, True), (view, True), (constant, False), (constant.reshape(2, 5), False), (read, False)]:
        packed = pack([array], copy=False)
        encoded = encode(Packet(Reply(1, payload(packed.body, packed.arrays, [])), packed.arrays))
        (before,) = encoded.buffers
        encoded.detach()
        assert (encoded.buffers[0] is not before) == copied
        assert encoded.buffers[0] == before


def test_a_frame_can_be_detached_while_it_is_written():
    array = np.zeros(300_000, np.float32)
    packed = pack([array], copy=False)
    encoded = encode(Packet(Reply(1, payload(packed.body, packed.arrays, [])), packed.arrays))
    before = encoded.joined().header
    pieces = fragments(encoded)
    written = bytes(next(pieces))
    encoded.detach()
    array[:] = 1
    assert written + b"".join(map(bytes, pieces)) == before

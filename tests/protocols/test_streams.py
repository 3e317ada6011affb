"""A stream of segments at one server: each once, in order, when there is room, of the right size; and how it ends."""

import asyncio

import numpy as np
import pytest

from protocols.errors import SharingError, TicketRefused, TooLarge, WorkerLost
from protocols.mpc import inference
from protocols.mpc.engine import segments
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import Input, Open
from protocols.mpc.program import Program
from protocols.serving import supply
from protocols.serving.hosting import HostedModel, Hosting
from protocols.serving.stock import Stock
from protocols.serving.streams import Window, largest_operation, window
from protocols.serving.supply import ComingPiece, Supply
from protocols.serving.ticket import Ticket

PROGRAM = Program(
    (Input(), Dense(0, 0), Select(1, 8, 24), Open(2), Dense(3, 1), Select(4, 8, 24), Open(5), Dense(6, 2)),
    ((4, 20), (20, 20), (20, 3)),
    (4,),
    1.0,
    (0.0, 1.0),
    1.0,
    Argmax(7, 0, 20),
)
PARTS = inference.segments(PROGRAM, 1)
SIZES = [part.size(1) for part in PARTS]
WORDS = [part.layout.words(1, dealt=True) for part in PARTS]


async def at_once(work):
    return work()


def of(parts, reserved: int, prepare, patience: float = 30.0, **kind) -> Supply:
    """A supply of all parts."""
    one = Supply(reserved, run=at_once, patience=patience, **kind)
    one.extend([ComingPiece(part, 1, prepare) for part in parts])
    return one


def stream(reserved: int | None = None, patience: float = 30.0) -> tuple[Supply, list]:
    """A stream whose materials are what was dealt, and what has been prepared."""
    prepared = []

    def prepare(dealt):
        prepared.append(dealt)
        return dealt

    return of(PARTS, reserved or segments.room(PARTS), prepare, patience), prepared


def dealt(number: int) -> np.ndarray:
    return np.full(WORDS[number], number, np.uint64)


async def comes(one: Supply, number: int) -> None:
    await one.room(number)
    await one.add(number, [dealt(number)], last=True)


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("reserved", [max(SIZES), segments.room(PARTS), sum(SIZES)])
@pytest.mark.parametrize("party", [0, 1])
async def test_segments_come_in_order_when_there_is_room_and_the_second_when_the_request_has_come(reserved, party):
    one, prepared = stream(reserved)

    async def provider():
        for number in range(len(PARTS)):
            await comes(one, number)

    dealing = asyncio.create_task(provider() if party else one.feed(range(len(PARTS))))
    await settled()
    assert len(prepared) == 1  # whoever has a ticket and does not use it keeps no more here
    for number in range(len(PARTS)):
        material = await one.take(number)
        assert (material == number).all() if party else material is None
        await settled()
        here = next(count for count in range(len(PARTS), 0, -1) if count == number + 1 or sum(SIZES[number:count]) <= reserved)
        assert len(prepared) == here
        assert one.held <= reserved
    await dealing


async def test_a_piece_is_taken_once():
    one, _ = stream(sum(SIZES))
    for number in range(2):
        await comes(one, number)
        await one.take(number)
    for number in range(2):
        with pytest.raises(TicketRefused, match="was used before: the same masks never serve twice"):
            await one.take(number)


async def test_pieces_are_put_together():
    one, prepared = stream()
    await comes(one, 0)
    await one.take(0)
    await one.room(1)
    words = dealt(1)
    await one.add(1, [words[:3], words[3:5]], last=False)
    assert len(prepared) == 1
    await one.add(1, [words[5:]], last=True)
    np.testing.assert_array_equal(prepared[1], words)


async def sent(one: Supply, how: str) -> None:
    """A provider that does not keep to the rules."""
    await comes(one, 0)
    await one.take(0)
    match how:
        case "another order":
            await one.room(2)
        case "announced twice":
            await one.room(1)
            await one.room(1)
        case "twice":
            await comes(one, 1)
            await one.add(1, [dealt(1)], last=True)
        case "without room":
            await one.add(1, [dealt(1)], last=True)
        case "too small":
            await one.room(1)
            await one.add(1, [dealt(1)[1:]], last=True)
        case "too large":
            await one.room(1)
            await one.add(1, [dealt(1), dealt(1)], last=False)
        case "too many":
            for number in range(1, len(PARTS) + 1):
                await comes(one, number)
        case "the first again":
            await one.room(0)


@pytest.mark.parametrize(
    "how", ["another order", "announced twice", "twice", "without room", "too small", "too large", "too many", "the first again"]
)
async def test_whatever_breaks_the_rules_is_refused_and_ends_the_stream(how):
    one, _ = stream(sum(SIZES))
    with pytest.raises(TicketRefused, match="pieces come in order, each once, whole, and when there is room"):
        await sent(one, how)
    assert one.ended
    with pytest.raises(WorkerLost, match=r"the crypto provider broke the stream of randomness of this ticket .*ask again"):
        await one.take(1)


async def test_what_does_not_come_in_time_ends_the_evaluation_by_name():
    one, _ = stream(patience=0.0)
    assert one.longest == max(SIZES) / supply.SLOWEST
    assert stream(patience=5.0)[0].longest == 5 + one.longest  # a round of the other server waits as long, and its own patience
    with pytest.raises(WorkerLost, match=f"piece 1 of {len(PARTS)} of the randomness of this ticket did not come"):
        await one.take(0)


async def test_a_stream_that_is_closed_frees_what_it_holds_and_lets_the_provider_go():
    one, _ = stream(max(SIZES))
    await comes(one, 0)
    waiting = [asyncio.create_task(one.room(1)), asyncio.create_task(one.take(3))]
    await asyncio.sleep(0)
    one.close()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert outcome is None or isinstance(outcome, TicketRefused)
    assert not one._here
    with pytest.raises(TicketRefused, match="wanted no more"):
        await one.add(1, [dealt(1)], last=True)


async def test_a_segment_that_cannot_be_prepared_ends_the_stream():
    def fail(dealt):
        raise MemoryError

    one = of(PARTS, sum(SIZES), fail)
    with pytest.raises(MemoryError):
        await one.feed(range(len(PARTS)))
    with pytest.raises(WorkerLost, match="could not be prepared"):
        await one.take(0)


def test_how_a_program_is_streamed_follows_from_its_memory():
    size, most = inference.layout(PROGRAM).bytes_per_example, largest_operation(PROGRAM)
    assert window(PROGRAM, size) is None
    assert window(PROGRAM, size - 1).room < size
    assert window(PROGRAM, most) == Window(most // segments.PARTS, most)
    with pytest.raises(TooLarge, match=f"one example needs {size:,} bytes of randomness at a server, {most:,} of them at once"):
        window(PROGRAM, most - 1)


def hosted(party: int = 1) -> HostedModel:
    model, weights, tickets, seal = (bytes([i]) * 16 for i in range(4))
    one = HostedModel(Hosting("small", PROGRAM, party, False, model, weights, tickets, seal, None))
    one.load([np.zeros(shape, np.uint64) for shape in PROGRAM.weights])
    return one


def supplied(model: HostedModel, chunk: bytes, how: Window | None, reveal="logits", examples: int = 1) -> Supply:
    return model.supply(reveal, chunk, bytes(16), examples, how, run=at_once, patience=1.0)[0]


def test_a_server_opens_no_more_streams_than_it_has_memory_for_and_each_once():
    how = window(PROGRAM, largest_operation(PROGRAM))
    model = hosted()
    model.stock = Stock(2 * how.room)
    first = supplied(model, b"1", how)
    supplied(model, b"2", window(PROGRAM.for_label(), how.room), "label")
    with pytest.raises(SharingError, match="are open here, and one more of"):
        supplied(model, b"3", how)
    first.close()
    with pytest.raises(TicketRefused, match="has been dealt before"):
        supplied(model, b"1", how)
    supplied(model, b"3", how)
    with pytest.raises(TicketRefused, match="no chunk of this name is open"):
        model.stock[b"4"]
    with pytest.raises(SharingError, match="does not fit"):
        supplied(model, b"5", Window(1, 8))


async def test_whole_chunks_count_as_many_bytes_as_their_examples_that_have_not_left():
    size, model = inference.layout(PROGRAM).bytes_per_example, hosted(0)
    model.stock = Stock(4 * size)
    await supplied(model, b"1", None, examples=3).feed(range(1))
    with pytest.raises(
        SharingError, match=f"{3 * size:,} bytes are open here, and one more of {2 * size:,} bytes: {4 * size:,} are the most"
    ):
        supplied(model, b"2", None, examples=2)
    assert model.stock.take(Ticket(b"model", b"request", 0, "logits", b"1", 0, 1)).examples == 1
    supplied(model, b"2", None, examples=2)
    for examples, how in ((0, None), (2, Window(1, 1 << 20))):
        with pytest.raises(SharingError, match=f"a chunk of {examples} examples was dealt"):
            supplied(model, b"3", how, examples=examples)


async def test_a_chunk_of_which_a_part_has_left_is_copied_before_it_counts_less():
    size, model = inference.layout(PROGRAM).bytes_per_example, hosted(0)
    model.stock = Stock(18 * size)

    def ticket(chunk, start, stop):
        return Ticket(b"model", b"request", 0, "logits", chunk, start, stop)

    def held():
        arrays = [array for one in model.stock._chunks.values() for material in materials(one) for array in material.fields.values()]
        bases = {id(base): base.nbytes for base in (array if array.base is None else array.base for array in arrays)}
        return sum(bases.values())

    def materials(chunk):
        return [chunk.supply.whole] if chunk.copies is None else chunk.copies.values()

    for number in range(6):
        name = b"%d" % number
        await supplied(model, name, None, examples=8).feed(range(1))
        whole = model.stock[name].whole.slice(0, 8)
        for start, stop in ((0, 3), (4, 8)):
            model.stock.take(ticket(name, start, stop))
        assert held() <= sum(chunk.bytes for chunk in model.stock._chunks.values()) <= 18 * size
        expected = {key: whole(*key)[3:4].copy() for key in whole.fields}
        left = model.stock._chunks[name]
        if number % 2:  # else when there is no room for the next one
            left.shrink()
            assert left.bytes == left.needed == size
        with pytest.raises(TicketRefused, match="not on stock"):
            model.stock.take(ticket(name, 2, 4))
        kept = left.slice(3, 4)
        assert all((kept(*key) == array).all() for key, array in expected.items())
        del whole, kept
    assert held() <= sum(chunk.bytes for chunk in model.stock._chunks.values()) <= 13 * size
    assert model.stock.take(ticket(b"2", 3, 4)).examples == 1
    assert model.stock.examples == 5


def test_the_randomness_of_a_stream_leaves_once_and_a_withdrawn_one_is_closed():
    how = window(PROGRAM, largest_operation(PROGRAM))
    model = hosted()
    first, second = (supplied(model, chunk, how) for chunk in (b"1", b"2"))
    tickets = [Ticket(b"model", b"request", 0, "logits", chunk, 0, 1) for chunk in (b"1", b"2")]
    with pytest.raises(TicketRefused, match="not on stock"):
        model.stock.take(Ticket(b"model", b"request", 0, "label", b"1", 0, 1))  # it was dealt for the other kind of answer
    assert model.stock.take(tickets[0]) is first
    with pytest.raises(TicketRefused, match="not on stock"):
        model.stock.take(tickets[0])
    assert not model.stock.withdraw(tickets[0])
    assert model.stock.withdraw(tickets[1])
    assert second.ended
    assert not first.ended

"""What is too large for one message: cut, put together, counted, and each word once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import ServingError, SharingError
from protocols.mpc import inference
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import Input
from protocols.mpc.program import Program
from protocols.serving import hosting
from protocols.serving.hosting import HostedModel, Hosting
from protocols.serving.pieces import BESIDE, Arriving, carved, pieces, sent_ahead
from protocols.serving.ticket import Ticket

PROGRAM = Program((Input(), Dense(0, 0), Dense(0, 1)), ((3, 2), (3, 4)), (3,), 1.0, (0.0, 1.0), 1.0, Argmax(1, 0, 20))


def hosted(party: int = 1) -> HostedModel:
    model, weights, tickets, seal = (bytes([i]) * 16 for i in range(4))
    return HostedModel(Hosting("small", PROGRAM, party, False, model, weights, tickets, seal, None))


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=6), st.integers(1, 7))
def test_pieces_together_are_the_arrays(shapes, words):
    arrays = [np.arange(np.prod(shape, dtype=int), dtype=np.uint64).reshape(shape) + 100 * i for i, shape in enumerate(shapes)]
    cut = list(pieces(arrays, 8 * words))
    assert all(0 < sum(part.size for part in piece) <= words for piece in cut)
    assert all(sum(part.size for part in piece) == words for piece in cut[:-1])
    arriving = Arriving(sum(array.size for array in arrays))
    for piece in cut:
        arriving.add(piece)
    for array, found in zip(arrays, carved(arriving.complete(), shapes), strict=True):
        np.testing.assert_array_equal(found, array)


async def test_what_fits_goes_in_one_message_and_what_does_not_goes_ahead():
    sent = []

    async def send(parts):
        sent.append([part.copy() for part in parts])

    arrays = [np.arange(10, dtype=np.uint64), np.arange(5, dtype=np.uint64)]
    assert await sent_ahead(arrays, BESIDE + 8 * 15, send) == arrays
    assert not sent
    assert await sent_ahead(arrays, BESIDE + 8 * 14, send) == []
    assert [[part.tolist() for part in piece] for piece in sent] == [[list(range(10)), [0, 1, 2, 3]], [[4]]]


def test_weights_in_pieces_are_those_weights_once():
    whole, apart = hosted(), hosted()
    arrays = [np.arange(6, dtype=np.uint64).reshape(3, 2), np.arange(12, dtype=np.uint64).reshape(3, 4)]
    whole.load(arrays)
    for piece in pieces(arrays, 8 * 5):
        apart.arrive(piece)
    apart.load([])
    for one, other in zip(whole.weights.share, apart.weights.share, strict=True):
        np.testing.assert_array_equal(one, other)
    for again in (lambda: apart.arrive([arrays[0]]), lambda: apart.load([]), lambda: apart.load(arrays)):
        with pytest.raises(ServingError, match="are here already"):
            again()


def test_pieces_that_are_too_many_too_few_or_mixed_with_the_whole_are_refused():
    arrays = [np.zeros((3, 2), np.uint64), np.zeros((3, 4), np.uint64)]
    model = hosted()
    model.arrive([arrays[0]])
    with pytest.raises(SharingError, match="6 words have arrived in pieces, 18 were expected"):
        model.load([])
    with pytest.raises(SharingError, match="begun to arrive in pieces"):
        model.load(arrays)
    with pytest.raises(SharingError, match="19 words have arrived in pieces, 18 were expected"):
        model.arrive([np.zeros(13, np.uint64)])
    with pytest.raises(SharingError, match=r"weights of shapes \[\] arrived"):
        hosted().load([])


async def at_once(work):
    return work()


async def test_randomness_in_pieces_is_prepared_as_what_came_at_once():
    words = inference.layout(PROGRAM).dealt * 3
    dealt = np.arange(words, dtype=np.uint64)
    dealt.flags.writeable = False
    materials = []
    for cut in (list(pieces([dealt], 8 * 4)), [[dealt]], [[dealt], []]):
        model = hosted()
        model.load([np.zeros((3, 2), np.uint64), np.zeros((3, 4), np.uint64)])
        supply, _ = model.supply("logits", b"chunk", bytes(16), 3, None, run=at_once, patience=1.0)
        await supply.room(0)
        for piece in cut:
            await supply.add(0, piece, last=piece is cut[-1])
        materials.append(model.stock.take(Ticket(b"model", b"request", 0, "logits", b"chunk", 0, 3)))
    for name in materials[0].fields:
        for other in materials[1:]:
            np.testing.assert_array_equal(materials[0](*name), other(*name))


def test_no_more_memory_is_set_aside_for_randomness_than_a_model_may_have(monkeypatch):
    monkeypatch.setattr(hosting, "MOST_MEMORY", 2 * inference.layout(PROGRAM).bytes_per_example)
    model = hosted()
    for chunk in range(2):
        model.supply("logits", bytes([chunk]), bytes(16), 2, None, run=at_once, patience=1.0)
    with pytest.raises(SharingError, match="and one more of"):
        model.supply("logits", b"one more", bytes(16), 1, None, run=at_once, patience=1.0)
    with pytest.raises(SharingError, match="and one more of"):
        hosted().supply("logits", b"large", bytes(16), 1 << 60, None, run=at_once, patience=1.0)

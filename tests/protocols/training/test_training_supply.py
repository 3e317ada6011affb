"""The randomness of steps: within its bound, in order, each once; the public order of examples; what fits."""

import asyncio

import msgspec
import numpy as np
import pytest

from deployment import key
from protocols.datasets.dataset import Dataset
from protocols.datasets.joined import widened
from protocols.errors import ClusterError, InputError, TicketRefused, TooLarge, WorkerLost
from protocols.mpc.engine.segments import PARTS
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.material import Material
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan
from protocols.training.terms import MOST_AHEAD, StepCircuits, ToldTerms, TrainingTerms, check_held
from protocols.workers.step_supply import StepSupply

KERNEL, BIAS = Variable("kernel0", (4, 3)), Variable("bias0", (3,))
LINEAR = ProductLayer((0,), Weight("kernel0", (4, 3)), Weight("bias0", (3,)))
PLAN = Plan((LINEAR,), (4,), 3, (KERNEL, BIAS), "crossentropy", GradientDescent(0.1))


def terms(*, examples: int = 10, batch: int = 4, order: bytes | None = None, memory: int = 1 << 20, classes: int = 3) -> TrainingTerms:
    x = Dataset("x", (examples, 4), "numbers", key("x"))
    y = Dataset("y", (examples, classes), "labels", key("y"))
    return TrainingTerms(key("s"), PLAN, x, y, batch, order, memory, False, "net")


STEP = StepCircuits(terms()).bytes


async def at_once(work):
    return work()


def supply(party: int = 1, **settings) -> StepSupply:
    return StepSupply(Party(party), StepCircuits(terms(**settings)), run=at_once, patience=0.0)


async def comes(one: StepSupply, number: int, examples: int = 4) -> None:
    """What a training server does when the third party has dealt for a step."""
    pieces = one.expect(number, key(f"step {number}"), examples, one.circuits.like(examples, last=False).fingerprint, last=False)
    if one.me.index == 0:
        await one.pieces.feed(pieces)
        return
    for part, piece in zip(one.circuits.parts(examples, last=False), pieces, strict=True):
        await one.pieces.room(piece)
        await one.pieces.add(piece, [np.full(part.layout.words(1, dealt=True), piece, np.uint64)], last=True)


def begins(one: StepSupply, number: int, examples: int = 4):
    return one.evaluation(number, one.circuits.like(examples, last=False), {}, examples, last=False)


@pytest.mark.parametrize("party", [0, 1])
async def test_steps_wait_for_room_and_each_has_its_randomness_once(party):
    one = supply(party, memory=2 * STEP)
    assert one.pieces.reserved == 3 * STEP  # the step that is made, and two ahead
    for number in (0, 1, 2):
        await comes(one, number)
    fourth = asyncio.create_task(comes(one, 3))
    await settled()
    assert one.pieces.held == 3 * one.circuits.like(4, last=False).layout.bytes_per_example
    for number in (0, 1):
        protocol, delay = await begins(one, number)
        protocol.close()
        assert delay is None
    await fourth
    assert one.begun == 2
    for number in (0, 3, 5):
        with pytest.raises(TicketRefused, match=f"step {number} was supplied before, or out of order: .*the next is 4"):
            await comes(one, number)


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_step_waits_for_its_randomness_however_long_it_takes_and_until_the_run_ends():
    one = supply()
    waiting, told = asyncio.create_task(begins(one, 0)), asyncio.create_task(one.after(0))
    await settled()
    assert not waiting.done()
    assert not told.done()
    await comes(one, 0)
    (await waiting)[0].close()
    assert await told == 1
    waiting = asyncio.create_task(begins(one, 1))
    await settled()
    one.pieces.fail(WorkerLost("the owner is gone"))
    with pytest.raises(WorkerLost, match="the owner is gone"):
        await waiting


async def test_randomness_of_another_kind_of_step_is_not_used():
    one = supply()
    await comes(one, 0, examples=2)
    with pytest.raises(TicketRefused, match="for another step than step 0, on 4 examples"):
        await begins(one, 0)


async def test_randomness_for_another_circuit_than_a_server_computes_is_refused_and_that_for_its_own_may_still_come():
    one = supply()
    with pytest.raises(ClusterError, match=r"dealt for step 0 is for another circuit than server 1 computes: .* round differently"):
        one.expect(0, key("step"), 4, one.circuits.like(2, last=False).fingerprint, last=False)
    await comes(one, 0)
    (await begins(one, 0))[0].close()


async def test_what_has_other_words_than_a_step_ends_the_training_by_name():
    one = supply()
    pieces = one.expect(0, key("step"), 4, one.circuits.like(4, last=False).fingerprint, last=False)
    await one.pieces.room(pieces.start)
    with pytest.raises(TicketRefused, match="3 words have arrived in pieces"):
        await one.pieces.add(pieces.start, [np.zeros(3, np.uint64)], last=True)
    with pytest.raises(WorkerLost, match="the crypto provider broke the stream of randomness of this training"):
        await begins(one, 0)


def test_every_epoch_has_every_example_once_in_a_public_order():
    shuffled = terms(order=key("order"))
    first, second = (np.concatenate(shuffled.rows(epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    np.testing.assert_array_equal(first, np.concatenate(terms(order=key("order")).rows(0)))
    assert [list(rows) for rows in terms().rows(5)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_memory_bounds_what_is_ahead():
    assert StepCircuits(terms(memory=3 * STEP)).room == 4 * STEP
    assert [StepCircuits(terms(memory=memory)).parts(4, last=False)[1:] for memory in (STEP, 8 * STEP)] == [(), ()]
    assert StepCircuits(terms(memory=100 * STEP)).room == (MOST_AHEAD + 1) * STEP


def test_a_step_that_does_not_fit_is_cut_and_one_operation_that_does_not_is_refused():
    whole = StepCircuits(terms()).like(4, last=False)
    most = max(whole.layout.sizes(1).values())
    small = StepCircuits(terms(memory=STEP - 1))
    assert small.room == STEP - 1
    assert all(part.size(1) <= max(most, (STEP - 1) // PARTS) for part in small.parts(4, last=False))
    assert [at for part in small.parts(4, last=False) for at in part.positions] == list(range(len(whole.ops)))
    assert len(StepCircuits(terms(memory=most)).parts(4, last=False)) > PARTS / 2
    with pytest.raises(
        TooLarge, match=f"{STEP:,} bytes of randomness at a server, {most:,} of them at once for one operation, .*batch_size"
    ):
        StepCircuits(terms(memory=most - 1))


def test_fewer_classes_are_zeros_and_more_are_refused():
    np.testing.assert_array_equal(widened(np.ones((2, 1), np.uint64), 3), [[1, 0, 0], [1, 0, 0]])
    StepCircuits(terms(classes=2))
    with pytest.raises(InputError, match="labels from 0 to 2"):
        StepCircuits(terms(classes=4))


def test_material_of_the_wrong_size_is_refused():
    layout = StepCircuits(terms()).like(4, last=False).layout
    with pytest.raises(ValueError, match="words were dealt"):
        Material.of(layout, key("k"), 1, np.zeros(3, np.uint64))


def test_terms_arrive_as_they_are_read_with_numbers_of_other_types_and_others_are_refused():
    """An owner may say 1 for 1.0, or have the number from numpy; a message makes of it what its field is."""
    plan = msgspec.structs.replace(PLAN, weight=2, threshold=np.float64(0.1), classes=(1, 2, 3), optimizer=GradientDescent(1))
    told = ToldTerms.of(msgspec.structs.replace(terms(order=key("order")), plan=plan))
    arrived = msgspec.convert(msgspec.to_builtins(told, enc_hook=float), ToldTerms)
    check_held(arrived, (10, 4), (10, 3))
    for other in (
        msgspec.structs.replace(arrived.terms, order=key("another")),
        msgspec.structs.replace(arrived.terms, plan=msgspec.structs.replace(arrived.terms.plan, summed=True)),
    ):
        with pytest.raises(ClusterError, match="other versions of confide"):
            check_held(ToldTerms(other, told.fingerprint), (10, 4), (10, 3))

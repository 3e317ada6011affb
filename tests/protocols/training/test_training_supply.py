"""The randomness of steps: within its bound, in order, each once; the public order of examples; what fits."""

import asyncio

import msgspec
import numpy as np
import pytest

from deployment import key
from protocols.datasets.dataset import Dataset
from protocols.datasets.joined import widened
from protocols.errors import ClusterError, InputError, ModelError, TicketRefused, TooLarge, WorkerLost
from protocols.mpc.engine.segments import PARTS
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.material import Material
from protocols.training.circuits import MOST_AHEAD, StepCircuits
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.micro_batches import PARTIAL, MicroBatch
from protocols.training.networks.normalisation import BatchNormalisedLayer
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan
from protocols.training.terms import ToldTerms, TrainingTerms, check_held
from protocols.workers.step_supply import StepSupply

KERNEL, BIAS = Variable("kernel0", (4, 3)), Variable("bias0", (3,))
LINEAR = ProductLayer((0,), Weight("kernel0", (4, 3)), Weight("bias0", (3,)))
PLAN = Plan((LINEAR,), (4,), 3, (KERNEL, BIAS), "crossentropy", GradientDescent(0.1))


def terms(*, examples: int = 10, batch: int = 4, order: bytes | None = None, memory: int = 1 << 20, classes: int = 3) -> TrainingTerms:
    x = Dataset("x", (examples, 4), "numbers", key("x"))
    y = Dataset("y", (examples, classes), "labels", key("y"))
    return TrainingTerms(key("s"), PLAN, x, y, batch, order, memory, False, "net")


STEP = StepCircuits(terms()).bytes
WHOLE = MicroBatch(4, 4)


async def at_once(work):
    return work()


def supply(party: int = 1, **settings) -> StepSupply:
    return StepSupply(Party(party), StepCircuits(terms(**settings)), run=at_once, patience=0.0)


def fingerprint(one: StepSupply, examples: int) -> bytes:
    return one.circuits.like(MicroBatch(examples, examples)).fingerprint


async def comes(one: StepSupply, number: int, examples: int = 4) -> None:
    """What a training server does when the third party has dealt for a step."""
    pieces = one.expect(number, key(f"step {number}"), MicroBatch(examples, examples), fingerprint(one, examples))
    if one.me.index == 0:
        await one.pieces.feed(pieces)
        return
    for part, piece in zip(one.circuits.segments(MicroBatch(examples, examples)), pieces, strict=True):
        await one.pieces.room(piece)
        await one.pieces.add(piece, [np.full(part.layout.words(1, dealt=True), piece, np.uint64)], last=True)


def begins(one: StepSupply, number: int, examples: int = 4):
    micro = MicroBatch(examples, examples)
    return one.evaluation(number, one.circuits.like(micro), {}, micro)


@pytest.mark.parametrize("party", [0, 1])
async def test_steps_wait_for_room_and_each_has_its_randomness_once(party):
    one = supply(party, memory=2 * STEP)
    assert one.pieces.reserved == 3 * STEP  # the step that is made, and two ahead
    for number in (0, 1, 2):
        await comes(one, number)
    fourth = asyncio.create_task(comes(one, 3))
    await settled()
    assert one.pieces.held == 3 * one.circuits.like(WHOLE).layout.bytes_per_example
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
        one.expect(0, key("step"), WHOLE, fingerprint(one, 2))
    await comes(one, 0)
    (await begins(one, 0))[0].close()


async def test_what_has_other_words_than_a_step_ends_the_training_by_name():
    one = supply()
    pieces = one.expect(0, key("step"), WHOLE, fingerprint(one, 4))
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
    assert [StepCircuits(terms(memory=memory)).segments(WHOLE)[1:] for memory in (STEP, 8 * STEP)] == [(), ()]
    assert StepCircuits(terms(memory=100 * STEP)).room == (MOST_AHEAD + 1) * STEP


def test_a_step_that_does_not_fit_is_cut_and_one_operation_that_does_not_is_computed_in_micro_batches():
    whole = StepCircuits(terms()).like(WHOLE)
    most = max(whole.layout.sizes(1).values())
    small = StepCircuits(terms(memory=STEP - 1))
    assert small.room == STEP - 1
    assert all(part.size(1) <= max(most, (STEP - 1) // PARTS) for part in small.segments(WHOLE))
    assert [at for part in small.segments(WHOLE) for at in part.positions] == list(range(len(whole.ops)))
    assert len(StepCircuits(terms(memory=most)).segments(WHOLE)) > PARTS / 2
    assert [StepCircuits(terms(memory=memory)).size for memory in (most, most - 1)] == [4, 2]


def test_less_memory_than_one_example_needs_is_refused_with_the_least_that_is_enough():
    with pytest.raises(TooLarge, match=r"a micro-batch of 1 needs .* no part of a step is smaller: give memory=") as refused:
        StepCircuits(terms(memory=100))
    least = int(str(refused.value).partition("memory=")[2].split()[0])
    found = StepCircuits(terms(memory=least))
    assert (found.size, found.room) == (1, least)
    with pytest.raises(TooLarge, match=f"memory={least} "):
        StepCircuits(terms(memory=least - 1))


def test_micro_batches_as_asked_are_refused_where_they_do_not_fit_and_batch_statistics_with_what_they_need():
    most = max(StepCircuits(terms()).like(WHOLE).layout.sizes(1).values())
    asked = msgspec.structs.replace(terms(memory=most - 1), micro_batch=3)
    assert StepCircuits(msgspec.structs.replace(asked, memory=1 << 20)).size == 3
    with pytest.raises(TooLarge, match=r"a micro-batch of 3 needs .* use a smaller micro_batch_size, or none"):
        StepCircuits(msgspec.structs.replace(asked, memory=100))
    with pytest.raises(InputError, match="micro_batch_size=0"):
        StepCircuits(msgspec.structs.replace(asked, micro_batch=0))
    statistics = [Variable(name, (3,), trained=False) for name in ("mean", "variance")]
    layers = (LINEAR, BatchNormalisedLayer((1,), 1e-3, 0.9, "mean", "variance"))
    normalised = msgspec.structs.replace(terms(), plan=msgspec.structs.replace(PLAN, layers=layers, variables=(KERNEL, BIAS, *statistics)))
    with pytest.raises(ModelError, match=r"node 1 of the network \(BatchNormalisedLayer\) needs all examples of a batch at once"):
        StepCircuits(msgspec.structs.replace(normalised, micro_batch=2))
    with pytest.raises(TooLarge, match=r"node 1 .*BatchNormalisedLayer.* use a smaller batch_size, or memory=") as refused:
        StepCircuits(msgspec.structs.replace(normalised, memory=100))
    enough = int(str(refused.value).partition("memory=")[2].split()[0])
    assert StepCircuits(msgspec.structs.replace(normalised, memory=enough)).size == 4


def test_each_example_is_in_one_micro_batch_and_only_the_last_of_a_step_moves_weights():
    steps = StepCircuits(msgspec.structs.replace(terms(), micro_batch=3))
    found = [list(steps.micro_batches(rows, last=len(rows) == 2)) for rows in terms().rows(0)]
    kinds = [[micro for micro, _ in step] for step in found]
    assert kinds[:2] == [[MicroBatch(3, 4, False), MicroBatch(1, 4)]] * 2
    assert kinds[2] == [MicroBatch(2, 2, last=True)]
    np.testing.assert_array_equal(np.concatenate([rows for step in found for _, rows in step]), np.arange(10))
    for micro in (micro for step in kinds for micro in step):
        names = steps.like(micro).outputs.keys()
        assert ("kernel0" in names) == micro.ends
        assert any(name.startswith(PARTIAL) for name in names) != micro.ends


async def test_each_micro_batch_has_randomness_of_its_own_and_a_step_has_begun_with_its_last():
    one = StepSupply(Party(0), StepCircuits(msgspec.structs.replace(terms(), micro_batch=3)), run=at_once, patience=0.0)
    kinds = [micro for rows in terms().rows(0)[:2] for micro, _ in one.circuits.micro_batches(rows, last=False)]
    for number, micro in enumerate(kinds):
        await one.pieces.feed(one.expect(number, key(f"step {number}"), micro, one.circuits.like(micro).fingerprint))
    begun = []
    for number, micro in enumerate(kinds):
        (await one.evaluation(number, one.circuits.like(micro), {}, micro))[0].close()
        begun.append(one.begun)
    assert begun == [0, 1, 1, 2]
    with pytest.raises(TicketRefused, match="step 3 was supplied before"):
        one.expect(3, key("step 3"), kinds[3], one.circuits.like(kinds[3]).fingerprint)
    with pytest.raises(ClusterError, match="another circuit"):
        one.expect(4, key("step 4"), MicroBatch(3, 4, False, last=True), bytes(32))


def test_fewer_classes_are_zeros_and_more_are_refused():
    np.testing.assert_array_equal(widened(np.ones((2, 1), np.uint64), 3), [[1, 0, 0], [1, 0, 0]])
    StepCircuits(terms(classes=2))
    with pytest.raises(InputError, match="labels from 0 to 2"):
        StepCircuits(terms(classes=4))


def test_material_of_the_wrong_size_is_refused():
    layout = StepCircuits(terms()).like(WHOLE).layout
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

"""The randomness of steps: within its bound, in order, each once; the public order of examples; what fits."""

import asyncio

import numpy as np
import pytest

from deployment import key
from protocols.datasets.dataset import Dataset
from protocols.datasets.joined import widened
from protocols.errors import InputError, TicketRefused, TooLarge
from protocols.mpc.parties.material import Material
from protocols.training.networks.layers import ProductLayer, Variable, Weight
from protocols.training.networks.optimizers import GradientDescent
from protocols.training.step import Plan
from protocols.training.terms import StepCircuits, TrainingTerms
from protocols.workers.supply import Supply

KERNEL, BIAS = Variable("kernel0", (4, 3)), Variable("bias0", (3,))
LINEAR = ProductLayer((0,), Weight("kernel0", (4, 3)), Weight("bias0", (3,)))
PLAN = Plan((LINEAR,), (4,), 3, (KERNEL, BIAS), "crossentropy", GradientDescent(0.1))


def terms(*, examples: int = 10, batch: int = 4, order: bytes | None = None, memory: int = 1 << 20, classes: int = 3) -> TrainingTerms:
    x = Dataset("x", (examples, 4), "numbers", key("x"))
    y = Dataset("y", (examples, classes), "labels", key("y"))
    return TrainingTerms(key("s"), PLAN, x, y, batch, order, memory, False, "net")


async def test_supply_waits_for_room_and_gives_each_step_once():
    supply = Supply(2)
    for number in (0, 1):
        await supply.room(number)
        await supply.put(number, Material({}, 0, 1), 7)
    third = asyncio.create_task(supply.room(2))
    await asyncio.sleep(0)
    assert not third.done()
    assert (await supply.take(0))[1] == 7
    await third
    for number in (0, 1, 2):
        with pytest.raises(TicketRefused, match=f"step {number} was supplied before"):
            await supply.room(number)


async def test_a_step_waits_for_its_material():
    supply = Supply(1)
    taking = asyncio.create_task(supply.take(0))
    await asyncio.sleep(0)
    assert not taking.done()
    await supply.room(0)
    await supply.put(0, Material({}, 0, 1), 0)
    assert (await taking)[1] == 0


def test_every_epoch_has_every_example_once_in_a_public_order():
    shuffled = terms(order=key("order"))
    first, second = (np.concatenate(shuffled.rows(epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    np.testing.assert_array_equal(first, np.concatenate(terms(order=key("order")).rows(0)))
    assert [list(rows) for rows in terms().rows(5)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_memory_bounds_what_is_ahead():
    bytes_of_a_step = StepCircuits(terms()).bytes
    assert StepCircuits(terms(memory=3 * bytes_of_a_step)).ahead == 3
    with pytest.raises(TooLarge, match="smaller batch_size"):
        StepCircuits(terms(memory=bytes_of_a_step - 1))


def test_fewer_classes_are_zeros_and_more_are_refused():
    np.testing.assert_array_equal(widened(np.ones((2, 1), np.uint64), 3), [[1, 0, 0], [1, 0, 0]])
    StepCircuits(terms(classes=2))
    with pytest.raises(InputError, match="labels from 0 to 2"):
        StepCircuits(terms(classes=4))


def test_material_of_the_wrong_size_is_refused():
    layout = StepCircuits(terms()).like(4, last=False).layout
    with pytest.raises(ValueError, match="words were dealt"):
        Material.of(layout, key("k"), 1, np.zeros(3, np.uint64))

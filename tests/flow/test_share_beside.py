"""Sharing does not keep the event loop busy, reads one model and not two, and says so when it cannot."""

import asyncio

import keras
import numpy as np
import pytest
from keras import layers

from inner_workers import inner_workers
from protocols import lowering, share
from protocols.errors import ModelError
from protocols.owner.placing.beside import lowered_beside


def small():
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="tanh"), layers.Dense(2)])


def held_up(monkeypatch):
    """Lowering begins, and goes on when it may: two events of the loop."""
    loop, begun, may = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    real = lowering.lower

    async def wait():
        await may.wait()

    def slow(model, **settings):
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(wait(), loop).result(60)
        return real(model, **settings)

    monkeypatch.setattr(lowering, "lower", slow)
    return begun, may


async def test_the_loop_goes_on_while_a_model_is_lowered(monkeypatch):
    async with inner_workers() as (_, cluster):
        begun, may = held_up(monkeypatch)
        sharing = asyncio.create_task(share(small(), cluster, name="small"))
        await begun.wait()
        assert await cluster.links.servers[0].names() == []  # this loop answers and asks meanwhile
        may.set()
        async with await sharing:
            assert await cluster.links.servers[0].names() == ["small"]


async def test_a_model_that_is_trained_while_it_is_read_is_refused(monkeypatch):
    begun, may = held_up(monkeypatch)
    model = small()
    reading = asyncio.create_task(lowered_beside(model))
    await begun.wait()
    model.layers[0].kernel.assign(np.zeros((4, 3)))
    may.set()
    with pytest.raises(ModelError, match=r"changed while it was read: .* train or load it before it is shared"):
        await reading


class Widened(layers.Layer):
    """Makes a layer in its call, whose dtype is that of the policy of the thread."""

    def call(self, x):
        return x * float(keras.config.dtype_policy().name == "mixed_float16") + 1.0


async def test_the_thread_has_the_policy_of_its_caller_and_keeps_none():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((4,)), Widened(dtype="float32")])
        lowered = await lowered_beside(model, input_range=(0, 1))
    finally:
        keras.config.set_dtype_policy("float32")
    assert lowered.program.ops == lowering.lower(keras.Sequential([keras.Input((4,)), layers.Rescaling(1.0, 1.0)])).program.ops
    assert (await asyncio.to_thread(keras.config.dtype_policy)).name == "float32"


async def test_what_is_no_model_is_refused_as_before():
    with pytest.raises(ModelError, match="a list was given"):
        await lowered_beside([1, 2])

"""Trainings whose steps need more randomness than there is memory for: it comes in segments while a step is made."""

import contextlib
import itertools

import keras
import numpy as np
import pytest
from keras import layers

from actors.limits import LEAST_LIMIT
from inner_workers import inner_workers
from protocols import share
from protocols.datasets import masked
from protocols.errors import TooLarge, WorkerLost
from protocols.link import keys
from protocols.mpc.parties.keystream import derive
from protocols.owner import fitting
from protocols.owner.compiled import plan
from protocols.workers.delivery import Delivery

EXAMPLES, BATCH = 20, 8  # the last step of an epoch has less


def network(hidden: int = 12) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((5,)), layers.Dense(hidden, "relu"), layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.2, 0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (EXAMPLES, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, 3))).argmax(1)
LAYOUT = plan(network()).circuit(BATCH, last=True).layout
STEP, LEAST = LAYOUT.bytes_per_example, max(LAYOUT.sizes(1).values())


def expected(epochs: int, hidden: int = 12) -> list[np.ndarray]:
    model = network(hidden)
    model.fit(X, Y, epochs=epochs, batch_size=BATCH, shuffle=False, verbose=0)
    return model.get_weights()


async def fitted(cluster, memory: int, epochs: int = 2, hidden: int = 12):
    """The epochs of a training, and the weights after it."""
    stored = await cluster.store("x", X), await cluster.store("y", Y)
    async with await share(network(hidden), cluster) as shared:
        made = [epoch async for epoch in shared.fit(*stored, epochs=epochs, batch_size=BATCH, shuffle=False, memory=memory)]
        return made, (await shared.reveal()).get_weights()


@pytest.fixture
def seeded(monkeypatch):
    """All masks and all shares of weights follow from counters, which this sets back."""

    def begin() -> None:
        for module in (keys, fitting, masked):
            counter = itertools.count()
            monkeypatch.setattr(module, "fresh_key", lambda counter=counter, name=module.__name__: derive(bytes(16), name, next(counter)))

    return begin


async def test_the_same_seeds_give_the_same_weights_streamed_or_not_within_the_memory(seeded, largest):
    found = []
    for memory in (STEP, STEP // 2, LEAST):
        largest.clear()
        async with inner_workers() as (_, cluster):
            seeded()
            found.append(await fitted(cluster, memory))
        pieces = {number for _, _, number in largest}
        assert len(pieces) == 6 if memory == STEP else len(pieces) > 6 * 2
        assert all(held <= reserved <= (2 * STEP if memory == STEP else memory) for held, reserved, _ in largest)
    (whole, weights), *others = found
    for made, same in others:
        for one, other in zip(same, weights, strict=True):
            np.testing.assert_array_equal(one, other)
        assert [epoch.value for epoch in made] == [epoch.value for epoch in whole]
        assert [(epoch.bytes, epoch.dealt) for epoch in made] == [(epoch.bytes, epoch.dealt) for epoch in whole]
        assert all(streamed.rounds > epoch.rounds for streamed, epoch in zip(made, whole, strict=True))


async def test_among_equals_too(largest):
    async with inner_workers(equals=True) as (_, cluster):
        _, weights = await fitted(cluster, LEAST)
    for mine, theirs in zip(weights, expected(2), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)
    assert all(held <= reserved == LEAST for held, reserved, _ in largest)


async def test_a_step_that_is_larger_than_a_message_comes_in_parts():
    hidden = 1000
    assert 8 * plan(network(hidden)).circuit(BATCH).layout.dealt > LEAST_LIMIT
    async with inner_workers(message_limit=LEAST_LIMIT) as (_, cluster):
        _, weights = await fitted(cluster, 1 << 30, 1, hidden)
    for mine, theirs in zip(weights, expected(1, hidden), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)


async def test_a_step_whose_stream_breaks_ends_the_training_by_name_and_another_one_can_begin(fault, monkeypatch):
    async with inner_workers() as (workers, cluster):
        servers = [worker.actor("training") for worker in workers[:2]]
        piece, done, held = Delivery.piece, [], []

        async def sent(self, number, words):
            if number != 3 or done:
                return await piece(self, number, words)
            done.append(number)
            held.extend(session.randomness.pieces for server in servers for session in server._sessions.values())
            for supply in held:
                supply._patience = 0.2 if fault.__name__ == "never" else supply._patience
            return await fault(self, number, words, piece)

        monkeypatch.setattr(Delivery, "piece", sent)
        stored = await cluster.store("x", X), await cluster.store("y", Y)
        async with await share(network(), cluster) as shared:
            settings = {"epochs": 1, "batch_size": BATCH, "shuffle": False, "memory": STEP // 2}
            with pytest.raises(WorkerLost, match=r"the training stopped: .*; the model is as it was after the last complete epoch"):
                await anext(shared.fit(*stored, **settings))
            assert done == [3]
            assert [supply.ended for supply in held] == [True, True]  # nobody waits for more of it
            assert not servers[0]._sessions
            async with contextlib.aclosing(shared.fit(*stored, **settings)) as epochs:
                assert [epoch.number async for epoch in epochs] == [1]
            weights = (await shared.reveal()).get_weights()
    for mine, theirs in zip(weights, expected(1), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)


async def test_real_processes_train_within_their_memory_and_one_operation_that_does_not_fit_is_refused(cluster):
    with pytest.raises(TooLarge, match=r"at once for one operation, and 100 are allowed; no part of a step is smaller: give memory="):
        await fitted(cluster, 100)
    epochs, weights = await fitted(cluster, LEAST)
    for mine, theirs in zip(weights, expected(2), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)
    assert all(epoch.rounds > 40 for epoch in epochs)

"""A model that is asked, opened or trained again while it is trained: real workers, one of which is slow."""

import asyncio

import keras
import numpy as np
import pytest
from keras import layers

from actors import message
from inner_workers import inner_cluster, inner_workers
from protocols import share
from protocols.authority.membership import OWNER
from protocols.authority.presence import Presence
from protocols.errors import InputError
from protocols.training.asked import SharedPrediction
from protocols.training.terms import ToldTerms
from protocols.workers.training_server import TrainingServer

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(size=(8, 4)).astype(np.float32), RANDOM.normal(size=(8, 2)).astype(np.float32)


def network():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((4,)), layers.Dense(2)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def epochs(shared, count):
    return shared.fit(X, Y, epochs=count, batch_size=8, shuffle=False, metrics=False, progress=False)


async def trained(shared, count):
    return [epoch async for epoch in epochs(shared, count)]


def after(count):
    model = network()
    for _ in range(count):
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    return model.predict(X, verbose=0)


@pytest.mark.long
async def test_what_is_asked_while_weights_move_is_asked_of_one_epoch_at_both_servers():
    """One server begins what is asked before it takes the new weights, and the other one would have begun it after that."""
    asked = []

    class Slow(TrainingServer):
        @message(reentrant=True, by=OWNER)
        async def begin(self, told: ToldTerms, digest: bytes, model: bytes, rights: tuple[bytes, ...], presence: Presence) -> bytes:
            if isinstance(told.terms.plan, SharedPrediction):
                await asyncio.sleep(0.5)
            return await super().begin(told, digest, model, rights, presence)

    async with inner_workers(parts=[None, {"training": Slow}, None]) as (_, cluster), await share(network(), cluster) as shared:
        await shared.predict(X[:1])
        training = asyncio.create_task(trained(shared, 6))
        while not training.done():
            asked.append(await shared.predict(X))
        await training
    assert len(asked) > 1
    steps = [after(count) for count in range(7)]
    for found in asked:
        assert min(np.abs(found - one).max() for one in steps) < 0.005


@pytest.mark.long
async def test_two_fits_at_once_are_refused_instead_of_undoing_each_other():
    async with inner_cluster(None) as cluster, await share(network(), cluster) as shared:
        outcomes = await asyncio.gather(trained(shared, 2), trained(shared, 2), return_exceptions=True)
        (refused,) = [one for one in outcomes if isinstance(one, BaseException)]
        assert isinstance(refused, InputError)
        assert "under way" in str(refused)
        np.testing.assert_allclose(await shared.predict(X), after(2), atol=0.005)
        outer = epochs(shared, 3)
        await anext(outer)
        await trained(shared, 1)
        with pytest.raises(InputError, match="has begun since"):
            await anext(outer)
        np.testing.assert_allclose(await shared.predict(X), after(4), atol=0.005)
        async for _ in epochs(shared, 3):
            break
        await trained(shared, 1)
        np.testing.assert_allclose(await shared.predict(X), after(6), atol=0.005)

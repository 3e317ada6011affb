"""`share(memory=)`: operations are cut so that each kind of answer is served within it; what no cut makes possible is refused."""

import asyncio
import re

import keras
import numpy as np
import pytest
from keras import layers

from inner_workers import inner_workers
from protocols import connect, share
from protocols.errors import TooLarge
from protocols.serving.memory import memory_plans


def model() -> keras.Model:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((16,)), layers.Dense(400, activation="tanh"), layers.Dense(3, activation="softmax")])


async def test_a_memory_below_the_smallest_part_is_refused_by_the_least_that_works_and_that_is_served_within():
    x = np.random.default_rng(0).uniform(0, 1, (2, 16)).astype(np.float32)
    async with inner_workers() as (_, cluster):
        with pytest.raises(TooLarge, match=r"^memory=1: one operation .*, however it is cut; give memory=\d+ or more$") as refused:
            await share(model(), cluster, name="m", memory=1)
        least = int(re.search(r"give memory=(\d+)", str(refused.value))[1])
        with pytest.raises(TooLarge, match=f"give memory={least} or more"):
            await share(model(), cluster, name="m", memory=least - 1)
        for wrong, error in [(0, ValueError), (-1, ValueError), (1e9, TypeError), (1 << 48, ValueError)]:
            with pytest.raises(error, match="memory="):
                await share(model(), cluster, name="m", memory=wrong)
        assert not await cluster.links.servers[0].names()
        async with await share(model(), cluster, name="m", memory=least) as shared:
            kinds = ("logits", "label")
            assert all(plan.how.room <= least for plan in memory_plans("m", shared.program, kinds, 2 * least).values())
            serving = asyncio.create_task(shared.serve(2))
            async with connect(cluster, "m") as remote:
                found, labels = await remote.query(x), await remote.query(x, reveal="label")
            await serving
            with pytest.raises(TooLarge, match=r"serve fewer kinds, or with more memory, up to .*; share\(memory=\) cuts operations"):
                await shared.serve(1, memory=least)
    expected = model().predict(x, verbose=0)
    np.testing.assert_allclose(found, expected, atol=0.005)
    np.testing.assert_array_equal(labels, expected.argmax(axis=1))

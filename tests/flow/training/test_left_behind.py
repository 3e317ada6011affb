"""What ended runs leave at workers while their owner stays: nothing. Owners train, evaluate and predict for months over one connection."""

import asyncio
import gc
import weakref

import keras
import numpy as np
import pytest

from inner_workers import inner_workers
from protocols import share
from protocols.workers.training_dealer import _DealtTraining
from protocols.workers.training_run import TrainingRun


@pytest.mark.parametrize("equals", [False, True], ids=["crypto provider", "three equals"])
async def test_runs_that_have_ended_are_forgotten_while_their_owner_stays(monkeypatch, equals):
    made = weakref.WeakSet()
    for kind in (TrainingRun, _DealtTraining):

        def init(self, *args, _init=kind.__init__, **settings):
            _init(self, *args, **settings)
            made.add(self)

        monkeypatch.setattr(kind, "__init__", init)
    x, y = np.zeros((4, 4), np.float32), np.zeros((4, 3), np.float32)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    async with inner_workers(equals=equals) as (inner, cluster):
        parts = [one.actor(name) for one in inner for name in ("training", "training-dealer")]

        async def watching() -> int:
            await asyncio.sleep(0.1)
            return sum(len(part._background._tasks) for part in parts)

        async with await share(model, cluster) as shared:
            before = await watching()
            for _ in range(2):
                async for _ in shared.fit(x, y, epochs=1, batch_size=4, progress=False):
                    pass
                await shared.evaluate(x, y)
                assert (await shared.predict(x)).shape == (4, 3)
            after = await watching()
            gc.collect()
            assert len(made) <= 3  # of the last run, at each worker
        assert before <= after <= before + 3  # the weights of the model itself
        assert await watching() == 0

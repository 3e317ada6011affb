"""A model that says of an input that it is unlike the samples, on a cluster: who asks gets an error, not a number."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from protocols import Cluster, Worker, connect, share
from protocols.errors import NotServed, OutsideCalibration


@pytest.fixture(params=["two servers and a provider", "three equals"])
async def formed(request, running):
    first, second, third = map(Worker, running)
    equals = request.param == "three equals"
    async with Cluster(first, second, third) if equals else Cluster(first, second, crypto_provider=third) as cluster:
        yield cluster


def deep():
    keras.utils.set_random_seed(1)
    wide = keras.initializers.RandomNormal(0, 1)
    hidden = [layers.Dense(24, "relu", kernel_initializer=wide, use_bias=False) for _ in range(6)]
    return keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(3)])


async def served_at_last(remote, x):
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotServed):
                return await remote.query(x)
            await asyncio.sleep(0)


async def test_who_asks_is_told_which_inputs_have_no_answer(formed):
    model, samples = deep(), np.random.default_rng(0).uniform(-0.02, 0.02, (24, 6))
    x = np.concatenate([samples[:2], 50 * samples[:1], samples[2:3], -50 * samples[1:3]])
    expected = np.asarray(model(x.astype(np.float32)))
    kept, left = [0, 1, 3], [2, 4, 5]
    settings = {"input_range": (-1, 1), "calibration": samples, "checked": True, "clients": "malicious"}
    async with await share(model, formed, name="deep", **settings) as shared, connect(formed, "deep") as remote:
        assert "calibrated" in {layer.source for layer in shared.layers}
        assert remote.output_shape == (None, 3)
        serving = asyncio.create_task(shared.serve(1000))
        np.testing.assert_allclose(await served_at_last(remote, x[kept]), expected[kept], atol=0.01 * np.abs(expected[kept]).max())
        with pytest.raises(OutsideCalibration, match=r"3 of 6 inputs \(number 2, 4, 5\) are unlike the samples .* model 'deep'") as caught:
            await remote.query(x)
        assert caught.value.indices == tuple(left)
        again = await remote.query(x, outside="nan")
        for answers in (caught.value.answers, again):
            np.testing.assert_allclose(answers[kept], expected[kept], atol=0.01 * np.abs(expected[kept]).max())
            assert np.isnan(answers[left]).all()
        with pytest.raises(OutsideCalibration, match=r"3 of 6 inputs \(number 2, 4, 5\)"):
            await remote.query(x, reveal="label")
        labels = await remote.query(x, reveal="label", outside="nan")
        assert labels[kept].tolist() == expected[kept].argmax(axis=1).tolist()
        assert np.isnan(labels[left]).all()
        inside = await remote.query(x[kept], reveal="label")
        assert inside.dtype == np.int64
        with pytest.raises(ValueError, match="outside='ignore'; it is one of"):
            await remote.query(x, outside="ignore")
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

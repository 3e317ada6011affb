"""What `share` does before it claims anything: it compares the program with Keras. And tables as they are, on a cluster."""

import asyncio
import dataclasses
import threading

import keras
import numpy as np
import pytest
from keras import layers
from sklearn import datasets

from protocols import connect
from protocols.errors import Inaccurate, InputError, NotServed
from protocols.lowering import lower
from protocols.owner import placement
from protocols.selfcheck.comparison import DRAWN, compare


def small():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3)], name="small")


def thrice(lowered):
    """The same with the weights of the last layer three times as large."""
    weights = [weight * np.uint64(3) if i == 2 else weight for i, weight in enumerate(lowered.weights)]
    return dataclasses.replace(lowered, weights=weights)


async def test_share_compares_and_leaves_the_loop_free(cluster, monkeypatch):
    """While Keras and the program are evaluated other coroutines go on, and nothing has been claimed if they differ."""
    model, started, go = small(), threading.Event(), threading.Event()

    def slow(*args, **settings):
        started.set()
        assert go.wait(60)
        return compare(*args, **settings)

    monkeypatch.setattr("protocols.selfcheck.comparison.compare", slow)
    sharing = asyncio.create_task(placement.share(model, cluster))
    await asyncio.to_thread(started.wait, 60)
    go.set()  # this coroutine runs while the comparison waits
    async with await sharing as shared:
        assert shared.check.samples == DRAWN
        assert repr(shared).endswith(f", {shared.check})")
    right = lower
    monkeypatch.setattr("protocols.lowering.lower", lambda *args, **settings: thrice(right(*args, **settings)))
    with pytest.raises(Inaccurate):
        await placement.share(model, cluster, name="wrong")
    monkeypatch.undo()
    async with await placement.share(model, cluster, name="wrong", tolerance=None) as shared:
        assert shared.check.error < 1e-3


async def test_a_raw_table_on_a_cluster(cluster):
    """An ordinary model for breast_cancer as scikit-learn ships it, fitted: each label is Keras', from servers that cut each feature."""
    data = datasets.load_breast_cancer()
    x = data.data.astype(np.float32)
    keras.utils.set_random_seed(0)
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((30,)), normalization, layers.Dense(16, "relu"), layers.Dense(2)], name="table")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, data.target, epochs=3, verbose=0)
    expected = np.asarray(model(x, training=False))
    async with (
        await placement.share(model, cluster, input_range=(x.min(axis=0), x.max(axis=0))) as shared,
        connect(cluster, "table") as remote,
    ):
        serving = asyncio.create_task(shared.serve(2))
        low, high = remote.input_range
        np.testing.assert_array_equal(low, x.min(axis=0))
        np.testing.assert_array_equal(high, x.max(axis=0))
        outside = x[:1].copy()
        outside[0, 7] *= 100
        with pytest.raises(InputError, match="in feature 7"):
            await remote.query(outside)
        labels = await asked(remote, x, reveal="label")
        logits = await remote.query(x)
        await serving
    np.testing.assert_array_equal(labels, expected.argmax(axis=1))
    np.testing.assert_array_equal(logits.argmax(axis=1), labels)
    assert np.abs(logits - expected).max() < 1e-3 * np.ptp(expected)


async def asked(remote, x, **options):
    """The first query of a client that may be quicker than the owner's `serve`."""
    for _ in range(200):
        try:
            return await remote.query(x, **options)
        except NotServed:
            await asyncio.sleep(0.01)
    raise AssertionError("never served")

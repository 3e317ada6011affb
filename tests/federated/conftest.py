"""No test leaves a task behind; small models and data."""

import asyncio

import numpy as np
import pytest


@pytest.fixture(autouse=True)
async def no_task_is_left_behind():
    before = asyncio.all_tasks()
    yield
    for _ in range(3):  # callbacks that are due
        await asyncio.sleep(0)
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()


@pytest.fixture
def examples():
    """60 examples of 4 features, 3 classes that can be told apart."""
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 60)
    x = rng.normal(size=(60, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[y]
    return x, y


@pytest.fixture
def build():
    """Makes a softmax regression, always the same; or another model from its layers."""

    def make(layers=None, **settings):
        import keras

        keras.utils.set_random_seed(3)
        layers = layers or [keras.layers.Dense(3)]
        model = keras.Sequential([keras.layers.Input((4,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(**{"optimizer": keras.optimizers.SGD(0.1), "loss": loss, "metrics": ["accuracy"]} | settings)
        return model

    return make

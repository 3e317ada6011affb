"""Small Keras models and real worker processes on loopback, shared by the tests of one module."""

import numpy as np
import pytest

from protocols import Cluster, Worker


def workers() -> list[Worker]:
    return [Worker("localhost:0") for _ in range(3)]


@pytest.fixture
async def cluster():
    first, second, third = workers()
    async with Cluster(first, second, crypto_provider=third) as cluster:
        yield cluster


def small_cnn(name: str = "small", seed: int = 0):
    """8 x 8 images, four classes."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.AveragePooling2D(2),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(4),
        ],
        name=name,
    )


@pytest.fixture(scope="session")
def model():
    return small_cnn()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="session")
def expected(model, images):
    return model.predict(images, verbose=0)

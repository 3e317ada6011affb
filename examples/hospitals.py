"""What the nodes of cluster.toml run: the federation at the hub, and at each ward the data that stays there."""

from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from federated import FedAvg, Federation, JoiningOwners

Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def build_model() -> keras.Model:
    """A small convolutional network."""
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.002), loss=loss, metrics=["accuracy"])
    return model


def federation(owners: JoiningOwners) -> Federation:
    """At the hub. With `simulated_owners(...)` for `owners` it is a simulation."""
    keras.utils.set_random_seed(1)
    return Federation(model=build_model, owners=owners, strategy=FedAvg(local_epochs=2, batch_size=32))


def data(name: str) -> Examples:
    """At a ward: what it trains on."""
    return _read(name, "train")


def evaluation(name: str) -> Examples:
    """At a ward: what it evaluates each global model on."""
    return _read(name, "test")


def _read(name: str, part: str) -> Examples:
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return file[f"x_{part}"], file[f"y_{part}"]

"""What the blocks of a document take as given, by the document: what its reader is said to have, small."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from actors import ActorSystem
from certified import free_ports
from protocols import Cluster, Worker
from protocols.owner.deposits import write_grants


def classifier(features: int = 4, classes: int = 3) -> keras.Model:
    """A small compiled network that gives logits."""
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(classes)], name="small")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=["accuracy"])
    return model


def examples(count: int, features: int = 4, classes: int = 3) -> tuple[Any, Any]:
    """Features from 0 to 1, and labels that follow from them."""
    x = np.random.default_rng(0).uniform(0, 1, (count, features)).astype(np.float32)
    return x, x[:, :classes].argmax(axis=1)


def three(folder: Path | None = None) -> Cluster:
    """A cluster that is not started, whose workers keep what is left with them in the folder."""
    ports = free_ports(3)
    first, second, third = (Worker(f"localhost:{port}", data=folder and folder / str(port)) for port in ports)
    return Cluster(first, second, crypto_provider=third)


@contextlib.asynccontextmanager
async def readme(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide a saved model, a function that builds one, and data."""
    classifier().save(folder / "model.keras")
    x, y = examples(600)
    yield {"images": x[:5], "build_model": classifier, "x": x, "y": y, "x_test": x, "y_test": y, "features": x, "labels": y}


@contextlib.asynccontextmanager
async def privacy(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide a model that gives probabilities, data, and how a model is trained."""
    import dp_accounting

    from privacy import Ledger, PrivacyEngine

    x, y = examples(600)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3, "softmax")])

    def train(x: Any, y: Any) -> keras.Model:
        trained = classifier()
        trained.fit(x, y, epochs=1, verbose=0)
        return trained

    given = {"PrivacyEngine": PrivacyEngine, "Ledger": Ledger, "dp_accounting": dp_accounting, "model": model, "x": x, "y": y}
    yield given | {"x_spare": x[:100] / 2, "y_spare": y[:100], "x_test": x, "y_test": y, "train": train}


@contextlib.asynccontextmanager
async def data_that_stay(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide a cluster file, workers that run, and what owners have left with them."""
    x, y = examples(60)
    arrays = {"north.x": x, "north.y": y, "south.x": x, "south.y": y, "lab.x": x[:, :2], "ward.x": x[:, 2:], "ward.y": y}
    (folder / "grants").mkdir()
    async with three(folder) as cluster:
        roles = zip(cluster.workers, ("server", "server", "crypto_provider"), strict=True)
        tables = [f'[nodes.w{number}]\nrole = "{role}"\naddress = "{worker.url}"' for number, (worker, role) in enumerate(roles)]
        (folder / "cluster.toml").write_text("\n".join([*tables, '[nodes.analyst]\nrole = "client"\n']))
        for name, array in arrays.items():
            grant = await cluster.deposit(name, array)
            write_grants(folder / "grants" / f"{name}.grant.json", [grant.to_give()])
        yield {"model": classifier()}


@contextlib.asynccontextmanager
async def models_that_stay(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide a model and a cluster whose workers have folders."""
    yield {"model": classifier(), "cluster": three(folder)}


@contextlib.asynccontextmanager
async def own_trainers(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide parts of binary data with thirty features, and a system for a real owner."""
    x, y = examples(200, features=30, classes=2)
    parts = [(x[start::4], y[start::4].astype(np.float64)) for start in range(4)]
    async with ActorSystem() as system:
        yield {"parts": parts, "data": parts[0], "system": system}


@contextlib.asynccontextmanager
async def several_machines(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide what is imported at the top of such a file."""
    from federated import FedAvg, Federation

    yield {"Federation": Federation, "FedAvg": FedAvg, "build_model": classifier}


@contextlib.asynccontextmanager
async def observability(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide OpenTelemetry."""
    import opentelemetry.trace

    yield {"opentelemetry": opentelemetry}


@contextlib.asynccontextmanager
async def nothing(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """Provide nothing: the document stands for itself."""
    yield {}


PREPARED = {
    "README.md": readme,
    "privacy/README.md": privacy,
    "docs/data-that-stays.md": data_that_stay,
    "docs/models-that-stay.md": models_that_stay,
    "docs/observability.md": observability,
    "docs/own-trainers.md": own_trainers,
    "docs/several-machines.md": several_machines,
}

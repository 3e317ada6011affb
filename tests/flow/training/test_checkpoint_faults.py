"""Trainings with checkpoints among workers in this process, so that it can be seen what they get, and something can go wrong at one."""

import contextlib

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from actors import message
from inner_workers import inner_cluster
from protocols import share
from protocols.authority.membership import THIRD_PARTY
from protocols.errors import VaultError
from protocols.owner import running
from protocols.storage.vault import Vault
from protocols.training.networks.micro_batches import MicroBatch
from protocols.workers.training_server import TrainingServer

KEYS = []


class Recording(TrainingServer):
    """Notes the key of each step."""

    @message(reentrant=True, by=THIRD_PARTY)
    async def supply(
        self, run: bytes, number: int, micro: MicroBatch, circuit: bytes, key: bytes | None, dealt: npt.NDArray[np.uint64] | None
    ) -> None:
        KEYS.append(key)
        await super().supply(run, number, micro, circuit, key, dealt)


class Full(Vault):
    """A folder on a disk that can be full."""

    full = False

    def write(self, label, about, arrays):
        if Full.full:
            raise VaultError("No space left on device")
        super().write(label, about, arrays)


@pytest.fixture
async def cluster(tmp_path):
    KEYS.clear()
    Full.full = False
    async with inner_cluster(tmp_path, server=Recording, vault=Full) as cluster:
        yield cluster


def network():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)], name="net")
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


async def fitted(cluster, folder, epochs, **settings):
    rng = np.random.default_rng(0)
    x, y = await cluster.store("x", rng.uniform(size=(20, 3))), await cluster.store("y", rng.uniform(size=(20, 2)))
    async with await share(network(), cluster) as shared:
        made = [epoch.number async for epoch in shared.fit(x, y, epochs=epochs, batch_size=5, folder=folder, resume=True, **settings)]
        return made, (await shared.reveal()).get_weights()


async def test_no_mask_is_used_twice_however_often_a_training_is_resumed(cluster, tmp_path):
    for epochs in (1, 2, 3):
        await fitted(cluster, tmp_path / "owner", epochs)
    assert len(KEYS) == 2 * 3 * 4  # both servers, epochs, steps
    assert {len(key) for key in KEYS} == {16}
    assert len(set(KEYS)) == len(KEYS)


async def test_a_full_disk_is_told_and_the_last_checkpoint_stands(cluster, tmp_path):
    _, before = await fitted(cluster, tmp_path / "owner", 1)
    Full.full = True
    with pytest.raises(VaultError, match=r"Worker\(.*No space left"):
        await fitted(cluster, tmp_path / "owner", 2)
    Full.full = False
    made, same = await fitted(cluster, tmp_path / "owner", 1)
    assert made == []
    for one, other in zip(same, before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (await fitted(cluster, tmp_path / "owner", 2))[0] == [2]


async def test_steps_are_told_to_whoever_watches(cluster, tmp_path, monkeypatch):
    told = []

    @contextlib.contextmanager
    def watched(number, steps, *, show):
        assert (steps, show) == (4, True)
        yield lambda made: told.append((number, made))

    monkeypatch.setattr(running, "live", watched)
    await fitted(cluster, tmp_path / "owner", 2, save_every=1)
    assert told == sorted(told)
    assert {number for number, _ in told} == {1, 2}
    assert all(1 <= made <= 4 for _, made in told)

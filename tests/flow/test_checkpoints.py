"""Trainings that survive their processes: killed with -9 and resumed, they end where an uninterrupted one does."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest
from keras import layers

from certified import Machine
from inner_workers import NAMES, inner_cluster
from protocols import Cluster, Worker, share
from protocols.errors import CheckpointError, Diverged, InputError, KeepsNothing, UnknownData, VaultError, WorkerLost
from protocols.mpc.parties.keystream import KeyStream, derive
from protocols.owner.checkpoints import FILE
from protocols.storage.vault import Vault
from protocols.storage.versions import About

ROOT = Path(__file__).parents[2]
EPOCHS, STEPS = 6, 6


@contextlib.asynccontextmanager
async def machines(folder):
    three = [Machine(folder / name) for name in NAMES]
    try:
        await asyncio.gather(*(machine.start() for machine in three))
        yield three
    finally:
        await asyncio.gather(*(machine.kill() for machine in three))


def cluster_of(three):
    first, second, third = (Worker(machine.address) for machine in three)
    return Cluster(first, second, crypto_provider=third, auto_managed=False)


def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (115, 8)).astype(np.float32)
    return x, (x @ rng.normal(size=(8, 3))).argmax(1)


def network(rate=0.3):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((8,)), layers.Dense(12, activation="relu"), layers.Dense(3)], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate, momentum=0.8), loss)
    return model


async def fitted(cluster, folder, *, epochs=EPOCHS, shuffle=True, resume=True, rate=0.3, batch_size=20, on_epoch=None, **settings):
    """The epochs and the weights of a training with checkpoints: what a script does, each time that it is started."""
    x, y = data()
    stored = await cluster.store("x", x), await cluster.store("y", y)
    async with await share(network(rate), cluster) as shared:
        made = []
        fit = shared.fit(*stored, epochs=epochs, batch_size=batch_size, shuffle=shuffle, folder=folder, resume=resume, **settings)
        async with contextlib.aclosing(fit):
            async for epoch in fit:
                made.append(epoch)
                if on_epoch is not None:
                    await on_epoch(epoch)
        return made, (await shared.reveal()).get_weights()


def in_the_clear(batches):
    """Keras on the same batches of examples."""
    x, y = data()
    model = network()
    for rows in batches:
        model.train_on_batch(x[rows], y[rows])
    return model.get_weights()


def assert_close(mine, theirs):
    """Within what rounding makes of it: less than 2^-16 a step for each of forward, backward and update, and its echo in later steps."""
    for one, other in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2.0**-16 * STEPS * EPOCHS * 8)


def in_order(epochs):
    return [np.arange(115)[start : start + 20] for _ in range(epochs) for start in range(0, 115, 20)]


def saved(machine):
    """How far the newest checkpoint of a machine is, and its number."""
    vault = Vault.open(machine.folder)
    label = vault.labels("run")[-1]
    about = msgspec.msgpack.decode(vault.about(label), type=About)
    vault.close()
    return about.progress, label.serial


def kept(machine):
    """The names of its checkpoints while it runs: the last two, and a third one while it is being agreed on."""
    return {path.name for path in (machine.folder / "run").glob("*/*.share")}


async def killed_when(machine, witness, ready):
    """Kills a machine when the checkpoints of a server have become others, and as many as asked for."""
    before = kept(witness)
    while kept(witness) == before or len(kept(witness)) not in ready:
        await asyncio.sleep(0)
    await machine.kill()


@pytest.mark.timeout(240)
@pytest.mark.long
async def test_each_worker_is_killed_in_mid_epoch_and_the_training_goes_on(tmp_path):
    """Server 0 while a checkpoint is agreed on, server 1 and the provider between two, each in another epoch; it ends where Keras does."""
    owner, killing = tmp_path / "owner", []
    async with machines(tmp_path) as three:
        made = []
        for number, machine in enumerate(three):

            async def told(epoch, machine=machine, number=number):
                made.append(epoch)
                if len(killing) == number:
                    killing.append(asyncio.create_task(killed_when(machine, three[0], {3} if number == 0 else {2})))

            async with cluster_of(three) as cluster:
                with pytest.raises(WorkerLost, match="the last checkpoint stands: run it again with resume=True"):
                    await fitted(cluster, owner, shuffle=False, on_epoch=told, save_every=2)
            await killing[-1]
            await machine.start()
        for machine in three:
            await machine.kill()
        progress, _ = saved(three[0])
        await asyncio.gather(*(machine.start() for machine in three))
        async with cluster_of(three) as cluster:
            last, weights = await fitted(cluster, owner, shuffle=False, save_every=2)
        assert (last[0].number, last[0].steps) == (progress.epoch + 1, STEPS - progress.step)
    numbers = [epoch.number for epoch in made + last]
    assert numbers == list(range(1, EPOCHS + 1))  # each epoch that is complete is told once
    assert last[-1].value > 0.5
    assert_close(weights, in_the_clear(in_order(EPOCHS)))


OWNER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from test_checkpoints import Worker, Cluster, fitted
async def main():
    first, second, third = map(Worker, sys.argv[3:])
    async def told(epoch):
        print(epoch.number, flush=True)
    async with Cluster(first, second, crypto_provider=third, auto_managed=False) as cluster:
        await fitted(cluster, sys.argv[2], on_epoch=told, save_every=1)
asyncio.run(main())
"""


@pytest.mark.timeout(240)
@pytest.mark.long
async def test_the_owner_is_killed_in_mid_training_and_goes_on_in_the_same_order_of_examples(tmp_path):
    owner = tmp_path / "owner"
    async with machines(tmp_path) as three:
        command = [sys.executable, "-c", OWNER, str(Path(__file__).parent), str(owner), *(machine.address for machine in three)]
        killed = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=DEVNULL, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests"}
        )
        for number in (1, 2):
            assert int(await killed.stdout.readline()) == number
        killed.kill()
        await killed.communicate()
        for machine in three:  # and the machines are switched off
            await machine.kill()
            await machine.start()
        async with cluster_of(three) as cluster:
            made, weights = await fitted(cluster, owner)
            assert 2 < made[0].number <= EPOCHS
            with pytest.raises(CheckpointError, match="has a training already: give resume=True"):
                await fitted(cluster, owner, resume=False)
            with pytest.raises(CheckpointError, match="another model, loss, optimizer, batch size, order, data or servers"):
                await fitted(cluster, owner, rate=0.2)
            with pytest.raises(CheckpointError, match="another model"):
                await fitted(cluster, owner, batch_size=10)
            again, same = await fitted(cluster, owner)
            assert again == []  # all epochs are in the checkpoint
            for one, other in zip(same, weights, strict=True):
                np.testing.assert_array_equal(one, other)
    assert_close(weights, in_the_clear(shuffled(owner)))


def shuffled(owner):
    """The batches of all epochs, from the key in the owner's folder."""
    order = base64.b64decode(json.loads((owner / FILE).read_text())["order"])
    epochs = [KeyStream(derive(order, "epoch", epoch)).words(115).argsort(kind="stable") for epoch in range(EPOCHS)]
    return [rows[start : start + 20] for rows in epochs for start in range(0, 115, 20)]


@pytest.fixture
async def cluster(tmp_path):
    async with inner_cluster(tmp_path) as cluster:
        yield cluster


@pytest.mark.long
async def test_a_training_that_is_resumed_in_each_epoch_equals_an_uninterrupted_one(cluster, tmp_path):
    """Up to the random rounding, which two uninterrupted ones differ by as well: three units of 2^-16 a step at most."""
    _, once = await fitted(cluster, tmp_path / "once", shuffle=False)
    for epochs in range(1, EPOCHS + 1):
        made, resumed = await fitted(cluster, tmp_path / "often", shuffle=False, epochs=epochs)
        assert [epoch.number for epoch in made] == [epochs]
    for one, other in zip(resumed, once, strict=True):
        np.testing.assert_allclose(one, other, atol=3 * 2.0**-16 * STEPS * EPOCHS)


async def test_learning_rates_and_moments_go_on_where_they_were(cluster, tmp_path):
    """Adam under a schedule, resumed after an epoch, beside Keras."""

    def scheduled():
        model = network()
        rate = keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.7)
        model.compile(keras.optimizers.Adam(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    x, y = data()
    stored = await cluster.store("x", x), await cluster.store("y", y)
    settings = {"batch_size": 20, "shuffle": False, "folder": tmp_path / "owner", "resume": True, "save_every": 4}
    async with await share(scheduled(), cluster) as shared:
        fit = shared.fit(*stored, epochs=3, **settings)
        assert (await anext(fit)).number == 1
        await fit.aclose()
    async with await share(scheduled(), cluster) as shared:
        assert [epoch.number async for epoch in shared.fit(*stored, epochs=3, **settings)] == [2, 3]
        weights = (await shared.reveal()).get_weights()
    model = scheduled()
    for rows in in_order(3):
        model.train_on_batch(x[rows], y[rows])
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)


async def test_more_epochs_than_before_and_what_is_on_disk(cluster, tmp_path):
    owner = tmp_path / "owner"
    made, _ = await fitted(cluster, owner, epochs=1, shuffle=False)
    assert stat.S_IMODE((owner / FILE).stat().st_mode) == 0o600
    files = [list((tmp_path / name).glob("run/*/*.share")) for name in NAMES]
    assert [len(one) for one in files] == [2, 2, 0]  # the last one and that before; the provider has no share of a weight
    more, weights = await fitted(cluster, owner, epochs=2, shuffle=False, metrics=False)
    assert [epoch.number for epoch in made + more] == [1, 2]
    assert more[0].value is None
    after = [list((tmp_path / name).glob("run/*/*.share")) for name in NAMES]
    assert [len(one) for one in after] == [2, 2, 0]
    assert not {path.name for one in files for path in one} & {path.name for one in after for path in one}
    assert_close(weights, in_the_clear(in_order(2)))
    await cluster.discard(owner)
    assert not list(tmp_path.glob("*/run/*/*.share"))
    with pytest.raises(CheckpointError, match="holds no training"):
        await cluster.discard(owner)


async def test_a_step_counts_only_when_its_gradients_were_looked_at(cluster, tmp_path):
    """With a checkpoint after each step, and then one after an epoch of two: what is saved is what was before."""
    x, y = await cluster.store("x", np.full((100, 1), 450.0)), await cluster.store("y", np.full((100, 1), 450.0))
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((1,)), layers.Dense(1, kernel_initializer="zeros")], name="net")
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    for save_every in (1, None):
        async with await share(model, cluster) as shared:
            fit = shared.fit(x, y, epochs=1, batch_size=50, folder=tmp_path / "owner", resume=True, save_every=save_every)
            with pytest.raises(Diverged, match="in epoch 1"):
                await anext(fit)
            for one, before in zip((await shared.reveal()).get_weights(), model.get_weights(), strict=True):
                np.testing.assert_array_equal(one, before)


async def test_shares_are_new_when_they_are_loaded(cluster, tmp_path):
    """The weights are the same; a share of before and one of afterwards say nothing together."""
    owner = tmp_path / "owner"
    _, weights = await fitted(cluster, owner, epochs=1)
    old = shares(tmp_path, "old")
    _, same = await fitted(cluster, owner, epochs=1)
    new = shares(tmp_path, "new")
    assert set(old[0]) == {
        "kernel0",
        "bias0",
        "kernel1",
        "bias1",
        "sum of metric",
        "outside",
        "sums",
        *(f"momentum of {n}" for n in ("kernel0", "bias0", "kernel1", "bias1")),
    }
    for name, share_ in old[0].items():
        np.testing.assert_array_equal(share_ + old[1][name], new[0][name] + new[1][name])
        assert not (share_ == new[0][name]).any()
        assert not (old[1][name] == new[1][name]).any()
        assert not (share_ + new[1][name] == share_ + old[1][name]).any()
    for one, other in zip(weights, same, strict=True):
        np.testing.assert_array_equal(one, other)


def shares(tmp_path, copy):
    kept = []
    for name in NAMES[:2]:
        shutil.copytree(tmp_path / name, tmp_path / copy / name)  # the worker holds the folder itself
        vault = Vault.open(tmp_path / copy / name)
        kept.append(vault.read(vault.labels("run")[-1])[1])
        vault.close()
    return kept


async def test_half_a_checkpoint_does_not_count(cluster, tmp_path):
    """Server 0 has written a version that server 1 has not: both go on from the one before. Without any that both have, nothing begins."""
    owner = tmp_path / "owner"
    await fitted(cluster, owner, epochs=1, shuffle=False)
    files = [max((tmp_path / name).glob("run/*/*.share")) for name in NAMES[:2]]
    kept = [file.read_bytes() for file in files]
    await fitted(cluster, owner, epochs=2, shuffle=False)
    for file, content in zip(files, kept, strict=True):
        file.write_bytes(content)
    for file in files[1].parent.iterdir():
        if file != files[1]:
            file.unlink()
    made, weights = await fitted(cluster, owner, epochs=2, shuffle=False)
    assert [epoch.number for epoch in made] == [2]
    assert_close(weights, in_the_clear(in_order(2)))
    for file in files[1].parent.iterdir():
        file.unlink()
    with pytest.raises(UnknownData, match="do not all keep the same checkpoint"):
        await fitted(cluster, owner, epochs=3, shuffle=False)


async def test_a_damaged_checkpoint_is_refused(cluster, tmp_path):
    owner = tmp_path / "owner"
    await fitted(cluster, owner, epochs=1)
    file = max((tmp_path / "greg").glob("run/*/*.share"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(VaultError, match="damaged"):
        await fitted(cluster, owner, epochs=2)
    file.write_bytes(whole)
    await fitted(cluster, owner, epochs=2)


async def test_settings_that_make_no_sense(cluster, tmp_path):
    for settings, match in [({"resume": True}, "give folder="), ({"resume": False, "save_every": 3}, "give folder=")]:
        with pytest.raises(InputError, match=match):
            await fitted(cluster, None, **settings)
    with pytest.raises(InputError, match="save_every=0"):
        await fitted(cluster, tmp_path / "owner", save_every=0)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / FILE).write_text("not JSON")
    with pytest.raises(CheckpointError, match="is no training, or is damaged"):
        await fitted(cluster, tmp_path / "owner")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be used"):
        await fitted(cluster, tmp_path / "file")


async def test_servers_without_folders_say_so_and_a_training_that_never_began_is_in_nobodys_way(cluster, tmp_path):
    async with inner_cluster(None) as forgetful:
        for resume in (False, True):
            with pytest.raises(KeepsNothing, match="--data FOLDER"):
                await fitted(forgetful, tmp_path / "owner", resume=resume)
    made, _ = await fitted(cluster, tmp_path / "owner", resume=False, epochs=1, rate=0.2)
    assert [epoch.number for epoch in made] == [1]

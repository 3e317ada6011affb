"""Trainings whose steps are computed in micro-batches: as the whole batch, and nothing random twice."""

import contextlib
from typing import ClassVar

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

from actors import message
from inner_workers import inner_cluster
from privacy import DPSGD
from protocols import share
from protocols.authority.membership import THIRD_PARTY
from protocols.errors import InputError, ModelError, TooLarge
from protocols.owner import running
from protocols.owner.compiled import plan
from protocols.training.circuits import StepCircuits
from protocols.training.networks.micro_batches import MicroBatch
from protocols.workers.training_server import TrainingServer

EXAMPLES, BATCH = 12, 8  # the last step of an epoch has less
RNG = np.random.default_rng(0)
X = RNG.uniform(0, 1, (EXAMPLES, 5)).astype(np.float32)
Y = (X @ RNG.normal(size=(5, 3))).argmax(1)


def network(*middle):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((5,)), layers.Dense(12, "relu"), *middle, layers.Dense(3)], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.2, 0.5), loss, metrics=["accuracy"])
    return model


def most(batch):
    return max(plan(network()).circuit(batch, last=True).layout.sizes(1).values())


SETTINGS = {"batch_size": BATCH, "shuffle": False}


class Recording(TrainingServer):
    """Notes the key of each micro-batch."""

    keys: ClassVar[list[bytes]] = []

    @message(reentrant=True, by=THIRD_PARTY)
    async def supply(
        self, run: bytes, number: int, micro: MicroBatch, circuit: bytes, key: bytes | None, dealt: npt.NDArray[np.uint64] | None
    ) -> None:
        Recording.keys.append(key)
        await super().supply(run, number, micro, circuit, key, dealt)


async def fitted(cluster, model, **settings):
    async with await share(model, cluster) as shared:
        made = [epoch async for epoch in shared.fit(X, Y, **SETTINGS | settings)]
        return made, (await shared.reveal()).get_weights()


def same(weights, epochs, **settings):
    reference = network()
    history = reference.fit(X, Y, epochs=epochs, **SETTINGS, verbose=0, **settings).history
    for mine, theirs in zip(weights, reference.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=0.01)
    return history


async def test_each_micro_batch_has_masks_and_draws_of_its_own_and_weights_are_those_of_the_whole_batch(monkeypatch):
    drawn, told, before = [], [], StepCircuits.drawn
    monkeypatch.setattr(StepCircuits, "drawn", staticmethod(lambda circuit, key: drawn.append(key) or before(circuit, key)))

    @contextlib.contextmanager
    def watched(number, steps, *, show):
        yield told.append

    monkeypatch.setattr(running, "live", watched)
    Recording.keys.clear()
    async with inner_cluster(None, server=Recording) as cluster:
        (epoch,), weights = await fitted(cluster, network(), micro_batch_size=3)
    count = 3 + 2  # 3 3 2, 3 1
    assert epoch.micro_batches * epoch.steps == count
    assert " 2 steps of 2.5 micro-batches, " in str(epoch)
    assert len(set(Recording.keys)) == len(Recording.keys) == 2 * count
    assert len(drawn) == 2 * len(set(drawn)) == 2 * count
    assert max(told) <= 2
    same(weights, 1)


@pytest.mark.long
@pytest.mark.parametrize("equals", [False, True])
async def test_a_step_of_which_an_operation_does_not_fit_the_memory_is_computed_in_micro_batches(equals):
    async with inner_cluster(None, equals=equals) as cluster:
        ample, weights = await fitted(cluster, network(), epochs=2, validation_data=(X[:9], Y[:9]))
        same(weights, 2)
        tight, weights = await fitted(cluster, network(), epochs=2, validation_data=(X[:9], Y[:9]), memory=most(BATCH) - 1)
    history = same(weights, 2, validation_data=(X[:9], Y[:9]))
    assert [epoch.micro_batches for epoch in (*ample, *tight)] == [1, 1, 3 / 2, 3 / 2]
    assert all(few.rounds < many.rounds for few, many in zip(ample, tight, strict=True))
    for name in tight[0].logs:
        np.testing.assert_allclose([epoch.logs[name] for epoch in tight], history[name], atol=0.02, err_msg=name)


@pytest.mark.long
async def test_a_training_is_resumed_in_other_micro_batches(tmp_path):
    async with inner_cluster(tmp_path) as cluster:
        for epochs, size in ((1, 3), (2, 1), (3, None)):
            made, weights = await fitted(
                cluster, network(), epochs=epochs, micro_batch_size=size, folder=tmp_path / "owner", resume=True, save_every=1
            )
            assert [epoch.number for epoch in made] == [epochs]
            same(weights, epochs)


@pytest.mark.long
async def test_a_private_training_in_micro_batches_and_segments_adds_its_noise_to_each_step():
    async with inner_cluster(None) as cluster:
        privacy = DPSGD(noise_multiplier=1e-3, max_grad_norm=1e3)
        (epoch,), weights = await fitted(cluster, network(), micro_batch_size=3, memory=60_000, privacy=privacy)
        assert epoch.micro_batches == 5 / 2
    reference = network()
    reference.fit(X, Y, **SETTINGS, verbose=0)
    for mine, theirs, start in zip(weights, reference.get_weights(), network().get_weights(), strict=True):
        assert abs(mine - theirs).max() < abs(mine - start).max() + 0.2


async def test_what_cannot_be_is_refused_before_anything_is_shared():
    cases = [
        ({"micro_batch_size": 9}, InputError, "micro_batch_size=9; from 1 to batch_size=8"),
        ({"micro_batch_size": 0}, InputError, "micro_batch_size=0"),
        ({"micro_batch_size": 4}, ModelError, r"layer 'statistics' \(BatchNormalization\) normalises by the statistics"),
    ]
    async with inner_cluster(None) as cluster, await share(network(layers.BatchNormalization(name="statistics")), cluster) as shared:
        for settings, error, text in cases:
            with pytest.raises(error, match=text):
                await anext(shared.fit(X, Y, **SETTINGS | settings))
            assert not shared._training.begun
        with pytest.raises(TooLarge, match=r"\(BatchNormalisedLayer\) needs all examples of a batch at once: use a smaller batch_size, or"):
            await anext(shared.fit(X, Y, **SETTINGS, memory=100))


@pytest.mark.long
async def test_what_is_asked_and_what_a_frozen_base_gives_is_computed_in_micro_batches():
    def built():
        keras.utils.set_random_seed(2)
        model = network(layers.Dense(6, "relu"))
        model.layers[0].trainable = False
        model.compile(model.optimizer, model.loss, metrics=["accuracy"])
        return model

    reference = built()
    reference.fit(X, Y, **SETTINGS, verbose=0)
    async with inner_cluster(None) as cluster, await share(built(), cluster) as shared:
        (epoch,) = [epoch async for epoch in shared.fit(X, Y, **SETTINGS, micro_batch_size=3)]
        assert epoch.micro_batches == 5 / 2
        told = await shared.evaluate(X, Y, batch_size=EXAMPLES, memory=6_200)
        answers = await shared.predict(X, batch_size=EXAMPLES, memory=6_200)
    np.testing.assert_allclose(answers, reference.predict(X, verbose=0), atol=0.02)
    expected = reference.evaluate(X, Y, verbose=0, return_dict=True)
    for name, value in told.items():
        np.testing.assert_allclose(value, expected[name], atol=0.02, err_msg=name)

"""A resumed training is the uninterrupted one, bit for bit, with the same randomness in the same step: whatever an optimizer keeps."""

import keras
import numpy as np
import pytest
from keras import layers

from inner_workers import inner_cluster
from protocols import share
from protocols.link import keys
from protocols.workers import training_dealer

OPTIMIZERS = keras.optimizers
RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=(10, size)).astype(np.float32) for size in (3, 2))
EPOCHS, BATCH = 3, 4
AVERAGED = {"use_ema": True, "ema_momentum": 0.7}

KINDS = {
    "SGD": lambda: OPTIMIZERS.SGD(0.1),
    "momentum": lambda: OPTIMIZERS.SGD(0.05, momentum=0.9),
    "Nesterov": lambda: OPTIMIZERS.SGD(0.05, momentum=0.9, nesterov=True),
    "a schedule": lambda: OPTIMIZERS.SGD(OPTIMIZERS.schedules.CosineDecay(0.1, 12), momentum=0.5),
    "Adam": lambda: OPTIMIZERS.Adam(0.05),
    "AMSGrad": lambda: OPTIMIZERS.Adam(0.05, amsgrad=True),
    "AdamW": lambda: OPTIMIZERS.AdamW(0.05, weight_decay=0.1),
    "Nadam": lambda: OPTIMIZERS.Nadam(0.05),
    "Adamax": lambda: OPTIMIZERS.Adamax(0.05),
    "RMSprop": lambda: OPTIMIZERS.RMSprop(0.02, momentum=0.5, centered=True),
    "Adagrad": lambda: OPTIMIZERS.Adagrad(0.1),
    "Adadelta": lambda: OPTIMIZERS.Adadelta(1.0),
    "Lion": lambda: OPTIMIZERS.Lion(0.01),
    "averages": lambda: OPTIMIZERS.SGD(0.1, momentum=0.5, **AVERAGED),
    "averages that overwrite": lambda: OPTIMIZERS.Adam(0.05, ema_overwrite_frequency=2, **AVERAGED),
    "gathered gradients": lambda: OPTIMIZERS.SGD(0.1, gradient_accumulation_steps=2),
}


class Known(keys.ExternalDealer):
    """Gives the keys of a step by how many steps have been made before."""

    made = 0

    def keys(self, *purpose):
        number = Known.made
        Known.made += 1
        return keys.Keys(*[tuple(number.to_bytes(8, "big") + bytes([party]) * 8 for party in (0, 1))] * 2)


@pytest.fixture
def known(monkeypatch):
    async def third_party(*given):
        return Known()

    monkeypatch.setattr(training_dealer, "third_party", third_party)


async def fitted(folder, kind, stops, callbacks=(), **settings):
    """The weights after as many fits as there are stops, in as many processes, as it were."""
    Known.made = 0
    async with inner_cluster(folder) as cluster:
        for epochs in stops:
            keras.utils.set_random_seed(1)
            model = keras.Sequential([layers.Input((3,)), layers.Dense(3, "relu"), layers.Dense(2)], name="net")
            model.compile(KINDS[kind](), "mse")
            how = {"batch_size": BATCH, "shuffle": False, "metrics": False, "progress": False} | settings
            async with await share(model, cluster) as shared:
                fit = shared.fit(X, Y, epochs=epochs, folder=folder / "owner", resume=True, callbacks=[one() for one in callbacks], **how)
                told = [epoch async for epoch in fit]
                weights = (await shared.reveal()).get_weights()
    return told[-1].number if told else 0, weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.sample(2)
async def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(kind, known, tmp_path):
    whole = await fitted(tmp_path / "whole", kind, (EPOCHS,))
    often = await fitted(tmp_path / "often", kind, (1, EPOCHS))
    assert whole[0] == often[0] == EPOCHS
    for one, other in zip(whole[1], often[1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["SGD", "averages"])
@pytest.mark.sample(1)
async def test_early_stopping_beside_averages_is_resumed_and_stops_where_it_would_have(kind, tmp_path):
    """The best weights are those that it remembers, not averages of later ones."""

    def stopping():
        return keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True, mode="max")

    settings = {"metrics": ["loss"], "validation_data": (X, Y), "callbacks": [stopping]}
    whole = await fitted(tmp_path / "whole", kind, (6,), **settings)
    often = await fitted(tmp_path / "often", kind, (1, 2, 6), **settings)
    assert whole[0] == often[0] == 3
    for one, other in zip(whole[1], often[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)

"""Training on real workers does what `compile` says, or refuses it by name before anything runs."""

import keras
import numpy as np
import pytest
from keras import layers

from protocols import share
from protocols.errors import ModelError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int64)


class Flipped(keras.Sequential):
    def train_step(self, data):
        x, y = data[:2]
        return super().train_step((x, 1 - y))


class Tripled(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return 3 * super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)


def build(kind=keras.Sequential, optimizer=None, **more):
    keras.utils.set_random_seed(1)
    model = kind([keras.Input((6,)), layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **more)
    return model


@pytest.mark.long
@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
async def test_the_loss_counts_as_often_as_compile_says(cluster, optimizer):
    x, y = await cluster.store("x", X), await cluster.store("y", Y)
    model, reference = (build(optimizer=optimizer(0.1), loss_weights=[3.0]) for _ in range(2))
    async with await share(model, cluster, input_range=(-8, 8)) as shared:
        (epoch,) = [one async for one in shared.fit(x, y, batch_size=64, shuffle=False, metrics=["loss"], progress=False)]
        made = (await shared.reveal()).get_weights()
    told = reference.fit(X, Y, batch_size=64, shuffle=False, verbose=0).history["loss"]
    assert epoch.loss == pytest.approx(told[0], abs=0.02)
    for before, one, other in zip(model.get_weights(), made, reference.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other - before).max())


@pytest.mark.long
async def test_a_step_of_ones_own_is_refused_before_anything_runs(cluster):
    x, y = await cluster.store("x", X), await cluster.store("y", Y)
    for kind, name in ((Flipped, "train_step"), (Tripled, "compute_loss")):
        async with await share(build(kind), cluster, input_range=(-8, 8)) as shared:
            with pytest.raises(ModelError, match=name):
                async for _ in shared.fit(x, y, batch_size=64, progress=False):
                    pass


@pytest.mark.long
async def test_workers_train_with_averages_gathered_gradients_penalties_and_other_losses(cluster):
    """What is kept beside weights goes from step to step at the workers, and averages take the weights' places in the end."""
    targets = X[:, :2] * 2
    x, y = await cluster.store("x", X), await cluster.store("y", targets)

    def built():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((6,)), layers.Dense(2, kernel_regularizer="l2")])
        optimizer = keras.optimizers.RMSprop(
            0.05, momentum=0.5, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2, clipnorm=0.5
        )
        model.compile(optimizer, keras.losses.Huber(0.5))
        return model

    model, reference = built(), built()
    async with await share(model, cluster, input_range=(-8, 8)) as shared:
        told = [one async for one in shared.fit(x, y, epochs=2, batch_size=10, shuffle=False, metrics=["loss"], progress=False)]
        made = (await shared.reveal()).get_weights()
    expected = reference.fit(X, targets, epochs=2, batch_size=10, shuffle=False, verbose=0).history["loss"]
    assert [epoch.loss for epoch in told] == pytest.approx(expected, abs=0.02)
    for before, one, other in zip(model.get_weights(), made, reference.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=0.03 * np.abs(other - before).max())

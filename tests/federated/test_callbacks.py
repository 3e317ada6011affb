"""Keras' callbacks over rounds: what they set is followed, or refused by name before an owner is asked."""

import keras
import numpy as np
import pytest

from federated import FedAvg, Federation, FedSGD, SettingError, simulated_owners

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype(np.float32)
Y = (X.sum(1) > 0).astype(np.int32)


def build():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


async def run(callbacks, **settings):
    settings = {"model": build, "owners": simulated_owners([(X, Y)]), "progress": False} | settings
    async with Federation(**settings) as federation:
        return await federation.run(rounds=4, callbacks=callbacks)


class Counting:
    """An owner that says whether it was asked."""

    name, asked = "owner", 0

    async def train(self, task):
        self.asked += 1
        raise AssertionError

    async def evaluate(self, task):
        raise AssertionError


class Halving(keras.callbacks.Callback):
    """Sets the learning rate by itself."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2


SETTING = {
    "LearningRateScheduler": lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
    "ReduceLROnPlateau": lambda: keras.callbacks.ReduceLROnPlateau(monitor="loss"),
}


@pytest.mark.parametrize("name", SETTING)
async def test_a_callback_that_sets_a_learning_rate_which_nobody_follows_is_refused_by_name(name):
    owner = Counting()
    with pytest.raises(SettingError, match=f"{name} sets the learning rate .* owners give gradients"):
        await run([keras.callbacks.CSVLogger("/dev/null"), SETTING[name]()], owners=[owner], strategy=FedSGD())
    assert not owner.asked, "before anything runs"
    with pytest.raises(
        SettingError, match=r"learning rate of the model's optimizer was set to 0.05, and the steps of FedSGD are not those"
    ):
        await run([Halving()], owners=[owner], strategy=FedSGD())
    assert not owner.asked


async def test_other_strategies_follow_it():
    def moves(found):
        return [np.abs(b - a).max() for a, b in zip([build().get_weights()[0], *found], found, strict=False)]

    seen = []
    kept = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(federation.model.get_weights()[0]))
    for callbacks in ([], [SETTING["LearningRateScheduler"]()], [Halving()]):
        seen.clear()
        async with Federation(
            model=build, owners=simulated_owners([(X, Y)]), strategy=FedAvg(batch_size=None), progress=False
        ) as federation:
            await federation.run(rounds=2, callbacks=[*callbacks, kept])
        one, other = moves(list(seen))
        assert (other < 0.7 * one) == bool(callbacks)


async def test_nor_is_a_learning_rate_followed_that_is_set_between_rounds():
    async with Federation(model=build, owners=simulated_owners([(X, Y)]), strategy=FedSGD(), progress=False) as federation:
        await anext(federation.rounds(1))
        federation.model.optimizer.learning_rate = 0.5
        with pytest.raises(SettingError, match=r"was set to 0.5, and the steps of FedSGD are not those of the optimizer"):
            await anext(federation.rounds(1))
    async with Federation(model=build, owners=simulated_owners([(X, Y)]), progress=False) as federation:
        federation.model.optimizer.learning_rate = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
        with pytest.raises(SettingError, match="was set to a schedule, and owners follow the schedule that the model was compiled with"):
            await anext(federation.rounds(1))


async def test_averages_of_an_optimizer_that_makes_no_step_are_refused():
    with pytest.raises(SettingError, match=r"SwapEMAWeights puts the averages .* that optimizer makes no step here"):
        await run([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])

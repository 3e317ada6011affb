"""Differentially private training on real workers: what is counted, told, refused, and resumed."""

import dp_accounting
import keras
import msgspec
import numpy as np
import pytest
from keras import layers

import privacy
from gradient_oracle import clipped_sum, each_gradient, flat_weights
from inner_workers import inner_cluster
from privacy import DPSGD, Ledger
from protocols import share
from protocols.errors import Diverged, InputError, ModelError, NotGranted, VaultError
from protocols.owner import asking
from protocols.owner.running import Running

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(48, 6)).astype(np.float32)
Y = (X @ RANDOM.normal(size=(6, 3))).argmax(1)


def build(*hidden, rate=0.5, optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(3)], name="net")
    model.compile(optimizer or keras.optimizers.SGD(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def expected(*multipliers, delta=1e-5):
    accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    for z in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(z))
    return accountant.get_epsilon(delta)


async def fitted(shared, data, **settings):
    return [epoch async for epoch in shared.fit(*data, progress=False, **{"batch_size": 16} | settings)]


async def test_epochs_are_counted_as_dp_accounting_does_and_written_to_the_ledger(cluster, tmp_path):
    data = await cluster.store("x", X), await cluster.store("y", Y)
    ledger = Ledger(tmp_path / "ledger.sqlite", data="x", max_epsilon=12.0, delta=1e-5)
    model = build(layers.Dense(5, "relu"))
    async with await share(model, cluster, input_range=(-8, 8)) as shared:
        first = await fitted(shared, data, epochs=2, privacy=DPSGD(noise_multiplier=2.0, max_grad_norm=1.0), ledger=ledger)
        second = await fitted(shared, data, privacy=DPSGD(noise_multiplier=1.5, max_grad_norm=1.0), ledger=ledger)
        trained = await shared.reveal()
        for refused in ({"epochs": 100, "ledger": ledger}, {"epochs": 3, "max": 3.0}):
            much = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0, max_epsilon=refused.pop("max", None))
            with pytest.raises(privacy.BudgetSpent):
                await fitted(shared, data, privacy=much, **refused)
    assert [epoch.privacy.epsilon for epoch in first] == pytest.approx([expected(2.0), expected(2.0, 2.0)], rel=0.01)
    assert second[0].privacy.epsilon == pytest.approx(expected(2.0, 2.0, 1.5), rel=0.01)
    assert second[0].privacy.alone == pytest.approx(expected(*(z * 2**0.5 for z in (2.0, 2.0, 1.5))), rel=0.01)
    assert ledger.epsilon() == pytest.approx(second[0].privacy.epsilon, rel=0.01)
    assert [epoch.value for epoch in (*first, *second)] == [None] * 3
    assert "epsilon" in str(first[0])
    assert all(np.isfinite(one).all() for one in trained.get_weights())
    assert any((one != other).any() for one, other in zip(trained.get_weights(), model.get_weights(), strict=True))


class Odd(layers.Layer):
    """Mixes examples."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


REFUSED = {
    "a metric by name": ({"metrics": ["loss"]}, InputError, "outside of the guarantee"),
    "a sampling rate": ({"privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1.0, sampling_rate=0.5)}, InputError, "sampling_rate=0.5"),
    "no DPSGD": ({"privacy": 1.0}, InputError, "DPSGD"),
    "another mechanism": ({"privacy": privacy.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)}, InputError, "CentralGaussian"),
    "a norm that vanishes": ({"privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1e-9)}, ModelError, "max_grad_norm"),
    "a ledger alone": ({"privacy": None, "ledger": 1}, InputError, "give both"),
    "no ledger": ({"ledger": 1}, InputError, "Ledger"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_done_is_refused_before_anything_runs(cluster, name):
    settings, error, message = REFUSED[name]
    data = await cluster.store("x", X), await cluster.store("y", Y)
    async with await share(build(), cluster, input_range=(-8, 8)) as shared:
        with pytest.raises(error, match=message):
            await fitted(shared, data, **{"privacy": DPSGD(noise_multiplier=1.0, max_grad_norm=1.0)} | settings)
        for one, other in zip((await shared.reveal()).get_weights(), build().get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


async def test_servers_tell_no_sum_over_examples_whoever_asks(cluster, monkeypatch):
    """An owner whose library has been changed."""
    data = await cluster.store("x", X), await cluster.store("y", Y)
    monkeypatch.setattr("protocols.owner.metrics.asked", lambda metrics, loss: ("accuracy",))
    async with await share(build(), cluster, input_range=(-8, 8)) as shared:
        with pytest.raises(NotGranted, match="without noise"):
            await fitted(shared, data, privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=1.0))


async def test_a_batch_of_all_examples_is_divided_by_how_many_there_are(cluster):
    """With next to no noise a step is the clipped mean, though `batch_size` is far more than there are examples."""
    data = await cluster.store("x", X), await cluster.store("y", Y)
    model = build(rate=1.0)
    async with await share(model, cluster, input_range=(-8, 8)) as shared:
        await fitted(shared, data, batch_size=1000, privacy=DPSGD(noise_multiplier=1e-4, max_grad_norm=1.0))
        made = await shared.reveal()
    mean = clipped_sum(each_gradient(model, X, Y), 1.0) / len(X)
    np.testing.assert_allclose(flat_weights(model) - flat_weights(made), mean, atol=0.002 + 0.01 * np.abs(mean).max())


async def test_a_ledger_of_owners_is_refused(cluster, tmp_path):
    data = await cluster.store("x", X), await cluster.store("y", Y)
    ledger = Ledger(tmp_path / "owners.sqlite", data="x", max_epsilon=9.0, delta=1e-5, unit="owner")
    async with await share(build(), cluster, input_range=(-8, 8)) as shared:
        with pytest.raises(InputError, match="unit is 'example'"):
            await fitted(shared, data, privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=1.0), ledger=ledger)
    assert ledger.epsilon() == 0


@pytest.mark.long
async def test_what_diverges_is_paid_for_and_paid_again(cluster, tmp_path):
    """That weights have left their window was told: of an epoch that is made again."""
    data = await cluster.store("x", X), await cluster.store("y", Y)
    ledger = Ledger(tmp_path / "ledger.sqlite", data="x", max_epsilon=100.0, delta=1e-5)
    settings = {"privacy": DPSGD(noise_multiplier=4.0, max_grad_norm=1000.0), "ledger": ledger}
    async with await share(build(rate=60.0), cluster, input_range=(-8, 8)) as shared:
        for spent in (1, 2):
            with pytest.raises(Diverged):
                await fitted(shared, data, epochs=2, **settings)
            assert sum(release.count for release in ledger.releases) == spent


@pytest.mark.long
async def test_a_training_that_is_resumed_goes_on_counting(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite", data="x", max_epsilon=100.0, delta=1e-5)
    settings = {"privacy": DPSGD(noise_multiplier=4.0, max_grad_norm=1.0), "ledger": ledger, "folder": tmp_path / "owner"}
    async with inner_cluster(tmp_path) as cluster:
        data = await cluster.store("x", X), await cluster.store("y", Y)
        made = []
        for epochs in (1, 3):  # another process each time, for all that it knows
            async with await share(build(), cluster, input_range=(-8, 8)) as shared:
                made += await fitted(shared, data, epochs=epochs, resume=True, save_every=2, **settings)
    assert [epoch.number for epoch in made] == [1, 2, 3]
    assert [epoch.privacy.epsilon for epoch in made] == pytest.approx([expected(*[4.0] * count) for count in (1, 2, 3)], rel=0.01)
    assert sum(release.count for release in ledger.releases) == 3


@pytest.mark.long
@pytest.mark.parametrize("fails", ["a callback", "a checkpoint"])
async def test_an_epoch_that_could_be_revealed_and_is_made_again_with_other_noise_is_paid_again(tmp_path, monkeypatch, fails):
    ledger = Ledger(tmp_path / "ledger.sqlite", data="x", max_epsilon=100.0, delta=1e-5)
    settings = {"privacy": DPSGD(noise_multiplier=4.0, max_grad_norm=1.0), "ledger": ledger, "folder": tmp_path / "owner", "resume": True}

    class Failing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch:
                raise ZeroDivisionError

    async def full(self, number):
        raise VaultError("no space is left")

    async with inner_cluster(tmp_path) as cluster:
        data = await cluster.store("x", X), await cluster.store("y", Y)
        async with await share(build(), cluster, input_range=(-8, 8)) as shared:
            await fitted(shared, data, epochs=1, **settings)
            with monkeypatch.context() as patch:
                if fails == "a checkpoint":
                    patch.setattr(Running, "ended", full)
                with pytest.raises((ZeroDivisionError, VaultError)):
                    await fitted(shared, data, epochs=2, callbacks=[Failing()] if fails == "a callback" else [], **settings)
            first = flat_weights(await shared.reveal())
            made = await fitted(shared, data, epochs=2, **settings)
            second = flat_weights(await shared.reveal())
    assert np.abs(first - second).max() > 0.01, "the noise is another"
    assert sum(release.count for release in ledger.releases) == 3
    assert made[-1].privacy.epsilon == pytest.approx(expected(4.0, 4.0, 4.0), rel=0.01)


@pytest.mark.parametrize("part", ["base", "head"])
async def test_servers_refuse_features_of_a_base_that_are_larger_than_a_private_step_takes_them_to_be(tmp_path, monkeypatch, part):
    """An owner who says otherwise of them would have examples add more than C."""
    cut = asking.parts

    def wrongly(plan, examples):
        base, head = cut(plan, examples)
        if part == "base":  # not folded
            return type(cut(plan, examples))(msgspec.structs.replace(base, private=None), head)
        return type(cut(plan, examples))(base, msgspec.structs.replace(head, private=msgspec.structs.replace(head.private, features=False)))

    monkeypatch.setattr(asking, "parts", wrongly)
    model = build(layers.Dense(5, "relu", trainable=False))
    async with inner_cluster(tmp_path) as cluster, await share(model, cluster, input_range=(-8, 8)) as shared:
        with pytest.raises(InputError, match="features that a run has made are larger"):
            await fitted(shared, (X, Y), privacy=DPSGD(noise_multiplier=1.0, max_grad_norm=1.0))

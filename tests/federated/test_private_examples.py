"""DP-SGD inside owners: what it costs them, who is asked, and ledgers of their own."""

import keras
import numpy as np
import pytest

from actors import ActorSystem
from federated import (
    DPSGD,
    CentralGaussian,
    DataOwner,
    FedAvg,
    FedBuff,
    Federation,
    FedSGD,
    LocalGaussian,
    PlainMean,
    SecureAggregation,
    SettingError,
    partition,
    simulated_owners,
)
from federated.private.noising import noising
from privacy import Accountant, Ledger, PrivacyEngine
from privacy import SettingError as PrivacySettingError
from privacy.plan import event


def cost(rate, z, steps):
    accountant = Accountant()
    accountant.record(event(rate, z), steps)
    return accountant.epsilon(1e-5)


async def played(build, owners, rounds, privacy, *, strategy=None, **settings):
    federation = Federation(model=build, owners=owners, strategy=strategy or FedAvg(), privacy=privacy, **settings)
    async with federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model


@pytest.mark.parametrize("aggregation", [PlainMean(), SecureAggregation()])
@pytest.mark.sample(1)
async def test_owners_learn_and_what_they_spend_is_told(build, examples, aggregation):
    privacy = DPSGD(max_grad_norm=1.0, noise_multiplier=0.8, sampling_rate=0.2)
    outcomes, _ = await played(
        build,
        simulated_owners(partition(*examples, owners=3)),
        5,
        privacy,
        strategy=FedAvg(local_epochs=2),
        aggregation=aggregation,
        evaluation=examples,
    )
    assert [outcome.epsilon for outcome in outcomes] == [pytest.approx(cost(0.2, 0.8, 10 * n)) for n in range(1, 6)]
    assert outcomes[-1].metrics["test_accuracy"] > 0.7
    assert set(outcomes[-1].metrics) == {"test_loss", "test_accuracy"}  # nothing of the owners' own
    assert outcomes[-1].examples == 60


async def test_the_update_has_the_noise_of_its_steps(build):
    """Examples without a gradient: the update is lr z C / B times the noise of each step."""
    x, y = np.zeros((40, 4), np.float32), np.zeros(40, int)

    def flat():
        last = keras.layers.Dense(3, use_bias=False, kernel_initializer="zeros", trainable=False)
        return build([keras.layers.Dense(2000, kernel_initializer="zeros"), last])

    privacy = DPSGD(max_grad_norm=0.5, noise_multiplier=2.0, sampling_rate=0.25)
    _, model = await played(flat, simulated_owners([(x, y)]), 1, privacy, strategy=FedAvg(local_epochs=3))
    noise = np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights()[:2], flat().get_weights()[:2], strict=True)])
    assert noise.std() == pytest.approx(0.1 * 2.0 * 0.5 / 10 * np.sqrt(12), rel=0.03)


async def test_owners_whose_budget_is_spent_are_asked_no_more(build, examples):
    once = cost(0.5, 1.0, 2)
    privacy = DPSGD(max_grad_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5, max_epsilon=1.01 * cost(0.5, 1.0, 4))
    owners = simulated_owners(partition(*examples, owners=4))
    outcomes, _ = await played(build, owners, 30, privacy, strategy=FedAvg(fraction=0.5))
    asked = [name for outcome in outcomes for name in outcome.sampled]
    assert sorted(asked) == sorted(2 * [owner.name for owner in owners])  # two rounds each, in whatever order
    assert outcomes[0].epsilon == pytest.approx(once)
    assert all(outcome.epsilon <= privacy.max_epsilon for outcome in outcomes)


async def test_a_resumed_run_remembers_what_each_has_spent(build, examples, tmp_path):
    privacy = DPSGD(max_grad_norm=1.0, noise_multiplier=1.0, sampling_rate=0.5)
    owners = simulated_owners(partition(*examples, owners=4))
    settings = {"strategy": FedAvg(fraction=0.5), "folder": tmp_path}
    await played(build, owners, 2, privacy, **settings)
    then, _ = await played(build, owners, 4, privacy, resume=True, **settings)
    straight, _ = await played(build, owners, 4, privacy, strategy=FedAvg(fraction=0.5))
    assert [(one.sampled, one.epsilon) for one in then] == [(one.sampled, one.epsilon) for one in straight[2:]]
    assert len({one.epsilon for one in straight}) > 1, "somebody was asked twice: there is something to remember"


async def test_data_that_cannot_be_sampled_costs_that_owner_only(build, examples):
    import tensorflow as tf

    x, y = examples
    parts = [(x[:30], y[:30]), (x[30:34], y[30:34]), tf.data.Dataset.from_tensor_slices((x[34:], y[34:])).batch(5)]
    privacy = DPSGD(max_grad_norm=1.0, noise_multiplier=1.0, sampling_rate=0.1)
    (outcome,), _ = await played(build, simulated_owners(parts), 1, privacy, quorum=0.1)
    assert outcome.reported == ("owner-0",)
    assert "fewer than 1 / 0.1 examples" in outcome.dropped["owner-1"]
    assert "give arrays (x, y)" in outcome.dropped["owner-2"]


def test_models_and_strategies_that_cannot_be_private(build, examples):
    owners, privacy = simulated_owners(partition(*examples, owners=3)), DPSGD(max_grad_norm=1.0, noise_multiplier=1.0)
    for strategy in (FedSGD(), FedBuff(buffer=1)):
        with pytest.raises(SettingError, match="owners train by DP-SGD in rounds"):
            Federation(model=build, owners=owners, strategy=strategy, privacy=privacy)


async def test_a_layer_that_mixes_examples_is_named_before_the_first_round(build, examples):
    owners, privacy = simulated_owners(partition(*examples, owners=3)), DPSGD(max_grad_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(SettingError, match=r"BatchNormalization.*LayerNormalization|BatchNormalization.*GroupNormalization"):
        await played(lambda: build([keras.layers.BatchNormalization(), keras.layers.Dense(3)]), owners, 1, privacy)


@pytest.mark.parametrize(
    "settings", [{"max_grad_norm": 0.0}, {"noise_multiplier": -1.0}, {"sampling_rate": 0.0}, {"sampling_rate": 1.5}, {"delta": 0.0}]
)
def test_settings_that_make_no_sense(settings):
    (name, value), *_ = settings.items()
    with pytest.raises(PrivacySettingError, match=f"{name}={value}: it has to be"):
        DPSGD(**{"max_grad_norm": 1.0, "noise_multiplier": 1.0} | settings)


def test_the_desk_trains_as_the_engine_does(build):
    """That the update is private rests on the engine; this holds that it is used."""
    from federated.models import blueprint
    from federated.owners.training import _Desk

    desk = _Desk(blueprint.draw(build()), 0.0, 1.0, 0.5)
    with pytest.raises(Exception, match="was not sampled here"):
        desk.model.train_on_batch(np.zeros((2, 4)), np.zeros(2))
    assert PrivacyEngine().validate(desk.model) == ()


# Ledgers of owners.


async def with_ledger(build, examples, ledger, privacy, rounds=1):
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(DataOwner, examples, ledger=ledger, name="careful")
        await system.spawn(DataOwner, examples, name="other")
        addresses = [f"{system.address}/{name}" for name in ("careful", "other")]
        outcomes, _ = await played(build, addresses, rounds, privacy, quorum=0.1)
    return addresses[0], outcomes


async def test_an_owner_with_a_ledger_stops_when_its_own_budget_is_spent(build, examples, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="ward", max_epsilon=1.01 * cost(0.1, 2.0, 20), delta=1e-5)
    name, outcomes = await with_ledger(build, examples, ledger, DPSGD(max_grad_norm=1.0, noise_multiplier=2.0), 3)
    assert [name in outcome.reported for outcome in outcomes] == [True, True, False]
    assert "the privacy budget of this owner is spent" in {**outcomes[2].dropped, **outcomes[2].rejected}[name]
    assert ledger.epsilon() == pytest.approx(cost(0.1, 2.0, 20))


@pytest.mark.parametrize("kind", [None, CentralGaussian, LocalGaussian])
async def test_it_lets_nothing_out_without_noise_of_its_own(build, examples, tmp_path, kind):
    privacy = kind and kind(clip_norm=1.0, noise_multiplier=5.0)
    ledger = Ledger(tmp_path / "ledger", data="ward", max_epsilon=9.0, delta=1e-5)
    name, (outcome,) = await with_ledger(build, examples, ledger, privacy)
    assert "lets nothing out without noise of its own" in {**outcome.dropped, **outcome.rejected}[name]
    assert ledger.releases == ()


async def test_a_ledger_about_the_owner_counts_its_noisy_updates(build, examples, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="ward", unit="owner", max_epsilon=9.0, delta=1e-5)
    privacy = LocalGaussian(clip_norm=1.0, noise_multiplier=5.0)
    name, (outcome,) = await with_ledger(build, examples, ledger, privacy)
    assert name in outcome.reported
    ((spent, count),) = ledger.events
    added = noising(privacy, 2.0).bound(15, 1, 0.0).stddev
    assert (spent.noise_multiplier, count) == (pytest.approx(added / 2, rel=1e-4), 1)  # any two data sets are up to 2 S apart

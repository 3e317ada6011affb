"""Mechanisms of rounds: adaptive clipping, noise that owners make together, trees, and the ledger that pays for all of them."""

import dataclasses
import itertools
import math

import dp_accounting
import numpy as np
import pytest

from federated import (
    CentralGaussian,
    DistributedGaussian,
    FedAvg,
    Federation,
    LocalGaussian,
    OwnMasker,
    SecureAggregation,
    SettingError,
    SharedAggregation,
    TreeGaussian,
    Update,
    partition,
    simulated_owners,
)
from federated.aggregation.aggregation import Limits
from federated.private.noising import OwnersNoise, TreeNoise, noising
from federated.private.private_rounds import PrivateRounds
from federated.tasks.bounding import LARGEST_NOISE, bounded
from federated.tasks.update import LocalTraining
from privacy import Accountant, AdaptiveClipping, GaussianNoise, Ledger
from protocols import Cluster, Worker


class Fixed:
    """An owner that sends a fixed update, bounded as told."""

    def __init__(self, name, value, *, falls=False):
        self.name, self.value, self.falls, self.bounds = name, value, falls, []
        self._masker = OwnMasker(self.train)

    async def train(self, task):
        self.bounds.append(task.training.bound)
        update = Update(task.round, [np.full_like(w, self.value) for w in task.weights], 7, {"loss": 1.0})
        return bounded(update, task.training.bound, GaussianNoise())

    async def evaluate(self, task):
        raise AssertionError("evaluation would be released without noise")

    async def masker(self):
        if self.falls:
            raise ConnectionError("gone")
        return self._masker


async def played(build, owners, rounds=1, *, privacy, fraction=1.0, **settings):
    federation = Federation(model=build, owners=owners, strategy=FedAvg(fraction=fraction), privacy=privacy, **settings)
    async with federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model


def moved(model, build):
    return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), build().get_weights(), strict=True)])


# Adaptive clipping.


@pytest.mark.long
async def test_the_clip_norm_finds_the_median_of_the_updates(build):
    """Fifteen weights each; norms from 0.04 to 1.9, of which the median is 1."""
    owners = [Fixed(f"owner-{i}", value / math.sqrt(15)) for i, value in enumerate(np.linspace(0.04, 1.96, 49))]
    privacy = CentralGaussian(clip_norm=30.0, noise_multiplier=0.3, clipping=AdaptiveClipping(learning_rate=0.5, count_noise=0.5))
    await played(build, owners, 30, privacy=privacy)
    clips = [bound.clip_norm for bound in owners[0].bounds]
    assert clips[0] == 30.0
    assert abs(np.mean(clips[-10:]) - 1.0) < 0.1
    assert all(bound.counts for bound in owners[0].bounds)


async def test_what_it_costs_is_what_the_noise_multiplier_says(build):
    adaptive = CentralGaussian(clip_norm=1.0, noise_multiplier=1.5, clipping=AdaptiveClipping(count_noise=3.0))
    (outcome,), _ = await played(build, [Fixed(f"owner-{i}", 0.1) for i in range(4)], privacy=adaptive)
    (plain,), _ = await played(build, [Fixed("a", 0.1)], privacy=dataclasses.replace(adaptive, clipping=None))
    assert outcome.epsilon == plain.epsilon
    noise = noising(adaptive, 4.0)
    assert noise._z**-2 + (2 * 3.0) ** -2 == pytest.approx(1.5**-2)


async def test_a_run_goes_on_with_the_clip_norm_it_had(build, tmp_path):
    owners = [Fixed(f"owner-{i}", 0.01) for i in range(4)]
    privacy = CentralGaussian(clip_norm=5.0, noise_multiplier=0.2, clipping=AdaptiveClipping(count_noise=0.2))
    await played(build, owners, 3, privacy=privacy, folder=tmp_path)
    await played(build, owners, 6, privacy=privacy, folder=tmp_path, resume=True)
    clips = [bound.clip_norm for bound in owners[0].bounds]
    assert len(clips) == 6
    assert all(after < 0.97 * before for before, after in itertools.pairwise(clips))


async def test_an_owner_that_tells_more_than_one_bit_is_rejected(build):
    class Loud(Fixed):
        async def train(self, task):
            return dataclasses.replace(await super().train(task), metrics={"within": 40.0})

    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, clipping=AdaptiveClipping(count_noise=3.0))
    (outcome,), _ = await played(build, [Fixed("a", 0.1), Fixed("b", 0.1), Loud("loud", 0.1)], privacy=privacy)
    assert "has metrics" in outcome.rejected["loud"]


# Noise that owners make together.


def test_each_owner_adds_its_part_and_float32_holds_it():
    private = PrivateRounds(DistributedGaussian(clip_norm=1.0, noise_multiplier=1.2), owners=100, fraction=0.5)
    weights = [np.zeros((300, 100), np.float32), np.zeros(100, np.float32)]
    bound = private.training(LocalTraining(), weights, least=36, limits=Limits(36, 2.0**-40, 8.0)).bound
    assert bound.stddev == pytest.approx(1.2 / 6, rel=1e-3)
    assert bound.stddev >= 1.2 * (1.0 + bound.step * math.sqrt(30_100)) / 6 * (1 - 1e-12)
    assert (1.0 + LARGEST_NOISE * bound.stddev) / bound.step <= 2**24
    rng = np.random.default_rng(0)
    update = bounded(Update(1, [rng.normal(size=w.shape).astype(np.float32) for w in weights], 7, {}), bound, GaussianNoise())
    assert [array.dtype for array in update.delta] == [np.float32, np.float32]
    assert all((array / bound.step == np.rint(array / bound.step)).all() for array in update.delta)
    assert np.std(update.delta[0]) == pytest.approx(0.2, rel=0.03)


@pytest.mark.parametrize("resolution", [0.0, 2.0**-19, 2.0**-10])
def test_the_grid_is_never_finer_than_what_is_summed_exactly(resolution):
    bound = OwnersNoise(DistributedGaussian(clip_norm=0.5, noise_multiplier=1.0)).bound(1_000_000, 30, resolution)
    assert bound.step >= resolution
    assert bound.step * math.ceil(bound.stddev / bound.step) >= (0.5 + 1000 * bound.step) / math.sqrt(30) * (1 - 1e-12)


async def test_the_sum_has_the_whole_noise_and_nobody_saw_it_without(build):
    import keras

    def large():
        return build([keras.layers.Dense(3000)])

    owners = [Fixed(f"owner-{i}", 0.0) for i in range(6)]
    privacy = DistributedGaussian(clip_norm=0.5, noise_multiplier=2.0)
    (outcome,), model = await played(large, owners, privacy=privacy, aggregation=SecureAggregation(threshold=1.0))
    noise = moved(model, large)
    assert outcome.failure is None
    assert 0.99 < noise.std() / (2.0 * 0.5 / 6) < 1.055  # about 1.02, for the rounding is paid for; 15,000 values
    assert abs(noise.mean()) < 5 * noise.std() / math.sqrt(noise.size)
    central = Accountant()
    central.record(dp_accounting.PoissonSampledDpEvent(1.0, dp_accounting.GaussianDpEvent(2.0)))
    assert outcome.epsilon == central.epsilon(1e-5)


async def test_two_servers_sum_it_as_well(build):
    import keras

    def large():
        return build([keras.layers.Dense(3000, kernel_initializer="zeros")])

    data = np.zeros((2, 4), np.float32), np.zeros(2, int)
    owners = simulated_owners([data] * 5)
    privacy = DistributedGaussian(clip_norm=0.5, noise_multiplier=2.0)
    workers = [Worker("localhost:0") for _ in range(3)]
    async with Cluster(workers[0], workers[1], crypto_provider=workers[2]) as cluster:
        (outcome,), model = await played(large, owners, privacy=privacy, aggregation=SharedAggregation(cluster, cohort=5))
    noise = moved(model, large)[:12_000]  # the images are black: only biases learn
    assert outcome.failure is None
    assert abs(noise.std() / (2.0 * 0.5 / 5) - 1) < 0.04


async def test_with_fewer_than_the_noise_needs_nothing_is_opened_and_nothing_spent(build, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=50.0, delta=1e-5)
    owners = [Fixed(f"owner-{i}", 0.1, falls=i < 2) for i in range(6)]
    privacy = DistributedGaussian(clip_norm=0.5, noise_multiplier=2.0)
    (outcome,), model = await played(build, owners, privacy=privacy, aggregation=SecureAggregation(threshold=0.8), ledger=ledger)
    assert outcome.failure is not None
    assert outcome.epsilon == 0.0
    assert ledger.releases == ()
    assert not moved(model, build).any()


async def test_updates_that_are_seen_need_all_of_the_noise(build):
    with pytest.raises(SettingError, match="which sees single updates: each has only a part of the noise"):
        Federation(model=build, owners=[Fixed("a", 0.1)], privacy=DistributedGaussian(clip_norm=0.5, noise_multiplier=2.0))


async def test_noise_that_does_not_fit_the_aggregation(build):
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(3)]
    privacy = DistributedGaussian(clip_norm=1.0, noise_multiplier=2.0)
    with pytest.raises(SettingError, match=r"clip=8 of the aggregation: updates with the noise of 3 owners"):
        await played(build, owners, privacy=privacy, aggregation=SecureAggregation())


# Trees.


def test_the_noise_of_a_tree_is_that_of_the_binary_number():
    """What is added up to round t is the noise of as many nodes as t has bits, each with the variance of one."""
    size, rounds, z = 40_000, 13, 0.7
    noise = TreeNoise(TreeGaussian(clip_norm=1.0, noise_multiplier=z))
    total, totals = np.zeros(size), []
    for _ in range(rounds):
        (added,) = noise.noisy([np.zeros(size)], {})
        total = total + added
        totals.append(total)
    for t, one in enumerate(totals, 1):
        assert one.std() == pytest.approx(z * math.sqrt(t.bit_count()), rel=0.03)
    assert np.corrcoef(totals[7], totals[8])[0, 1] == pytest.approx(math.sqrt(1 / 2), abs=0.02)  # 8 is a node of 9 = 8 + 1
    assert abs(np.corrcoef(totals[6], totals[7])[0, 1]) < 0.03  # 7 = 4 + 2 + 1, and 8 is a node of its own


async def test_owners_take_turns_and_an_epoch_costs_its_depth(build):
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(12)]
    privacy = TreeGaussian(clip_norm=1.0, noise_multiplier=3.0)
    outcomes, _ = await played(build, owners, 9, privacy=privacy, fraction=0.25)
    for epoch in (outcomes[:4], outcomes[4:8]):
        assert sorted(name for outcome in epoch for name in outcome.sampled) == sorted(owner.name for owner in owners)

    def cost(*depths):
        accountant = Accountant()
        for depth in depths:
            accountant.record(dp_accounting.GaussianDpEvent(3.0 / math.sqrt(depth)))
        return accountant.epsilon(1e-5)

    assert [outcome.epsilon for outcome in outcomes[:5]] == [cost(1), cost(2), cost(2), cost(3), cost(3, 1)]
    assert outcomes[8].epsilon == cost(3, 3, 1)


async def test_trees_need_less_noise_than_chance_when_few_take_part(build):
    """The same epsilon after 16 rounds in which all owners take part once: less noise in the model than independent noise leaves."""
    tree = TreeGaussian(clip_norm=1.0, noise_multiplier=math.sqrt(5.0))
    local = Accountant()
    local.record(dp_accounting.GaussianDpEvent(1.0))
    private = PrivateRounds(tree, owners=64, fraction=1 / 16)
    assert private.epsilon(more=16) == pytest.approx(local.epsilon(1e-5), rel=1e-6)
    assert tree.noise_multiplier**2 * 1 < 16  # 16 rounds are one node; sixteen independent noises would have variance 16


async def test_a_tree_that_is_resumed_begins_an_epoch(build, tmp_path):
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(8)]
    settings = {"privacy": TreeGaussian(clip_norm=1.0, noise_multiplier=3.0), "fraction": 0.25, "folder": tmp_path}
    first, _ = await played(build, owners, 2, **settings)
    then, _ = await played(build, owners, 6, resume=True, **settings)
    assert sorted(name for outcome in then for name in outcome.sampled) == sorted(owner.name for owner in owners)
    accountant = Accountant()
    for depth in (2, 3):
        accountant.record(dp_accounting.GaussianDpEvent(3.0 / math.sqrt(depth)))
    assert first[-1].epsilon < then[-1].epsilon == accountant.epsilon(1e-5)


# The ledger.


async def test_a_ledger_is_told_of_each_round_and_stops_them(build, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=3.0, delta=1e-5)
    ledger.spend(dp_accounting.GaussianDpEvent(3.0), purpose="a census")
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(5)]
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=3.0)
    outcomes, _ = await played(build, owners, 50, privacy=privacy, ledger=ledger)
    assert 0 < len(outcomes) < 50
    assert [one.purpose for one in ledger.releases] == ["a census"] + ["a round with CentralGaussian"] * len(outcomes)
    assert outcomes[-1].epsilon < ledger.epsilon() <= 3.0
    assert not ledger.affords(dp_accounting.GaussianDpEvent(3.0))
    assert await played(build, owners, 5, privacy=LocalGaussian(clip_norm=1.0, noise_multiplier=3.0), ledger=ledger)
    assert ledger.epsilon() <= 3.0


async def test_a_budget_that_somebody_else_spends_meanwhile_ends_the_round(build, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=1.0, delta=1e-5)
    monkeypatch.setattr(PrivateRounds, "affordable", True)
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=0.5)
    (outcome,), model = await played(build, [Fixed("a", 0.1)], privacy=privacy, ledger=ledger)
    assert "would bring epsilon from 0 to" in outcome.failure
    assert outcome.epsilon == 0.0
    assert not moved(model, build).any()


async def test_a_ledger_pays_for_a_tree_as_a_whole(build, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=9.0, delta=1e-5)
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(8)]
    await played(build, owners, 5, privacy=TreeGaussian(clip_norm=1.0, noise_multiplier=3.0), fraction=0.25, ledger=ledger)
    assert ledger.events == ((dp_accounting.GaussianDpEvent(3.0 / math.sqrt(3)), 2),)


def test_a_ledger_without_privacy(build, tmp_path):
    ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=9.0, delta=1e-5)
    with pytest.raises(SettingError, match="give privacy="):
        Federation(model=build, owners=[Fixed("a", 0.1)], ledger=ledger)


# Real owners.


@pytest.mark.parametrize(
    "privacy",
    [
        CentralGaussian(clip_norm=1.0, noise_multiplier=0.3, clipping=AdaptiveClipping(count_noise=2.0)),
        DistributedGaussian(clip_norm=1.0, noise_multiplier=0.3),
        TreeGaussian(clip_norm=1.0, noise_multiplier=0.3),
    ],
    ids=lambda privacy: type(privacy).__name__,
)
@pytest.mark.sample(1)
async def test_models_learn_with_each_of_them(build, examples, privacy):
    owners = simulated_owners(partition(*examples, owners=12))
    federation = Federation(
        model=build,
        owners=owners,
        strategy=FedAvg(fraction=0.5, local_epochs=3, batch_size=8),
        aggregation=SecureAggregation(threshold=0.5),
        privacy=privacy,
        evaluation=examples,
    )
    async with federation:
        outcomes = [outcome async for outcome in federation.rounds(8)]
    accuracies = [outcome.metrics["test_accuracy"] for outcome in outcomes if outcome.failure is None]
    assert len(accuracies) >= 5
    assert accuracies[-1] > 0.6

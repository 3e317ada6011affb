"""Differentially private rounds: clipping, noise, sampling, what they cost, and a budget that a crash does not give away."""

import dp_accounting
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated import CentralGaussian, FedAvg, FedBuff, Federation, Krum, LocalGaussian, SecureAggregation, SettingError, Update
from federated.private.private_rounds import PrivateRounds
from federated.tasks.bounding import bounded, exceeds, norm
from federated.tasks.update import Bound
from privacy import GaussianNoise
from privacy import SettingError as PrivacySettingError


class Fixed:
    """An owner that sends a fixed update, bounded as told; or as it likes."""

    def __init__(self, name, value, *, honest=True):
        from federated import OwnMasker

        self.name, self.value, self.honest = name, value, honest
        self._masker = OwnMasker(self.train)

    async def train(self, task):
        update = Update(task.round, [np.full_like(w, self.value) for w in task.weights], 7, {"loss": 1.0})
        return bounded(update, task.training.bound, GaussianNoise()) if self.honest else update

    async def evaluate(self, task):
        raise AssertionError("evaluation would be released without noise")

    async def masker(self):
        return self._masker


async def played(build, owners, rounds=1, *, privacy, fraction=1.0, **settings):
    federation = Federation(model=build, owners=owners, strategy=FedAvg(fraction=fraction), privacy=privacy, **settings)
    async with federation:
        return [outcome async for outcome in federation.rounds(rounds)], federation.model


def moved(model, build):
    return np.concatenate([(a - b).ravel() for a, b in zip(model.get_weights(), build().get_weights(), strict=True)])


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), st.floats(0.01, 10))
def test_clipping_is_over_all_arrays_and_each_counts_once(values, clip):
    delta = [np.array(values[:3], np.float32), np.array(values[3:], np.float32)]
    found = bounded(Update(1, delta, 9, {"loss": 1.0}), Bound(clip), GaussianNoise())
    length = float(np.linalg.norm(np.array(values)))
    for a, b in zip(found.delta, delta, strict=True):
        np.testing.assert_allclose(a, b * min(1, clip / length) if length else b, rtol=1e-5, atol=1e-30)
    assert (found.examples, found.metrics) == (1, {})
    assert norm(found.delta) <= clip * (1 + 1e-6)
    assert not exceeds(found, Bound(clip))


@pytest.mark.parametrize("aggregation", [None, SecureAggregation(threshold=0.5)])
async def test_the_sum_of_clipped_updates_over_the_expected_number(build, aggregation, monkeypatch):
    """Fifteen weights; two of four owners are clipped to norm 1; hardly any noise, whose epsilon is astronomical."""
    monkeypatch.setattr(PrivateRounds, "epsilon", lambda self, more=0: 0.0)
    owners = [Fixed(f"owner-{i}", value) for i, value in enumerate((0.01, 0.02, 5.0, -70.0))]
    (outcome,), model = await played(build, owners, privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1e-5), aggregation=aggregation)
    np.testing.assert_allclose(moved(model, build), (0.01 + 0.02 + 15**-0.5 - 15**-0.5) / 4, atol=1e-4)
    assert outcome.metrics == {}


async def test_the_noise_has_the_stated_size(build):
    import keras

    def large():
        return build([keras.layers.Dense(5000)])

    owners = [Fixed(f"owner-{i}", 0.0) for i in range(4)]
    _, model = await played(large, owners, privacy=CentralGaussian(clip_norm=0.5, noise_multiplier=2.0))
    noise = moved(model, large)
    assert abs(noise.std() / (2.0 * 0.5 / 4) - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * 0.25 / np.sqrt(noise.size)
    _, model = await played(large, owners, privacy=LocalGaussian(clip_norm=0.5, noise_multiplier=2.0))
    assert abs(moved(model, large).std() / (2.0 * 0.5 / 2) - 1) < 5 / np.sqrt(2 * noise.size)


async def test_epsilon_is_that_of_the_accountant_and_the_budget_ends_the_run(build):
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.5, max_epsilon=3.0)
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(20)]
    outcomes, _ = await played(build, owners, 100, privacy=privacy, fraction=0.5)
    event = dp_accounting.PoissonSampledDpEvent(0.5, dp_accounting.GaussianDpEvent(1.5))

    def spent(rounds):
        accountant = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
        return accountant.compose(event, rounds).get_epsilon(1e-5)

    for n, outcome in enumerate(outcomes, 1):
        assert outcome.epsilon == pytest.approx(spent(n), rel=1e-9)
    assert outcomes[-1].epsilon <= 3.0 < spent(len(outcomes) + 1)
    assert f"epsilon {outcomes[0].epsilon:.2f}" in str(outcomes[0])


def test_owners_are_sampled_each_by_itself():
    private = PrivateRounds(CentralGaussian(clip_norm=1.0, noise_multiplier=1.0), owners=50, fraction=0.3)
    names = [str(i) for i in range(50)]
    sizes = [len(private.sample(names)) for _ in range(2000)]
    assert abs(np.mean(sizes) - 15) < 5 * np.sqrt(50 * 0.21 / 2000)
    assert abs(np.var(sizes) - 10.5) < 2.5


async def test_nobody_sampled_releases_the_noise_alone(build, monkeypatch):
    monkeypatch.setattr(PrivateRounds, "sample", lambda self, names: [])
    (outcome,), model = await played(build, [Fixed("a", 1.0)], privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1.0), fraction=0.1)
    assert outcome.failure is None
    assert outcome.epsilon > 0
    assert np.abs(moved(model, build)).max() > 0.1


async def test_an_owner_that_does_not_bound_its_update_is_rejected(build, monkeypatch):
    monkeypatch.setattr(PrivateRounds, "epsilon", lambda self, more=0: 0.0)
    owners = [Fixed("a", 0.1), Fixed("b", 0.1), Fixed("greedy", 50.0, honest=False)]
    (outcome,), model = await played(build, owners, privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1e-5))
    assert "longer than the clip norm" in outcome.rejected["greedy"]
    np.testing.assert_allclose(moved(model, build), 0.2 / 3, atol=1e-4)


async def test_a_crash_between_the_record_and_the_release_counts(build, tmp_path, monkeypatch):
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(3)]
    settings = {"privacy": privacy, "folder": tmp_path, "resume": True}
    (first,), _ = await played(build, owners, **settings)
    with monkeypatch.context() as patch:

        def crash(*_):
            raise RuntimeError("killed")

        patch.setattr(PrivateRounds, "released", crash)
        with pytest.raises(RuntimeError, match="killed"):
            await played(build, owners, 2, **settings)
    (second,), _ = await played(build, owners, 2, **settings)
    assert second.round == 2
    three = PrivateRounds(privacy, owners=3, fraction=1.0)
    three.spent = [3]
    assert first.epsilon < second.epsilon == three.epsilon()


@pytest.mark.parametrize("strategy", [Krum(f=0), FedBuff(buffer=1)])
def test_strategies_without_a_sum_over_sampled_owners(build, strategy):
    owners = [Fixed(f"owner-{i}", 0.1) for i in range(5)]
    with pytest.raises(SettingError, match="makes no such sum"):
        Federation(model=build, owners=owners, strategy=strategy, privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1.0))


@pytest.mark.parametrize(
    "settings", [{"clip_norm": 0.0}, {"noise_multiplier": 0.0}, {"noise_multiplier": -1.0}, {"max_epsilon": 0.0}, {"delta": 1.0}]
)
@pytest.mark.parametrize("kind", [CentralGaussian, LocalGaussian])
def test_settings_that_make_no_sense(kind, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(PrivacySettingError, match=f"{name}={value}: it has to be"):
        kind(**{"clip_norm": 1.0, "noise_multiplier": 1.0} | settings)

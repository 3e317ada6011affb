"""What each mechanism promises, and about whom: how far a neighbour moves what is released, which weights get noise, what is refused."""

import math
import threading

import dp_accounting
import numpy as np
import pytest

from federated import (
    DPSGD,
    CentralGaussian,
    DistributedGaussian,
    FedAvg,
    Federation,
    LocalGaussian,
    SecureAggregation,
    SettingError,
    TreeGaussian,
    simulated_owners,
)
from federated.aggregation.aggregation import Aggregate, Limits
from federated.private.noising import OwnersNoise
from federated.private.private_rounds import PrivateRounds
from federated.tasks.bounding import bounded, norm
from federated.tasks.update import LocalTraining, Update
from privacy import Accountant, AdaptiveClipping, GaussianNoise, Ledger

S = 0.7
SHAPES = [(5, 4), (4,)]


@pytest.fixture
def silent(monkeypatch):
    """Noise that is none, so that what it hides can be seen."""
    monkeypatch.setattr(GaussianNoise, "discrete", lambda self, shape, sigma: np.zeros(shape, np.int64))


def released(settings, deltas, *, owners, fraction=1.0):
    """The sum over these updates as it is released, times the expected number of owners."""
    rounds = PrivateRounds(settings, owners=owners, fraction=fraction)
    weights = [np.zeros(shape, np.float32) for shape in SHAPES]
    told = rounds.training(LocalTraining(), weights, least=max(3, len(deltas)), limits=Limits(3, 2.0**-40, 1e6))
    updates = [bounded(Update(1, delta, 9, {}), told.bound, GaussianNoise()) for delta in deltas]
    mean = [sum(one.delta[i].astype(np.float64) for one in updates) / len(updates) for i in range(len(SHAPES))]
    metrics = {name: sum(one.metrics[name] for one in updates) / len(updates) for name in updates[0].metrics}
    aggregate = rounds.released(Aggregate(mean, metrics, len(updates), ()), weights)
    return [array * (1.0 if isinstance(settings, LocalGaussian) else fraction * owners) for array in aggregate.delta]


def deltas(count, seed=0, scale=5.0):
    random = np.random.default_rng(seed)
    return [[(scale * random.normal(size=shape)).astype(np.float32) for shape in SHAPES] for _ in range(count)]


@pytest.mark.parametrize("kind", [CentralGaussian, DistributedGaussian, TreeGaussian])
@pytest.mark.parametrize("scale", [0.01, 5.0, 1e6])
def test_an_owner_whose_update_is_zero_instead_moves_a_sum_by_at_most_the_clip_norm(silent, kind, scale):
    settings, some = kind(clip_norm=S, noise_multiplier=1.0), deltas(8, scale=scale)
    zeros = [np.zeros_like(array) for array in some[3]]
    before = released(settings, some, owners=8)
    after = released(settings, [*some[:3], zeros, *some[4:]], owners=8)
    assert norm([a - b for a, b in zip(before, after, strict=True)]) <= S * (1 + 1e-5)


def test_another_data_set_of_one_owner_moves_its_update_by_at_most_twice_the_clip_norm(silent):
    settings = LocalGaussian(clip_norm=S, noise_multiplier=1.0)
    (one,) = deltas(1)
    apart = [a - b for a, b in zip(released(settings, [one], owners=1), released(settings, [[-d for d in one]], owners=1), strict=True)]
    assert 1.99 * S < norm(apart) <= 2 * S * (1 + 1e-5)


@pytest.mark.parametrize("z", [1.0, 2.0, 4.0])
def test_the_local_model_claims_no_less_than_an_attack_shows(z):
    """Of 400,000 updates it is guessed by a threshold whether they are those of u or of -u; with 99.9 % confidence, at delta 1e-5."""
    from scipy.stats import beta

    size, delta, settings = 400_000, 1e-5, LocalGaussian(clip_norm=1.0, noise_multiplier=z, delta=1e-5)
    rounds = PrivateRounds(settings, owners=100, fraction=1.0)
    rounds.charge()
    bound = OwnersNoise(settings).bound(1, 3, 0.0)
    sigma, noise = math.ceil(bound.stddev / bound.step), GaussianNoise()
    ours, others = ((np.rint(sign / bound.step) + noise.discrete(size, sigma)) * bound.step for sign in (1.0, -1.0))
    shown = 0.0
    for threshold in np.linspace(0, 3 * z, 25):
        right, wrong = (ours > threshold).sum(), (others > threshold).sum()
        least = beta.ppf(0.0005, right, size - right + 1) - delta
        shown = max(shown, math.log(max(least, 1e-12) / beta.ppf(0.9995, wrong + 1, size - wrong)))
    half = Accountant()
    half.record(dp_accounting.GaussianDpEvent(z))
    assert shown <= rounds.epsilon()
    assert shown > half.epsilon(delta)  # which the noise multiplier z alone would claim


def test_turns_move_nobody_else_when_an_owner_is_zero():
    """The names and their number are public: who takes part in which round of a tree depends on nothing else."""
    names = [f"owner-{i}" for i in range(100)]

    def turns():
        rounds = PrivateRounds(TreeGaussian(clip_norm=1.0, noise_multiplier=1.0), owners=len(names), fraction=0.1, seed=4)
        return [rounds.sample(names) for _ in range(10)]

    first = turns()
    assert first == turns()
    assert sorted(name for round_ in first for name in round_) == sorted(names)  # each in one leaf of an epoch


@pytest.mark.parametrize(("clip", "z", "owners", "refused"), [(1e-4, 0.1, 150, True), (1e-6, 1.0, 3, True), (1.0, 1.0, 150, False)])
def test_a_sum_that_would_not_be_gaussian_is_refused(clip, z, owners, refused):
    """With the resolution that aggregations have: tau of each accepted sigma is below 2^-1000."""
    noise, resolution = OwnersNoise(DistributedGaussian(clip_norm=clip, noise_multiplier=z)), 2.0**-13
    if refused:
        with pytest.raises(SettingError, match=r"standard deviation of .* steps .* raise noise_multiplier or clip_norm"):
            noise.bound(100, owners, resolution)
        return
    bound = noise.bound(100, owners, resolution)
    sigma = math.ceil(bound.stddev / bound.step)
    largest = max(-2 * math.pi**2 * sigma**2 * k / (k + 1) for k in range(1, owners))
    assert math.log2(10 * owners) + largest / math.log(2) < -1000


# Which weights get noise.

MECHANISMS = [
    CentralGaussian(clip_norm=1.0, noise_multiplier=1.0),
    CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, clipping=AdaptiveClipping(count_noise=2.0)),
    TreeGaussian(clip_norm=1.0, noise_multiplier=1.0),
    LocalGaussian(clip_norm=1.0, noise_multiplier=1.0),
    DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0),
    DPSGD(max_grad_norm=1.0, noise_multiplier=1.0, sampling_rate=0.25),
]


def aggregation(privacy):
    return SecureAggregation(clip=64.0) if isinstance(privacy, DistributedGaussian) else None


def name(privacy):
    return f"{type(privacy).__name__}{'' if getattr(privacy, 'clipping', None) is None else ' adaptive'}"


@pytest.mark.parametrize("privacy", MECHANISMS, ids=name)
@pytest.mark.parametrize("strategy", [FedAvg(batch_size=16)], ids=["fedavg"])
@pytest.mark.sample(2)
async def test_frozen_weights_stay_as_they_are_bit_for_bit(build, privacy, strategy):
    import keras

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), rng.integers(0, 2, 40)

    def frozen():
        return build([keras.layers.Dense(256, activation="relu", trainable=False), keras.layers.Dense(2)])

    federation = Federation(
        model=frozen, owners=simulated_owners([(x, y)] * 8), strategy=strategy, privacy=privacy, aggregation=aggregation(privacy)
    )
    async with federation:
        before = federation.model.get_weights()
        outcomes = [outcome async for outcome in federation.rounds(2)]
        after = federation.model.get_weights()
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert all((a == b).all() for a, b in zip(before[:2], after[:2], strict=True))
    assert all((a != b).any() for a, b in zip(before[2:], after[2:], strict=True))


def test_what_is_not_trained_counts_in_no_norm_and_tells_nothing():
    """Not even if it was moved: it comes out as zeros, and the others keep all of the clip norm; the aggregator does not rely on it."""
    update = Update(1, [np.full((1000,), 9.0, np.float32), np.full((4,), 0.1, np.float32)], 5, {})
    found = bounded(update, PrivateRounds(CentralGaussian(clip_norm=1.0, noise_multiplier=1.0), owners=3, fraction=1.0).training(
        LocalTraining(), update.delta, least=3, limits=Limits(3, 0.0, 8.0), trained=[False, True]
    ).bound, GaussianNoise(), [False, True])  # fmt: skip
    assert not found.delta[0].any()
    np.testing.assert_allclose(found.delta[1], 0.1)
    for settings in (CentralGaussian(clip_norm=1.0, noise_multiplier=1.0), LocalGaussian(clip_norm=1.0, noise_multiplier=1.0)):
        rounds = PrivateRounds(settings, owners=3, fraction=1.0)
        out = rounds.released(Aggregate([array.astype(float) for array in update.delta], {}, 3, ()), update.delta, [False, True])
        assert not out.delta[0].any()
        assert out.delta[1].all()


def test_frozen_weights_have_no_share_of_the_noise_of_owners():
    """The rounding that noise pays for is that of the weights that are trained."""
    settings = DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0)
    weights = [np.zeros(10**6, np.float32), np.zeros(10, np.float32)]
    rounds = PrivateRounds(settings, owners=9, fraction=1.0)
    limits = Limits(3, 2.0**-10, 64.0)
    some = rounds.training(LocalTraining(), weights, least=3, limits=limits, trained=[False, True]).bound
    everything = rounds.training(LocalTraining(), weights, least=3, limits=limits).bound
    assert some.stddev == pytest.approx(1.0 / math.sqrt(3), rel=0.01)
    assert everything.stddev > 1.5 * some.stddev


@pytest.mark.parametrize("privacy", MECHANISMS, ids=name)
@pytest.mark.parametrize("kind", ["statistics", "inside", "counter"])
@pytest.mark.sample(9)
async def test_weights_that_change_without_being_trained_are_refused_by_name(build, privacy, kind):
    import keras

    @keras.saving.register_keras_serializable(package="neighbours")
    class Counter(keras.layers.Layer):
        def build(self, shape):
            self.seen = self.add_weight(shape=(), trainable=False, name="seen")

        def call(self, x):
            self.seen.assign_add(1.0)
            return x

    layer = {
        "statistics": lambda: keras.layers.BatchNormalization(name="bn"),
        "inside": lambda: keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization(name="bn")]),
        "counter": lambda: Counter(name="bn"),
    }[kind]

    def model():
        return build([keras.layers.Dense(4), layer(), keras.layers.Dense(2)])

    x, y = np.zeros((8, 4), np.float32), np.zeros(8, int)
    federation = Federation(model=model, owners=simulated_owners([(x, y)] * 4), privacy=privacy, aggregation=aggregation(privacy))
    with pytest.raises(SettingError, match=rf"(?s){type(privacy).__name__} cannot train this model.*bn \("):
        async with federation:
            pass


async def test_statistics_that_are_frozen_are_no_obstacle(build, examples):
    import keras

    def model():
        return build([keras.layers.Dense(4), keras.layers.BatchNormalization(trainable=False), keras.layers.Dense(3)])

    federation = Federation(
        model=model, owners=simulated_owners([examples] * 3), privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)
    )
    async with federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
        assert outcome.failure is None
        variances = [w.numpy() for w in federation.model.weights if "variance" in w.path]
    assert len(variances) == 1
    assert (variances[0] == 1.0).all()


# Accounting beside the event loop.


@pytest.mark.parametrize("privacy", MECHANISMS, ids=name)
@pytest.mark.sample(1)
async def test_epsilon_is_never_computed_on_the_event_loop(build, examples, privacy, tmp_path, monkeypatch):
    """Not for the outcome, the budget, the choice of owners, or the ledger."""
    from dp_accounting import pld, rdp

    loop, threads = threading.get_ident(), []

    def watched(accountant):
        right = accountant.get_epsilon

        def get_epsilon(self, target_delta):
            threads.append(threading.get_ident())
            return right(self, target_delta)

        monkeypatch.setattr(accountant, "get_epsilon", get_epsilon)

    watched(pld.PLDAccountant)
    watched(rdp.RdpAccountant)
    ledger = None
    if not isinstance(privacy, DPSGD):
        ledger = Ledger(tmp_path / "ledger", data="owners", unit="owner", max_epsilon=1e6, delta=1e-5)
    limited = {**vars(privacy), "max_epsilon": 1e5}
    federation = Federation(
        model=build,
        owners=simulated_owners([examples] * 4),
        privacy=type(privacy)(**limited),
        aggregation=aggregation(privacy),
        ledger=ledger,
    )
    async with federation:
        assert len([outcome async for outcome in federation.rounds(2)]) == 2
        await federation.run(rounds=1)
    assert threads
    assert loop not in threads

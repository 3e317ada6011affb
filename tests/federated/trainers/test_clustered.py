"""IFCA beside the same in numpy, from the paper's algorithm: two kinds of owners, whose models are apart after a few rounds."""

import keras
import numpy as np
import pytest

from federated import IFCA, CentralGaussian, Federation, SecureAggregation, SettingError, simulated_owners

RNG = np.random.default_rng(5)
TRUTHS = [np.array([2.0, -1.0, 1.0]), np.array([-2.0, 1.5, 0.5]), np.array([2.0, -1.0, 1.0]), np.array([-2.0, 1.5, 0.5])]
PARTS = [
    (x.astype(np.float32), (x @ truth)[:, None].astype(np.float32))
    for x, truth in zip([RNG.normal(size=(n, 3)) for n in (12, 9, 7, 20)], TRUTHS, strict=True)
]
RATE, EPOCHS = 0.05, 3
OTHER = [np.array([[-0.1], [0.3], [0.0]]), np.array([0.2])]


def build(layers=()):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def loss(part, w):
    return float(np.mean((part[0] @ w[0] + w[1] - part[1]) ** 2))


def descended(part, w):
    x, y = (one.astype(np.float64) for one in part)
    for _ in range(EPOCHS):
        error = x @ w[0] + w[1] - y
        w = [w[0] - RATE * 2 * x.T @ error / len(y), w[1] - RATE * 2 * error.mean(axis=0)]
    return w


def ifca(rounds, models):
    chosen = []
    for _ in range(rounds):
        chosen = [int(np.argmin([loss(part, model) for model in models])) for part in PARTS]
        groups = [[i for i, one in enumerate(chosen) if one == j] for j in range(len(models))]
        after = [[(len(PARTS[i][1]), descended(PARTS[i], models[j])) for i in group] for j, group in enumerate(groups)]
        models = [
            [sum(n * w[k] for n, w in found) / sum(n for n, _ in found) for k in range(2)] if found else models[j]
            for j, found in enumerate(after)
        ]
    return models, chosen


def federation(strategy, **settings):
    return Federation(**{"model": build, "owners": simulated_owners(PARTS), "strategy": strategy, "progress": False} | settings)


def strategy(**settings):
    return IFCA(**{"starts": (OTHER,), "local_epochs": EPOCHS, "batch_size": None} | settings)


def close(found, expected, atol=2e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize(
    ("aggregation", "atol"),
    [(None, 2e-5), pytest.param(SecureAggregation(clip=1e4), 2e-3, marks=pytest.mark.long)],
    ids=["sight", "secure"],
)
async def test_as_the_paper_says(aggregation, atol):
    start = [np.array(one, np.float64) for one in build().get_weights()]
    (first, second), chosen = ifca(5, [start, OTHER])
    assert set(chosen) == {0, 1}
    assert chosen[0] == chosen[2] != chosen[1] == chosen[3]  # by what owners are
    settings = {} if aggregation is None else {"aggregation": aggregation}
    async with federation(strategy(), owners=simulated_owners(PARTS, evaluation=PARTS), **settings) as run:
        outcomes = [one async for one in run.rounds(5)]
        assert [one.failure for one in outcomes] == [None] * 5
        close(run.weights, first, atol)
        close(run.state["cluster1"], second, atol)
    if aggregation is None:  # what is evaluated is the model after the step, and that of the owner's kind
        models = [first, second]
        expected = sum(len(p[1]) * loss(p, models[j]) for p, j in zip(PARTS, chosen, strict=True)) / sum(len(p[1]) for p in PARTS)
        assert outcomes[-1].metrics["val_loss"] == pytest.approx(expected, rel=1e-3)


async def test_a_model_that_nobody_chooses_stays():
    far = [np.full((3, 1), 100.0), np.full(1, 100.0)]
    async with federation(strategy(starts=(far, OTHER), clusters=3)) as run:
        _ = [one async for one in run.rounds(2)]
        close(run.state["cluster1"], far, 0)
        assert not np.allclose(run.state["cluster2"][0], OTHER[0])


async def test_starts_are_other_draws_of_the_same_numbers():
    async with federation(IFCA(clusters=3, seed=4)) as run:
        kernel = run.weights[0]
        others = [run.state[f"cluster{j}"][0] for j in (1, 2)]
    for other in others:
        np.testing.assert_array_equal(np.sort(other.ravel()), np.sort(kernel.ravel()))


@pytest.mark.long
async def test_a_run_that_is_resumed_is_the_uninterrupted_one(tmp_path):
    async with federation(strategy()) as run:
        _ = [one async for one in run.rounds(4)]
        whole = [*run.weights, *run.state["cluster1"]]
    async with federation(strategy(), owners=simulated_owners(PARTS, memory=tmp_path / "memory"), folder=tmp_path / "run") as run:
        _ = [one async for one in run.rounds(2)]
    owners = simulated_owners(PARTS, memory=tmp_path / "memory")
    async with federation(strategy(), owners=owners, folder=tmp_path / "run", resume=True) as run:
        assert len([one async for one in run.rounds(4)]) == 2
        for one, other in zip([*run.weights, *run.state["cluster1"]], whole, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("settings", [{"clusters": 1}, {"clusters": 2.0}, {"clusters": 3}], ids=str)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(SettingError, match=r"clusters=|starts has"):
        strategy(**settings)


async def test_starts_of_other_shapes_and_privacy_for_owners_are_refused():
    with pytest.raises(SettingError, match=r"starts\[0\] has arrays of shapes"):
        async with federation(strategy(starts=([OTHER[1], OTHER[0]],))):
            pass
    with pytest.raises(SettingError, match="IFCA"):
        async with federation(strategy(), privacy=CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=4.0, delta=1e-5)):
            pass


async def test_statistics_of_batch_normalization_are_held_back_by_name():
    async with federation(strategy(starts=()), model=lambda: build([keras.layers.BatchNormalization()])) as run:
        (outcome,) = [one async for one in run.rounds(1)]
    assert all("BatchNormalization" in why for why in (outcome.dropped | outcome.rejected).values())
    assert outcome.failure

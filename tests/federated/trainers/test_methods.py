"""Strategies whose owners do more than fit: with Keras, each beside the same in numpy, from the papers' algorithms."""

import itertools

import keras
import numpy as np
import pytest

from federated import (
    SCAFFOLD,
    Bulyan,
    CentralGaussian,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    Federation,
    FedNova,
    PersonalLayers,
    QFedAvg,
    SecureAggregation,
    SettingError,
    SharedAggregation,
    simulated_owners,
)
from federated.strategies.updates import OwnerUpdate, Updates

RNG = np.random.default_rng(11)
SIZES = (6, 10, 8, 4)
PARTS = [
    (x.astype(np.float32), (x @ np.array([1.0, -2.0, 0.5]) * (1 + i) + i)[:, None].astype(np.float32))
    for i, x in enumerate(RNG.normal(size=(n, 3)) for n in SIZES)
]
RATE, EPOCHS = 0.05, 3


def build(optimizer=None, layers=()):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(1, name="head")])
    model.compile(keras.optimizers.SGD(RATE) if optimizer is None else optimizer, "mse")
    return model


START = [np.array(one, np.float64) for one in build().get_weights()]


def gradient(part, w):
    x, y = (one.astype(np.float64) for one in part)
    error = x @ w[0] + w[1] - y
    return [2 * x.T @ error / len(y), 2 * error.mean(axis=0)]


def loss(part, w):
    return float(np.mean((part[0] @ w[0] + w[1] - part[1]) ** 2))


def descended(part, w, steps=EPOCHS, more=lambda w: [0.0, 0.0], momentum=0.0):
    speed = [0.0, 0.0]
    for _ in range(steps):
        speed = [momentum * v - RATE * (g + m) for v, g, m in zip(speed, gradient(part, w), more(w), strict=True)]
        w = [a + v for a, v in zip(w, speed, strict=True)]
    return w


def minus(left, right):
    return [a - b for a, b in zip(left, right, strict=True)]


def plus(left, right, factor=1.0):
    return [a + factor * b for a, b in zip(left, right, strict=True)]


def mean(rows, counts=None):
    counts = counts or [1] * len(rows)
    return [sum(n * row[k] for n, row in zip(counts, rows, strict=True)) / sum(counts) for k in range(len(rows[0]))]


def scaffold(rounds):
    x, c, own = START, [0.0, 0.0], [[np.zeros_like(one) for one in START] for _ in PARTS]
    for _ in range(rounds):
        deltas, added = [], []
        for i, part in enumerate(PARTS):
            y = descended(part, x, more=lambda _, i=i, c=c: minus(c, own[i]))
            new = plus(minus(own[i], c), minus(x, y), 1 / (EPOCHS * RATE))
            deltas.append(minus(y, x))
            added.append(minus(new, own[i]))
            own[i] = new
        x, c = plus(x, mean(deltas)), plus(c, mean(added))
    return x


def feddyn(rounds, alpha=0.1):
    x, h, own = START, [0.0, 0.0], [[np.zeros_like(one) for one in START] for _ in PARTS]
    for _ in range(rounds):
        found = []
        for i, part in enumerate(PARTS):
            y = descended(part, x, more=lambda w, i=i, x=x: minus(plus([0.0, 0.0], minus(w, x), alpha), own[i]))
            own[i] = plus(own[i], minus(y, x), -alpha)
            found.append(y)
        h = plus(h, minus(mean(found), x), -alpha)
        x = plus(mean(found), h, -1 / alpha)
    return x


def steps_of(i, batch):
    return -(-SIZES[i] // batch) * EPOCHS


def fednova(rounds, momentum=0.0):
    """All examples in one step; owners differ in nothing but n_i. See the test of batches for steps that differ."""
    x = START
    length = sum((1 - momentum**j) / (1 - momentum) for j in range(1, EPOCHS + 1))
    for _ in range(rounds):
        directions = [[d / length for d in minus(descended(part, x, momentum=momentum), x)] for part in PARTS]
        x = plus(x, mean(directions, SIZES), length)
    return x


def qfedavg(rounds, q=0.5):
    x = START
    for _ in range(rounds):
        tops, bottoms = [], []
        for part in PARTS:
            d, f = [one / RATE for one in minus(x, descended(part, x))], loss(part, x)
            tops.append([f**q * one for one in d])
            bottoms.append(q * f ** (q - 1) * sum(np.sum(one**2) for one in d) + f**q / RATE)
        x = plus(x, [sum(one[k] for one in tops) / sum(bottoms) for k in range(2)], -1.0)
    return x


CASES = {
    "SCAFFOLD": (SCAFFOLD, {}, scaffold),
    "FedDyn": (FedDyn, {"alpha": 0.1}, feddyn),
    "FedNova": (FedNova, {}, fednova),
    "QFedAvg": (QFedAvg, {"q": 0.5}, qfedavg),
}


def federation(strategy, *, model=build, owners=None, **settings):
    owners = simulated_owners(PARTS) if owners is None else owners
    return Federation(**{"model": model, "owners": owners, "strategy": strategy, "progress": False} | settings)


async def played(rounds, strategy, **settings):
    async with federation(strategy, **settings) as run:
        outcomes = [outcome async for outcome in run.rounds(rounds)]
        assert [outcome.failure for outcome in outcomes] == [None] * rounds
        assert not any(outcome.rejected for outcome in outcomes)
        return run.weights, outcomes


def close(found, expected, atol=2e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


@pytest.mark.parametrize("hidden", [False, True], ids=["in sight", "hidden"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.sample(4)
async def test_each_as_its_paper_says(name, hidden):
    kind, settings, reference = CASES[name]
    strategy = kind(local_epochs=EPOCHS, batch_size=None, **settings)
    more = {"aggregation": SecureAggregation(clip=1e5)} if hidden else {}
    found, outcomes = await played(4, strategy, **more)
    close(found, reference(4), atol=2e-3 if hidden else 2e-5)
    plain, _ = await played(4, FedAvg(local_epochs=EPOCHS, batch_size=None))
    assert name == "FedNova" or max(np.abs(a - b).max() for a, b in zip(found, plain, strict=True)) > 5e-3  # with equal steps it is FedAvg
    assert all(np.isfinite(outcome.metrics["loss"]) for outcome in outcomes)


async def test_fednova_where_owners_make_other_numbers_of_steps():
    """With one local epoch of whole batches, owner i makes n_i / 2 steps; the reference takes what single owners do from FedAvg."""
    batch = {"local_epochs": 1, "batch_size": 2}
    alone = []
    for i in range(len(PARTS)):
        names = [f"owner-{k}" for k in range(len(PARTS)) if k != i]
        found, _ = await played(1, FedAvg(**batch), owners=simulated_owners(PARTS, dropouts={1: names}), quorum=0.2)
        alone.append(minus(found, START))
    lengths = [n / 2 for n in SIZES]
    far = sum(n * tau for n, tau in zip(SIZES, lengths, strict=True)) / sum(SIZES)
    directions = [[d / tau for d in delta] for delta, tau in zip(alone, lengths, strict=True)]
    found, _ = await played(1, FedNova(**batch))
    close(found, plus(START, mean(directions, SIZES), far))
    plain, _ = await played(1, FedAvg(**batch))
    assert max(np.abs(a - b).max() for a, b in zip(found, plain, strict=True)) > 1e-3


async def test_fednova_with_momentum():
    model = lambda: build(keras.optimizers.SGD(RATE, momentum=0.8))  # noqa: E731
    found, _ = await played(3, FedNova(local_epochs=EPOCHS, batch_size=None), model=model)
    close(found, fednova(3, momentum=0.8))


async def test_scaffold_counts_owners_that_were_not_asked():
    """Half of the owners: c moves by half of the mean."""
    async with federation(SCAFFOLD(local_epochs=1, batch_size=None, fraction=0.5), seed=3) as run:
        _ = [one async for one in run.rounds(1)]
        state = run._opened().checkpoint((), (), stopped=False).state["control"]
    candidates = [mean([gradient(PARTS[i], START) for i in pair]) for pair in itertools.combinations(range(4), 2)]
    assert any(all(np.allclose(a, b / 2, atol=1e-4) for a, b in zip(state, one, strict=True)) for one in candidates)


@pytest.mark.parametrize("kind", [SCAFFOLD, FedDyn])
async def test_a_run_that_is_resumed_goes_on_with_what_owners_remember(kind, tmp_path):
    def owners():
        return simulated_owners(PARTS, memory=tmp_path / "memory")

    strategy = kind(local_epochs=EPOCHS, batch_size=None)
    whole, _ = await played(4, strategy)
    await played(2, strategy, owners=owners(), folder=tmp_path / "run")
    async with federation(strategy, owners=owners(), folder=tmp_path / "run", resume=True) as run:
        assert len([one async for one in run.rounds(4)]) == 2
        for one, other in zip(run.weights, whole, strict=True):
            np.testing.assert_array_equal(one, other)


# Personal models.


async def test_ditto_trains_a_model_of_each_owners_own_and_evaluates_that():
    settings = {"local_epochs": EPOCHS, "batch_size": None}
    found, outcomes = await played(3, Ditto(near=0.7, **settings), owners=simulated_owners(PARTS, evaluation=PARTS))
    plain, _ = await played(3, FedAvg(**settings))
    close(found, plain, atol=0)
    x, own = START, [START] * 4
    for _ in range(3):
        own = [
            descended(part, v, more=lambda w, x=x: [0.7 * (a - b) for a, b in zip(w, x, strict=True)])
            for part, v in zip(PARTS, own, strict=True)
        ]
        x = mean([descended(part, x) for part in PARTS], SIZES)
    close(found, x)
    expected = sum(n * loss(part, v) for n, part, v in zip(SIZES, PARTS, own, strict=True)) / sum(SIZES)
    assert outcomes[-1].metrics["val_loss"] == pytest.approx(expected, rel=1e-4)


async def test_personal_layers_stay_at_their_owners():
    def model():
        keras.utils.set_random_seed(1)
        return build(keras.optimizers.SGD(0.005), layers=[keras.layers.Dense(2, name="base")])

    async with federation(
        PersonalLayers(layers=("head",), local_epochs=EPOCHS, batch_size=None),
        model=model,
        owners=simulated_owners(PARTS, evaluation=PARTS),
    ) as run:
        start = model().get_weights()
        outcomes = [one async for one in run.rounds(3)]
        after = run.weights
    moves = [not np.array_equal(a, b) for a, b in zip(after, start, strict=True)]
    assert moves == [True, True, False, False]
    heads, base, errors = [start[2:]] * 4, start[:2], []
    for _ in range(3):
        trained = []
        for i, part in enumerate(PARTS):
            one = model()
            one.set_weights([*base, *heads[i]])
            one.fit(*part, batch_size=len(part[1]), epochs=EPOCHS, verbose=0, shuffle=False)
            trained.append(one.get_weights()[:2])
            heads[i] = one.get_weights()[2:]
        base = mean(trained, SIZES)
    for i, part in enumerate(PARTS):
        one = model()
        one.set_weights([*base, *heads[i]])
        errors.append(one.evaluate(*part, verbose=0))
    close(after[:2], base)
    assert outcomes[-1].metrics["val_loss"] == pytest.approx(sum(n * e for n, e in zip(SIZES, errors, strict=True)) / sum(SIZES), rel=1e-4)


async def test_fedbn_keeps_scales_and_statistics_at_the_owner():
    def model():
        return build(layers=[keras.layers.BatchNormalization(name="norm")])

    async with federation(FedBN(local_epochs=1), model=model) as run:
        start = model().get_weights()
        _ = [one async for one in run.rounds(2)]
        moves = [not np.array_equal(a, b) for a, b in zip(run.weights, start, strict=True)]
    assert moves == [False, False, False, False, True, True]


# Refusals.


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        (SCAFFOLD(), keras.optimizers.Adam),
        (SCAFFOLD(), lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        (SCAFFOLD(), lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9))),
        (FedNova(), lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)),
        (FedNova(), lambda: keras.optimizers.SGD(0.1, clipnorm=1.0)),
        (QFedAvg(), lambda: keras.optimizers.SGD(0.1, weight_decay=0.1)),
    ],
)
async def test_optimizers_for_which_a_method_is_not_derived_are_refused(strategy, optimizer):
    async with federation(strategy, model=lambda: build(optimizer())) as run:
        (outcome,) = [one async for one in run.rounds(1)]
    assert outcome.failure
    assert {"is derived for stochastic gradient descent" in one for one in (outcome.dropped | outcome.rejected).values()} == {True}


@pytest.mark.parametrize("strategy", [FedNova(), QFedAvg()], ids=lambda one: type(one).__name__)
def test_quotients_are_not_clipped(strategy):
    privacy = CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=4.0, delta=1e-5)
    with pytest.raises(SettingError, match="parts of a quotient"):
        federation(strategy, privacy=privacy)


async def test_scaffold_with_noise_moves_and_is_clipped_as_a_whole():
    privacy = CentralGaussian(clip_norm=0.01, noise_multiplier=1e-6, max_epsilon=1e15, delta=1e-5)
    found, _ = await played(1, SCAFFOLD(local_epochs=EPOCHS, batch_size=None), privacy=privacy)
    assert 0 < np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(found, START, strict=True))) < 0.01


async def test_owners_without_these_layers_hold_their_update_back():
    async with federation(PersonalLayers(layers=("nowhere",))) as run:
        (outcome,) = [one async for one in run.rounds(1)]
    assert {"layers of its own that the model does not have" in one for one in (outcome.dropped | outcome.rejected).values()} == {True}


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(SCAFFOLD, {"eta": 0.0}), (FedDyn, {"alpha": 0.0}), (QFedAvg, {"q": -1.0}), (Ditto, {"near": -0.1}), (Bulyan, {"f": -1})],
)
def test_settings_that_make_no_sense(kind, settings):
    with pytest.raises(SettingError, match="it has to be"):
        kind(**settings)


def test_personal_layers_need_names():
    for layers in ((), "head", ("a,b",)):
        with pytest.raises(SettingError, match="a tuple of at least one name"):
            PersonalLayers(layers=layers)


# Bulyan.


def bulyan(rows, f):
    """The paper's, one number at a time."""
    left, chosen, theta = list(range(len(rows))), [], len(rows) - 2 * f
    while len(chosen) < theta:
        scores = []
        for i in left:
            others = sorted(sum((a - b) ** 2 for a, b in zip(rows[i], rows[j], strict=True)) for j in left if j != i)
            scores.append((sum(others[: max(1, len(left) - f - 2)]), i))
        best = min(scores)[1]
        chosen.append(best)
        left.remove(best)
    found = []
    for column in zip(*(rows[i] for i in sorted(chosen)), strict=True):
        middle = float(np.median(column))
        found.append(float(np.mean(sorted(column, key=lambda value: abs(value - middle))[: theta - 2 * f])))
    return found


@pytest.mark.parametrize(("n", "f", "seed"), [(7, 1, 0), (9, 1, 1), (11, 2, 2), (15, 3, 3), (3, 0, 4)])
def test_bulyan(n, f, seed):
    rows = np.random.default_rng(seed).normal(size=(n, 5))
    rows[:f] += 1e6
    single = tuple(OwnerUpdate(f"owner-{i}", [row]) for i, row in enumerate(rows))
    (found,), _ = Bulyan(f=f).step(1, [np.zeros(5)], Updates([rows.mean(axis=0)], single=single), {})
    np.testing.assert_allclose(found, bulyan(rows.tolist(), f), rtol=1e-9)
    assert np.abs(found).max() < 10


def test_bulyan_needs_four_f_plus_three():
    single = tuple(OwnerUpdate(str(i), [np.zeros(1)]) for i in range(6))
    with pytest.raises(SettingError, match=r"6 updates and f=1: Bulyan needs 4 f \+ 3 = 7"):
        Bulyan(f=1).step(1, [np.zeros(1)], Updates([np.zeros(1)], single=single), {})


def test_shared_aggregation_is_one_of_those_that_hide():
    assert SharedAggregation.hides_updates

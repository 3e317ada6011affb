"""One contract for all strategies, and for each an oracle: one coordinate at a time, in plain Python floats."""

import copy
import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated import (
    CoordinateMedian,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedSGD,
    FedYogi,
    Krum,
    MultiKrum,
    SettingError,
    TrimmedMean,
)
from federated.strategies.updates import OwnerUpdate, Updates

MEANS = [FedAvg(), FedProx(mu=0.5), FedSGD(eta=0.3), FedAvgM(beta=0.8, eta=0.7), FedAdagrad(), FedAdam(eta=0.1), FedYogi(eta=0.1, tau=0.01)]
ROBUST = [CoordinateMedian(), TrimmedMean(beta=0.2), Krum(f=1), MultiKrum(f=1, m=2)]
SHAPES = [(3, 2), (2,), ()]
OWNERS = 7


def arrays(seed, dtype=np.float32, lead=()):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=lead + shape), dtype) for shape in SHAPES]


def updates_for(strategy, seed, scale=1):
    if not strategy.single_updates:
        return Updates([scale * array for array in arrays(seed, np.float64)])
    return singles([scale * array for array in arrays(seed, np.float64, (OWNERS,))])


def singles(stacks):
    """Updates of owners that are side by side in each array."""
    rows = [[stack[i] for stack in stacks] for i in range(len(stacks[0]))]
    return Updates([stack.mean(axis=0) for stack in stacks], single=tuple(OwnerUpdate(f"owner-{i}", row) for i, row in enumerate(rows)))


def same(left, right):
    return len(left) == len(right) and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(left, right, strict=True))


# The contract.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("strategy", MEANS + ROBUST, ids=lambda one: type(one).__name__)
class TestEveryStrategy:
    def test_keeps_shapes_and_dtypes(self, strategy, dtype):
        weights = arrays(0, dtype)
        new, state = strategy.step(1, weights, updates_for(strategy, 1), strategy.initial(weights))
        assert [(a.shape, a.dtype) for a in new] == [(a.shape, a.dtype) for a in weights]
        assert all(a.dtype == np.float64 for some in state.values() for a in some)

    def test_is_pure(self, strategy, dtype):
        given = 1, arrays(0, dtype), updates_for(strategy, 1), strategy.initial(arrays(0, dtype))
        before = copy.deepcopy(given)
        first, second = strategy.step(*given), strategy.step(*given)
        assert same(given[1], before[1])
        assert same(given[2].mean, before[2].mean)
        assert all(same(one.delta, other.delta) for one, other in zip(given[2].single, before[2].single, strict=True))
        assert all(same(given[3][name], before[3][name]) for name in before[3])
        assert same(first[0], second[0])
        assert not any(np.shares_memory(a, b) for a in first[0] for b in [*given[1], *given[2].mean])

    def test_stays_where_all_owners_agree_with_it(self, strategy, dtype):
        weights = arrays(0, dtype)
        assert same(strategy.step(1, weights, updates_for(strategy, 1, 0), strategy.initial(weights))[0], weights)

    def test_is_a_frozen_value(self, strategy, dtype):
        assert copy.deepcopy(strategy) == strategy
        assert hash(strategy) == hash(copy.deepcopy(strategy))
        with pytest.raises(AttributeError):
            strategy.fraction = 0.5


# The oracles: scalars only.


def second_moment(strategy, v, squared):
    if type(strategy) is FedAdagrad:
        return v + squared
    if type(strategy) is FedAdam:
        return strategy.beta_2 * v + (1 - strategy.beta_2) * squared
    return v - (1 - strategy.beta_2) * squared * (0 if v == squared else math.copysign(1, v - squared))


def oracle(strategy, x, deltas):
    """Coordinate x after one round for each mean of what the owners added."""
    m, v = 0.0, getattr(strategy, "tau", 0) ** 2
    for delta in deltas:
        if isinstance(strategy, FedAvg):
            x = x + delta
        elif isinstance(strategy, FedSGD):
            x = x - strategy.eta * -delta
        elif isinstance(strategy, FedAvgM):
            m = strategy.beta * m + delta
            x = x + strategy.eta * m
        else:
            m = strategy.beta_1 * m + (1 - strategy.beta_1) * delta
            v = second_moment(strategy, v, delta * delta)
            x = x + strategy.eta * m / (math.sqrt(v) + strategy.tau)
    return x


@pytest.mark.parametrize("strategy", MEANS, ids=lambda one: type(one).__name__)
@given(x=st.floats(-10, 10), deltas=st.lists(st.floats(-10, 10), min_size=1, max_size=5))
def test_server_optimizers_against_the_oracle(strategy, x, deltas):
    weights = [np.array([x])]
    state = strategy.initial(weights)
    for delta in deltas:
        weights, state = strategy.step(1, weights, Updates([np.array([delta])]), state)
    assert weights[0][0] == pytest.approx(oracle(strategy, x, deltas), rel=1e-9, abs=1e-9)


def vectors(updates):
    """Each owner's arrays as one list of numbers."""
    return [list(itertools.chain.from_iterable(stack[i].ravel().tolist() for stack in updates)) for i in range(len(updates[0]))]


def krum_oracle(rows, f, m):
    scores = []
    for i, row in enumerate(rows):
        distances = sorted(sum((a - b) ** 2 for a, b in zip(row, other, strict=True)) for j, other in enumerate(rows) if j != i)
        scores.append((sum(distances[: len(rows) - f - 2]), i))
    chosen = [rows[i] for _, i in sorted(scores)[:m]]
    return [statistics.fmean(column) for column in zip(*chosen, strict=True)]


def robust_oracle(strategy, rows):
    columns = list(zip(*rows, strict=True))
    if isinstance(strategy, CoordinateMedian):
        return [statistics.median(column) for column in columns]
    if isinstance(strategy, TrimmedMean):
        cut = math.floor(strategy.beta * len(rows))
        return [statistics.fmean(sorted(column)[cut : len(column) - cut]) for column in columns]
    return krum_oracle(rows, strategy.f, min(strategy.m, len(rows) - strategy.f - 2))


@pytest.mark.parametrize("strategy", ROBUST, ids=lambda one: type(one).__name__)
@given(seed=st.integers(0, 2**32), owners=st.integers(5, 12))
def test_robust_strategies_against_the_oracle(strategy, seed, owners):
    updates = arrays(seed, np.float64, (owners,))
    new, _ = strategy.step(1, [np.zeros(shape) for shape in SHAPES], singles(updates), {})
    np.testing.assert_allclose(np.concatenate([a.ravel() for a in new]), robust_oracle(strategy, vectors(updates)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("strategy", ROBUST, ids=lambda one: type(one).__name__)
def test_robust_strategies_stand_an_owner_who_sends_anything(strategy):
    updates = arrays(1, np.float64, (OWNERS,))
    for stack in updates:
        stack[3] = 1e90
    new, _ = strategy.step(1, arrays(0, np.float64), singles(updates), {})
    assert all(np.abs(array).max() < 10 for array in new)


@pytest.mark.parametrize("strategy", [Krum(f=2), MultiKrum(f=2, m=2)])
def test_krum_needs_two_f_plus_three(strategy):
    assert strategy.least_updates == 7
    with pytest.raises(SettingError, match=r"6 updates and f=2.*2 f \+ 3 = 7"):
        strategy.step(1, arrays(0), singles(arrays(1, np.float64, (6,))), {})


def test_multi_krum_averages_no_more_than_it_can_trust():
    updates = arrays(1, np.float64, (OWNERS,))
    most, more = (MultiKrum(f=1, m=m).step(1, arrays(0), singles(updates), {})[0] for m in (OWNERS - 3, 50))
    assert same(most, more)


def test_what_owners_are_told():
    told = FedProx(mu=0.3, local_epochs=4, batch_size=8).local_training()
    assert (told.epochs, told.batch_size, told.proximal) == (4, 8, 0.3)
    assert (FedSGD().local_training().gradient, FedSGD().local_training().batch_size) == (True, None)
    assert FedAvg(batch_size=None).local_training().proximal == 0


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (FedAvg, {"fraction": 0.0}),
        (FedAvg, {"fraction": 1.5}),
        (FedAvg, {"local_epochs": 0}),
        (FedAvg, {"batch_size": 0}),
        (FedProx, {"mu": -1.0}),
        (FedProx, {"mu": math.nan}),
        (FedSGD, {"eta": 0.0}),
        (FedSGD, {"local_epochs": 2}),
        (FedAvgM, {"beta": 1.0}),
        (FedAvgM, {"eta": 0.0}),
        (FedAdam, {"beta_1": -0.1}),
        (FedAdam, {"beta_2": 1.0}),
        (FedYogi, {"tau": 0.0}),
        (FedAdagrad, {"eta": math.inf}),
        (TrimmedMean, {"beta": 0.5}),
        (Krum, {"f": -1}),
        (Krum, {"m": 2}),
        (MultiKrum, {"m": 0}),
    ],
)
def test_settings_that_make_no_sense(kind, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(SettingError, match=f"{name}={value}: it has to be"):
        kind(**settings)

"""Poisson sampling: the distribution that the accountant is told of."""

import math

import numpy as np
import pytest

from privacy import SamplingRefused
from privacy.sampling import PoissonSampler, steps_per_epoch


def test_each_example_is_sampled_independently_with_probability_q():
    sampler = PoissonSampler(400, 100)
    draws = np.zeros((2000, 400), bool)
    for row in draws:
        row[sampler.sample()] = True
    q, count = 0.25, draws.size
    error = math.sqrt(q * (1 - q))
    assert abs(draws.mean() - q) < 6 * error / math.sqrt(count)
    assert np.abs(draws.mean(0) - q).max() < 6 * error / math.sqrt(2000)  # of each example
    sizes = draws.sum(1)
    assert abs(sizes.var() / (400 * q * (1 - q)) - 1) < 0.2  # binomial: six standard errors
    pairs = np.corrcoef(draws[:, :60], rowvar=False) - np.eye(60)
    assert np.abs(pairs).max() < 6 / math.sqrt(2000)
    lagged = np.corrcoef(sizes[:-1], sizes[1:])[0, 1]
    assert abs(lagged) < 6 / math.sqrt(2000)


def test_indices_ascend_and_are_there():
    indices = PoissonSampler(300_000, 150_000).sample()
    assert (np.diff(indices) > 0).all()
    assert 0 <= indices[0] < 50
    assert 300_000 - 50 < indices[-1] < 300_000


def test_every_example_where_the_batch_is_the_data():
    sampler = PoissonSampler(7, 7)
    assert sampler.probability == 1.0
    assert sampler.sample().tolist() == list(range(7))


@pytest.mark.parametrize(("examples", "batch"), [(3, 1), (60_000, 256), (10, 3), (2**40, 7)])
def test_the_accountant_is_never_told_less_than_was_sampled(examples, batch):
    sampler = PoissonSampler(examples, batch)
    told = sampler.probability.as_integer_ratio()
    assert told[0] * examples >= batch * told[1]
    assert math.isclose(sampler.probability, batch / examples, rel_tol=1e-15)


def test_two_samplers_differ():
    first, second = PoissonSampler(1000, 500), PoissonSampler(1000, 500)
    assert first.sample().tolist() != second.sample().tolist()


@pytest.mark.parametrize(("examples", "batch", "steps"), [(100, 10, 10), (101, 10, 11), (5, 5, 1)])
def test_steps(examples, batch, steps):
    assert steps_per_epoch(examples, batch) == steps


@pytest.mark.parametrize(("examples", "batch"), [(0, 1), (5, 6), (5, 0), (5, -3)])
def test_what_cannot_be_sampled(examples, batch):
    with pytest.raises(SamplingRefused):
        PoissonSampler(examples, batch)

"""Queries of tensorflow-privacy mean the same here: the same clipped sum, the same scale of noise, the same clip norms."""

import importlib.util
import sys

import numpy as np
import pytest

from federated.private.noising import noising
from federated.tasks.bounding import bounded
from federated.tasks.update import Bound, Update
from privacy import AdaptiveClipping, CentralGaussian, GaussianNoise, SettingError, TreeGaussian, mechanism, tfp

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SHAPES = [(40, 50), (50,)]


@pytest.fixture(scope="module")
def queries():
    return tfp.queries()


def records(count, seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype(np.float32) * scale for shape in SHAPES] for scale in np.linspace(0.001, 0.2, count)]


def theirs(query, state, some):
    """The noisy sum, and the state after it."""
    import tensorflow as tf

    params = query.derive_sample_params(state)
    total = query.initial_sample_state(tf.nest.map_structure(tf.constant, some[0]))
    for record in some:
        total = query.accumulate_record(params, total, tf.nest.map_structure(tf.constant, record))
    result, after, _ = query.get_noised_result(total, state)
    return np.concatenate([np.asarray(one).ravel() for one in tf.nest.flatten(result)]), after


def ours(noise, some):
    bound = noise.bound(sum(np.prod(shape) for shape in SHAPES), 1, 0.0)
    updates = [bounded(Update(1, record, 1, {}), bound, GaussianNoise()) for record in some]
    sums = [np.sum([update.delta[i] for update in updates], axis=0, dtype=np.float64) for i in range(len(SHAPES))]
    counts = {"within": sum(update.metrics.get("within", 0.0) for update in updates)}
    return np.concatenate([one.ravel() for one in noise.noisy(sums, counts)])


def test_the_gaussian_sum(queries):
    for query in (queries.GaussianSumQuery(1.5, 0.75), queries.NormalizedQuery(queries.GaussianSumQuery(1.5, 0.75), 10.0)):
        assert mechanism(query, max_epsilon=2.0, delta=1e-6) == CentralGaussian(
            clip_norm=1.5, noise_multiplier=0.5, max_epsilon=2.0, delta=1e-6
        )
    some = records(20)
    quiet = queries.GaussianSumQuery(1.5, 1.5e-7)
    a, _ = theirs(quiet, quiet.initial_global_state(), some)
    b = ours(noising(mechanism(quiet), 20.0), some)
    np.testing.assert_allclose(a, b, atol=8e-5)  # the same clipped sum
    query = queries.GaussianSumQuery(1.5, 0.75)
    a, _ = theirs(query, query.initial_global_state(), some)
    c = ours(noising(mechanism(query), 20.0), some)
    assert np.std(a - b) == pytest.approx(0.75, rel=0.1)
    assert np.std(c - b) == pytest.approx(0.75, rel=0.1)  # the same scale


def test_adaptive_clipping_takes_the_same_way(queries):
    query = queries.QuantileAdaptiveClipSumQuery(3.0, 1e-6, 0.4, 0.3, 1e-4, 20)
    found = mechanism(query)
    assert isinstance(found.clipping, AdaptiveClipping)
    noise, state, some = noising(found, 20.0), query.initial_global_state(), records(20)
    for _ in range(25):
        a, state = theirs(query, state, some)
        b = ours(noise, some)
        np.testing.assert_allclose(a, b, atol=2e-3)
        assert noise.state()["clip"] == pytest.approx(float(state.sum_state.l2_norm_clip), rel=1e-3)
    loud = mechanism(queries.QuantileAdaptiveClipSumQuery(3.0, 0.8, 0.4, 0.3, 5.0, 20))
    assert noising(loud, 20.0)._z == pytest.approx(0.8)


def test_trees_have_the_same_noise_on_their_nodes(queries):
    import tensorflow as tf

    specs = [tf.TensorSpec(shape) for shape in SHAPES]
    residual = queries.TreeResidualSumQuery.build_l2_gaussian_query(2.0, 0.5, specs, use_efficient=False)
    cumulative = queries.TreeCumulativeSumQuery.build_l2_gaussian_query(2.0, 0.5, specs, use_efficient=False)
    restarted = queries.RestartQuery(residual, Never())
    for query in (residual, cumulative, restarted):
        assert mechanism(query) == TreeGaussian(clip_norm=2.0, noise_multiplier=0.5)
    zeros = [[np.zeros(shape, np.float32) for shape in SHAPES]]
    noise, state = noising(mechanism(residual), 1.0), residual.initial_global_state()
    for _ in range(6):
        a, state = theirs(residual, state, zeros)
        assert np.std(a) == pytest.approx(np.std(ours(noise, zeros)), rel=0.12)


class Never:
    """Says when to restart a tree."""

    def initialize(self):
        return ()


def test_others_are_refused(queries):
    with pytest.raises(SettingError, match="NormalizedQuery, RestartQuery of tensorflow-privacy are"):
        mechanism(object())
    with pytest.raises(SettingError, match="use True"):
        mechanism(queries.QuantileAdaptiveClipSumQuery(3.0, 1.0, 0.4, 0.3, 5.0, 20, geometric_update=False))


def test_a_federation_takes_a_query(queries):
    from federated import Federation, SecureAggregation, simulated_owners

    owners = simulated_owners([(np.zeros((3, 4), np.float32), np.zeros(3, int))] * 4)
    federation = Federation(model=lambda: None, owners=owners, aggregation=SecureAggregation(), privacy=queries.GaussianSumQuery(2.0, 1.0))
    assert federation.privacy == CentralGaussian(clip_norm=2.0, noise_multiplier=0.5)


def test_bounds_are_told_once(queries):
    assert noising(mechanism(queries.GaussianSumQuery(1.5, 0.75)), 3.0).bound(9, 1, 0.0) == Bound(1.5)


def test_without_it_the_error_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow_privacy", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'confide\[tfp\]'"):
        tfp.queries()

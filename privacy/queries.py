"""Queries of tensorflow-privacy as mechanisms: what they mean, done with noise that is secret."""

from __future__ import annotations

from typing import Any

from privacy.clipping import AdaptiveClipping
from privacy.errors import SettingError
from privacy.mechanisms import DPSGD, CentralGaussian, ClippedGaussian, TreeGaussian


def mechanism(given: Any, *, max_epsilon: float | None = None, delta: float = 1e-5) -> ClippedGaussian | DPSGD:
    """Return the mechanism that a `tensorflow_privacy.DPQuery` describes; a mechanism of ours is given back as it is.

    =================================== ==========================================================================
    GaussianSumQuery                    CentralGaussian
    QuantileAdaptiveClipSumQuery        CentralGaussian with AdaptiveClipping
    TreeResidualSumQuery,               TreeGaussian; they have to be made by `build_l2_gaussian_query`, and may be in a RestartQuery
    TreeCumulativeSumQuery
    NormalizedQuery of one of them      the same: rounds divide by the expected number of owners
    =================================== ==========================================================================

    Clipping, and the standard deviation of the noise, are those of the query. The noise itself comes from AES-CTR and lies on a grid: that
    of tensorflow-privacy is TensorFlow's, in floating point, and no secret. Its distributed queries have no place here: they say what
    noise one owner adds, and not what the sum has; say that with `DistributedGaussian`.

    Args:
        given: a query, or a mechanism.
        max_epsilon: the budget, for a query: it has none itself.
        delta: for a query.

    Raises:
        SettingError: it is another query, or has a setting that no mechanism of ours has.
    """
    if isinstance(given, (ClippedGaussian, DPSGD)):
        return given
    kind = type(given).__name__
    if kind not in _READERS:
        raise SettingError(f"{kind} is no mechanism; {', '.join(_READERS)} of tensorflow-privacy are, and those of `privacy`")
    return _READERS[kind](given, {"max_epsilon": max_epsilon, "delta": delta})


def _gaussian(query: Any, budget: dict[str, Any]) -> ClippedGaussian:
    state = query.initial_global_state()
    clip = float(state.l2_norm_clip)
    return CentralGaussian(clip_norm=clip, noise_multiplier=float(state.stddev) / clip, **budget)


def _adaptive(query: Any, budget: dict[str, Any]) -> ClippedGaussian:
    state = query.initial_global_state()
    quantile = state.quantile_estimator_state
    if not query._quantile_estimator_query._geometric_update:
        raise SettingError("QuantileAdaptiveClipSumQuery(geometric_update=False): clip norms are multiplied here: use True")
    count = float(quantile.below_estimate_state.numerator_state.stddev)
    z = (float(state.noise_multiplier) ** -2 + (2 * count) ** -2) ** -0.5
    clipping = AdaptiveClipping(quantile=float(quantile.target_quantile), learning_rate=float(quantile.learning_rate), count_noise=count)
    return CentralGaussian(clip_norm=float(state.sum_state.l2_norm_clip), noise_multiplier=z, clipping=clipping, **budget)


def _tree(query: Any, budget: dict[str, Any]) -> ClippedGaussian:
    clip = float(query._clip_value)
    noise = float(query._tree_aggregator.value_generator._noise_std)
    return TreeGaussian(clip_norm=clip, noise_multiplier=noise / clip, **budget)


def _normalized(query: Any, budget: dict[str, Any]) -> ClippedGaussian | DPSGD:
    return mechanism(query._numerator, **budget)


def _restart(query: Any, budget: dict[str, Any]) -> ClippedGaussian | DPSGD:
    return mechanism(query._inner_query, **budget)


_READERS = {
    "GaussianSumQuery": _gaussian,
    "QuantileAdaptiveClipSumQuery": _adaptive,
    "TreeResidualSumQuery": _tree,
    "TreeCumulativeSumQuery": _tree,
    "NormalizedQuery": _normalized,
    "RestartQuery": _restart,
}

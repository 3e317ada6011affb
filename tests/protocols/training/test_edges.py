"""Functions of a training at the edge of what is watched: as many numbers as are allowed, as large as they may be."""

import contextlib

import numpy as np
import pytest

from protocols.errors import ModelError
from protocols.mpc.circuit import meaning
from protocols.mpc.operations.wires import Given
from protocols.training.networks.attention import MOST_PLACES, SoftmaxLayer
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import LARGEST
from protocols.training.networks.normalisation import BatchNormalisedLayer, standardised
from protocols.training.networks.window import WEIGHTS, Watched, outside, summed

UNIT = 2.0**FRACTION


def results(draft, y, x):
    """Real numbers by the meaning of operations, which raises where a window is left; each rounding up and each down."""
    circuit = draft.circuit({"y": y})
    given = {"x": np.rint(x * UNIT).astype(np.int64).view(np.uint64)}
    return [meaning(circuit, given, lambda shape, up=up: np.full(shape, up, np.uint64))["y"].view(np.int64) / UNIT for up in (0, 1)]


@pytest.mark.parametrize("n", [2, 126, 1365, 2730, 2731, 3276, 3277, MOST_PLACES - 1, MOST_PLACES])
def test_a_softmax_goes_over_as_many_places_as_are_allowed(n):
    draft = StepDraft()
    y = SoftmaxLayer((0,)).write(draft, {}, [draft.put(Given("x", (4, n), "wire"))])
    random = np.random.default_rng(0)
    x = np.array([np.full(n, 180.0), np.where(np.arange(n) == 1, 180.0, -180.0), random.normal(size=n), random.uniform(-180, 180, n)])
    exact = np.exp(x - x.max(1, keepdims=True))
    for found in results(draft, y, x):
        np.testing.assert_allclose(found, exact / exact.sum(1, keepdims=True), atol=2.0**-10)


@pytest.mark.parametrize("n", [512, 2047, 2048, 2050, 4096, 4098, 7000, 8192, 100_000, 1 << 18])
@pytest.mark.parametrize("centred", [True, False])
def test_numbers_within_the_window_of_a_training_are_normalised_however_they_lie(n, centred):
    """Those that are far from all others may lie side by side, where squares are summed before they are rounded."""
    draft = StepDraft()
    y = standardised(draft, draft.put(Given("x", (4, n), "wire")), 1, 1e-3, centred=centred).y
    x = np.full((4, n), -LARGEST)
    for row, size in zip(x, (1, 1024, 2048, n // 2), strict=True):
        row[:size] = LARGEST
    c = x - x.mean(1, keepdims=True) * centred
    exact = c / np.sqrt((c**2).mean(1, keepdims=True) + 1e-3)
    for found in results(draft, y, x):
        np.testing.assert_allclose(found, exact, rtol=2.0**-10, atol=2.0**-10)


@pytest.mark.parametrize(("epsilon", "fits"), [(1e-9, False), (0.0, False), (2.0**-26, True)])
def test_a_batch_normalisation_whose_kept_variance_may_be_too_small_to_be_right_is_refused(epsilon, fits):
    """1 / sqrt(v + epsilon) came out too small, without a word, where a channel's variance had been 0."""
    node = BatchNormalisedLayer((0,), epsilon, 0.9, "mean", "variance")
    draft = StepDraft(predicts=True)
    weights = {name: draft.put(Given(name, (3,), "share")) for name in ("mean", "variance")}
    x = draft.put(Given("x", (4, 3), "wire"))
    with contextlib.nullcontext() if fits else pytest.raises(ModelError, match=r"epsilon=.* has no form on shares: 1\.5e-08 is the least"):
        node.write(draft, weights, [x])


@pytest.mark.parametrize("power", [WEIGHTS - 1, WEIGHTS + 1, 30, 39, 40, 44, 45])
def test_a_weight_that_is_too_large_is_found_whatever_it_is_a_multiple_of(power):
    """From 2^40 on none was: sums were looked at modulo 2^56."""
    draft = StepDraft()
    edge = Watched(draft.put(Given("w", (3,), "share")), 2.0 ** (WEIGHTS + FRACTION))
    circuit = draft.circuit({"outside": outside(draft, draft(Given("outside", (1,), "share")), [], [summed(draft, [edge])])})
    given = {"w": np.array([1 << (power + FRACTION), 0, 0], np.uint64), "outside": np.zeros(1, np.uint64)}
    found = meaning(circuit, given, lambda shape: np.zeros(shape, np.uint64))
    assert found["outside"] == [power > WEIGHTS]

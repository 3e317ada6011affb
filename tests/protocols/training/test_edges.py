"""Functions of a training at the edge of what is watched: as many numbers as are allowed, as large as they may be."""

import numpy as np
import pytest

from protocols.mpc.circuit import meaning
from protocols.mpc.operations.wires import Given
from protocols.training.networks.attention import MOST_PLACES, SoftmaxLayer
from protocols.training.networks.draft import StepDraft
from protocols.training.networks.functions import FRACTION
from protocols.training.networks.layers import LARGEST
from protocols.training.networks.normalisation import standardised

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

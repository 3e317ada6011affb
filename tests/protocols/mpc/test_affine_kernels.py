"""Kernels of affine values beside their twins in plain numpy, and beside integers."""

import itertools

import numpy as np
import pytest

from deployment import random_ring
from protocols.mpc.kernels import affine, reference_affine

NONE = np.empty(0, np.uint64)
PARTS = list(itertools.product([False, True], repeat=2))


def halves(value, seed):
    first = random_ring(value.shape, 2**62, seed)
    return first, value - first


def affine_value(parts, seed):
    """a, kappa, R, h and x in the clear, for the parts that it has."""
    big, top = parts
    a, kappa = random_ring((50,), 2**62, f"a{seed}"), random_ring((50,), 2**62, f"k{seed}") if top else NONE
    r, h = random_ring((50,), 2**62, f"r{seed}") if big else NONE, random_ring((50,), 1, f"h{seed}") & np.uint64(1) if top else NONE
    x = a - (r if big else np.uint64(0)) + (kappa * h if top else np.uint64(0))
    return a, kappa, r, h, x


def split(parts):
    """Both parties' halves of some arrays, of which some are empty."""
    made = [halves(part, str(number)) if part.size else (NONE, NONE) for number, part in enumerate(parts)]
    return [one[0] for one in made], [one[1] for one in made]


@pytest.mark.parametrize("module", [affine, reference_affine])
@pytest.mark.parametrize("first", PARTS)
@pytest.mark.parametrize("second", PARTS)
def test_products(module, first, second):
    a, kappa, r, h, x = affine_value(first, "x")
    b, eta, s, g, y = affine_value(second, "y")
    pairs = [p * q if p.size and q.size else NONE for p in (r, h) for q in (s, g)]
    total = np.zeros(50, np.uint64)
    for party, (mine_r, mine_h, mine_s, mine_g, *dealt) in enumerate(split([r, h, s, g, *pairs])):
        out = np.empty(50, np.uint64)
        module.affine_product(a, kappa, mine_r, mine_h, b, eta, mine_s, mine_g, *dealt, party, out)
        total += out
    np.testing.assert_array_equal(total, x * y)


@pytest.mark.parametrize("module", [affine, reference_affine])
@pytest.mark.parametrize("parts", PARTS)
def test_squares(module, parts):
    a, kappa, r, h, x = affine_value(parts, "x")
    total = np.zeros(50, np.uint64)
    for party, (mine_r, mine_h, rr, rh) in enumerate(split([r, h, r * r, r * h if r.size and h.size else NONE])):
        out = np.empty(50, np.uint64)
        module.affine_square(a, kappa, mine_r, mine_h, rr, rh, party, out)
        total += out
    np.testing.assert_array_equal(total, x * x)


@pytest.mark.parametrize("module", [affine, reference_affine])
@pytest.mark.parametrize(("drop", "window"), [(0, 20), (1, 30), (16, 40), (40, 23)])
def test_rounded_shares(module, drop, window):
    z, r = random_ring((50,), (1 << (drop + window - 1)) - (1 << (drop + 1)), "z"), random_ring((50,), 2**62, "r") * np.uint64(3)
    c = z + r + np.uint64(1 << (drop + window - 1))
    total = np.zeros(50, np.uint64)
    for party, (big, top) in enumerate(split([r >> np.uint64(drop), r >> np.uint64(63)])):
        out = np.empty(50, np.uint64)
        module.rounded_share(c, big, top, drop, window, party, out)
        total += out
    up = total.view(np.int64) - (z.view(np.int64) >> drop)
    assert set(up.tolist()) <= {0, 1}

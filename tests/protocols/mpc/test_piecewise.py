"""Piecewise linear functions of shares: equal to the oracle at every knot and edge, three rounds, the bytes that are promised."""

import numpy as np
import pytest

from deployment import Deployment, random_ring
from protocols.errors import WindowError
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.piecewise import Piecewise
from protocols.mpc.operations.wires import AsShare, Input
from protocols.mpc.plaintext import evaluate
from protocols.mpc.program import Program

RANGE = (-1.0, 1.0)


def program(op, shape):
    return Program((Input(), AsShare(0), op), (), shape, 1.0, RANGE, 1.0)


def pieces(t, op):
    """Written out: the piece of each element, one at a time."""
    piece = [sum(knot <= one for knot in op.knots) for one in t]
    return [op.slopes[k] * one + op.offsets[k] for k, one in zip(piece, t, strict=True)]


OPS = {
    "a step": Piecewise(1, 0, 10, (3,), (0, 0), (0, 1)),
    "an absolute value": Piecewise(1, 0, 10, (0,), (-1, 1), (0, 0)),
    "jumps and slopes": Piecewise(1, 0, 12, (-700, -1, 0, 5, 1024), (3, -2, 7, 0, 1 << 40, -(1 << 40)), (1, 2, -3, 4, 5, 6)),
}


@pytest.mark.parametrize("name", OPS)
def test_exact_without_rounding(name):
    op = OPS[name]
    limit = (1 << (op.window - 2)) - 2
    near = [knot + step for knot in op.knots for step in (-1, 0, 1)]
    t = np.array([x for x in [-limit, limit, 0, -1, *near] if abs(x) <= limit])
    tested = program(op, t.shape)
    y = Deployment(tested, []).output(t.astype(np.uint64)[None])
    assert y.view(np.int64)[0].tolist() == pieces(t.tolist(), op)
    np.testing.assert_array_equal(evaluate(tested, [], t.astype(np.uint64)[None]), y)


@pytest.mark.parametrize(("drop", "window"), [(1, 20), (13, 24), (30, 33), (13, 49)])
def test_the_same_rounded_value_at_every_knot(drop, window):
    op = Piecewise(1, drop, window, (-(1 << (window - 3)), -1, 0, 1, 77), (1, 2, -3, 4, 5, 6), (10, 20, 30, 40, 50, 60))
    limit = (1 << (drop + window - 2)) - (1 << (drop + 1))
    x = np.concatenate([random_ring((4, 97), limit, f"{drop}"), random_ring((4, 33), 3 << drop, "small")], 1)
    x[:, 0], x[:, 1] = np.uint64(limit), np.uint64(-limit % 2**64)
    y = Deployment(program(op, (130,)), []).output(x).view(np.int64)
    for row, out in zip(x.view(np.int64), y, strict=True):
        below = (row >> drop).tolist()
        low, high = pieces(below, op), pieces([t + 1 for t in below], op)
        assert all(one in both for one, both in zip(out.tolist(), zip(low, high, strict=True), strict=True))


def test_three_rounds_one_opening_and_some_bits_for_each_knot():
    op = Piecewise(1, 13, 24, (-500, 0, 500), (0, 1, -1, 0), (0, 0, 0, 0))
    transcript = Deployment(program(op, (128,)), []).run(random_ring((2, 128), 1 << 30, "x"))
    assert transcript.rounds == 3
    expected = 2 * 128 * 8 + 2 * 3 * 128 * (blocks_for(24).opened + 1) // 8
    assert transcript.sent == {(0, 1): expected, (1, 0): expected}


def test_the_oracle_finds_sums_outside_of_the_window():
    tested = program(Piecewise(1, 2, 10, (0,), (0, 1), (0, 0)), (1,))
    limit = (1 << 10) - (1 << 3)
    evaluate(tested, [], np.array([[limit]], np.uint64))
    with pytest.raises(WindowError, match="outside of its window"):
        evaluate(tested, [], np.array([[limit + 1]], np.uint64))

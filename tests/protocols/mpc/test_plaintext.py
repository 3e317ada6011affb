"""The oracle itself, against sums written out in Python integers and against examples worked by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import WindowError
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.moves import Concatenate, Pad, Reshape
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.sums import Combine, Scale, SumPool
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.weights import Conv2D, Dense
from protocols.mpc.operations.wires import AsShare, Input, Open
from protocols.mpc.plaintext import evaluate, trace
from protocols.mpc.program import Program, infer


def ring(values):
    return np.array([int(v) % 2**64 for v in np.ravel(np.array(values, object))], np.uint64).reshape(np.shape(values))


def signed(values):
    return values.view(np.int64).tolist()


def words(seed, shape):
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def run(ops, x, *weights, rounding=None):
    """The value of the last operation, whose shape must be what `infer` says."""
    x = x if x.dtype == np.uint64 else ring(x)
    program = Program((Input(), *ops), tuple(w.shape for w in weights), x.shape[1:], 1.0, (0.0, 1.0), 1.0)
    value = evaluate(program, weights, x, rounding=rounding)
    assert value.dtype == np.uint64
    assert value.shape == (len(x), *infer(program)[-1].shape)
    return value


def up(shape):
    return np.ones(shape, np.uint64)


class TestLinear:
    def test_dense_is_a_sum_modulo_2_to_the_64(self):
        x, w, b = words(0, (2, 3, 4)), words(1, (4, 5)), words(2, (5,))
        expected = [
            [[(sum(int(x[n, i, k]) * int(w[k, j]) for k in range(4)) + int(b[j])) % 2**64 for j in range(5)] for i in range(3)]
            for n in range(2)
        ]
        assert run([Dense(0, 0, 1)], x, w, b).tolist() == expected

    @given(
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.tuples(st.tuples(st.integers(0, 2), st.integers(0, 1)), st.tuples(st.integers(0, 1), st.integers(0, 2))),
        st.tuples(st.integers(1, 2), st.integers(1, 2)),
        st.integers(1, 2),
    )
    def test_convolution_is_a_sum_over_taps(self, strides, padding, dilation, groups):
        x, kernel, bias = words(3, (2, 5, 4, 2 * groups)), words(4, (2, 2, 2, 3 * groups)), words(5, (3 * groups,))
        got = run([Conv2D(0, 0, 1, strides, padding, dilation, groups)], x, kernel, bias)

        def tap(n, i, j, c):
            i, j = i - padding[0][0], j - padding[1][0]
            return int(x[n, i, j, c]) if 0 <= i < 5 and 0 <= j < 4 else 0

        for n, i, j, f in itertools.product(*map(range, got.shape)):
            total = int(bias[f])
            for a, b, c in itertools.product(range(2), range(2), range(2)):
                value = tap(n, i * strides[0] + a * dilation[0], j * strides[1] + b * dilation[1], (f // 3) * 2 + c)
                total += value * int(kernel[a, b, c, f])
            assert int(got[n, i, j, f]) == total % 2**64

    def test_without_a_bias(self):
        assert run([Dense(0, 0)], np.array([[2, 3]]), ring([[5], [-7]])).view(np.int64).tolist() == [[-11]]


class TestRounding:
    @pytest.mark.parametrize(("z", "down", "higher"), [(8, 2, 2), (9, 2, 3), (-9, -3, -2), (-8, -2, -2), (-1, -1, 0), (0, 0, 0)])
    def test_down_or_up_and_exact_where_nothing_is_dropped(self, z, down, higher):
        ops = [AsShare(0), Truncate(1, 2, 8)]
        assert signed(run(ops, np.array([[z]]))) == [[down]]
        assert signed(run(ops, np.array([[z]]), rounding=up)) == [[higher]]

    def test_the_bits_are_asked_for_the_shape_of_the_value(self):
        shapes = []

        def bits(shape):
            shapes.append(shape)
            return up(shape)

        run([AsShare(0), Truncate(1, 2, 8), Select(2, 0, 8)], np.zeros((3, 2, 5), np.uint64), rounding=bits)
        assert shapes == [(3, 2, 5), (3, 2, 5)]

    @given(st.integers(-(2**9 - 8), 2**9 - 8), st.integers(-3, 3), st.integers(-3, 3), st.integers(-9, 9), st.booleans())
    def test_selection(self, z, positive, negative, step, upwards):
        t = (z >> 2) + (upwards and z % 4 != 0)
        expected = positive * t + step if t >= 0 else negative * t
        ops = [AsShare(0), Select(1, 2, 8, positive, negative, step)]
        assert signed(run(ops, np.array([[z]]), rounding=up if upwards else None)) == [[expected]]

    @pytest.mark.parametrize(("drop", "window"), [(2, 8), (0, 3), (13, 24), (38, 24), (61, 2)])
    @pytest.mark.parametrize("operation", [Truncate, Select])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_the_window_ends_where_the_precondition_says(self, drop, window, operation, sign):
        limit = 2 ** (drop + window - 1) - 2 ** (drop + 1)
        inside = np.array([[sign * limit]], object)
        run([AsShare(0), operation(1, drop, window)], ring(inside))
        with pytest.raises(WindowError, match=rf"operation 2: a sum of {limit + 1} is outside of its window, which ends at {limit}"):
            run([AsShare(0), operation(1, drop, window)], ring(inside + sign))

    def test_the_most_negative_integer_is_outside(self):
        with pytest.raises(WindowError, match=str(2**63)):
            run([AsShare(0), Truncate(1, 1, 61)], ring(np.array([[-(2**63)]], object)))


class TestArgmax:
    def test_one_bit_for_each_example_and_ties_to_the_lower_index(self):
        x = np.array([[1, 5, 5], [-3, -9, -4], [7, 7, 7], [-1, 0, 1]])
        assert run([AsShare(0), Argmax(1, 0, 20)], x).tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]

    def test_differences_must_stay_inside_the_window(self):
        limit = 2**7 - 2
        run([AsShare(0), Argmax(1, 0, 8)], np.array([[1000, 1000 - limit]]))
        with pytest.raises(WindowError, match=f"operation 2: a sum of {limit + 1} "):
            run([AsShare(0), Argmax(1, 0, 8)], np.array([[1000, 1000 - limit - 1]]))

    def test_differences_do_not_wrap_around(self):
        with pytest.raises(WindowError, match=str(2**63)):
            run([AsShare(0), Argmax(1, 0, 60)], ring(np.array([[2**62, -(2**62)]], object)))


class TestLocal:
    x = np.arange(24).reshape(1, 2, 3, 4) - 7

    def test_reshape_keeps_row_major_order(self):
        assert signed(run([Reshape(0, (4, 6)), AsShare(1)], self.x)) == self.x.reshape(1, 4, 6).tolist()

    def test_pad(self):
        got = run([Pad(0, ((1, 0), (0, 2))), AsShare(1)], self.x)
        assert signed(got[:, 1:, :3]) == self.x.tolist()
        assert int(np.count_nonzero(got)) == np.count_nonzero(self.x)

    def test_sums_over_windows_with_zeros_outside(self):
        got = run([SumPool(0, (2, 2), (1, 2), ((0, 1), (1, 0))), AsShare(1)], self.x)
        for i, j, c in itertools.product(range(2), range(2), range(4)):
            rows, columns = [r for r in (i, i + 1) if r < 2], [k for k in (2 * j - 1, 2 * j) if k >= 0]
            assert int(got.view(np.int64)[0, i, j, c]) == sum(int(self.x[0, r, k, c]) for r in rows for k in columns)

    def test_concatenate(self):
        got = run([Combine((0,), (-1,)), Concatenate((0, 1, 0), 1), AsShare(2)], self.x)
        assert signed(got) == np.concatenate([self.x, -self.x, self.x], 2).tolist()

    def test_combine_adds_multiples_and_a_constant_modulo_2_to_the_64(self):
        x = words(6, (2, 3))
        got = run([Combine((0,), (5,)), Combine((0, 1), (-(2**40), 3), -9), AsShare(2)], x)
        assert got.tolist() == [[(int(v) * (15 - 2**40) - 9) % 2**64 for v in row] for row in x]

    def test_multiply_broadcasts_a_public_table(self):
        got = run([Scale(0, (1, -2, 3), (3, 1)), AsShare(1)], self.x)
        assert signed(got) == (self.x * np.array([1, -2, 3]).reshape(3, 1)).tolist()


def test_a_trace_has_every_value_and_opening_changes_none():
    program = Program((Input(), Dense(0, 0), Select(1, 1, 8), Open(2), Dense(3, 1)), ((1, 2), (2, 1)), (1,), 1.0, (0.0, 1.0), 1.0)
    values = trace(program, [ring([[3, -3]]), ring([[10], [1]])], ring([[2], [-4]]))
    assert [signed(v) for v in values] == [
        [[2], [-4]],
        [[6, -6], [-12, 12]],
        [[3, 0], [0, 6]],
        [[3, 0], [0, 6]],
        [[30], [6]],
    ]

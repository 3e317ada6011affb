"""Ring arithmetic against Python's integers, and every compiled kernel against its plain twin."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.mpc import kernels
from protocols.mpc.kernels import reference
from protocols.mpc.numbers import ring
from protocols.mpc.parties.keystream import KeyStream, derive


def words(*shape: int, seed: int = 0) -> ring.Ring:
    return KeyStream(derive(bytes(16), "test data", seed)).words(shape)


def big(array: ring.Ring) -> np.ndarray:
    """The same numbers as Python integers, which never wrap."""
    return array.astype(object)


def wrapped(array: np.ndarray) -> ring.Ring:
    return (array % 2**64).astype(np.uint64)


def convolved(x, kernel, *, strides, padding, dilation, groups) -> ring.Ring:
    """The definition of a convolution, one output at a time, over Python's integers."""
    (top, bottom), (left, right) = padding
    x = big(np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))))
    (n, height, width, _), (kh, kw, depth, filters) = x.shape, kernel.shape
    out_height = (height - dilation[0] * (kh - 1) - 1) // strides[0] + 1
    out_width = (width - dilation[1] * (kw - 1) - 1) // strides[1] + 1
    out = np.zeros((n, out_height, out_width, filters), object)
    for b, i, j, f in np.ndindex(out.shape):
        group = f // (filters // groups)
        for y, z, c in np.ndindex(kh, kw, depth):
            row, column = i * strides[0] + y * dilation[0], j * strides[1] + z * dilation[1]
            out[b, i, j, f] += x[b, row, column, group * depth + c] * int(kernel[y, z, c, f])
    return wrapped(out)


sizes = st.integers(1, 20)


@given(m=sizes, k=st.integers(0, 20), n=st.integers(1, 40), accumulate=st.booleans())
def test_matmul_is_that_of_integers_modulo_2_to_64(m, k, n, accumulate):
    a, b, before = words(m, k, seed=1), words(k, n, seed=2), words(m, n, seed=3)
    out = before.copy()
    assert ring.matmul(a, b, out=out, accumulate=accumulate) is out
    expected = sum((np.outer(big(a[:, i]), big(b[i])) for i in range(k)), np.zeros((m, n), object))
    np.testing.assert_array_equal(out, wrapped(expected + big(before) * accumulate))


@pytest.mark.parametrize("shape", [(1, 64, 10), (129, 5, 17), (137, 1100, 33), (16, 784, 128), (9, 513, 7), (256, 40, 1), (0, 3, 4)])
def test_matmul_blocks_fit_together(shape):
    """Shapes around the blocks: rows by 8 and 128, columns by 8 and 16, depth by 512."""
    m, k, n = shape
    a, b = words(m, k, seed=1), words(k, n, seed=2)
    np.testing.assert_array_equal(ring.matmul(a, b), a @ b)
    out = np.ones((m, n), np.uint64)
    ring.matmul(a, b, out=out, accumulate=True)
    np.testing.assert_array_equal(out, a @ b + np.uint64(1))


def test_matmul_writes_nothing_around_its_output():
    around = np.full((5, 3, 11), 7, np.uint64)
    ring.matmul(words(3, 4), words(4, 11), out=around[2])
    assert (around[[0, 1, 3, 4]] == 7).all()


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def convolutions(draw):
    depthwise = st.tuples(st.integers(2, 18), st.just(1), st.just(1))
    groups, depth, share = draw(depthwise | st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 18)))
    size, strides, dilation = draw(pairs), draw(pairs), draw(pairs)
    zeros = st.integers(0, 2)
    padding = ((draw(zeros), draw(zeros)), (draw(zeros), draw(zeros)))
    reach = [step * (n - 1) + 1 for step, n in zip(dilation, size, strict=True)]
    height, width = (max(1, reach[i] - sum(padding[i])) + draw(st.integers(0, 4)) for i in range(2))
    x = words(draw(st.integers(1, 2)), height, width, groups * depth, seed=1)
    kernel = words(*size, depth, groups * share, seed=2)
    return x, kernel, {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}


@settings(deadline=None, max_examples=60)
@given(convolutions(), st.booleans())
def test_conv2d_is_its_definition(convolution, accumulate):
    x, kernel, settings_ = convolution
    expected = convolved(x, kernel, **settings_)
    out = np.ones_like(expected)
    assert ring.conv2d(x, kernel, **settings_, out=out, accumulate=accumulate) is out
    np.testing.assert_array_equal(out, expected + np.uint64(accumulate))


@pytest.mark.parametrize(
    ("x", "kernel", "settings_"),
    [
        ((2, 28, 28, 1), (4, 4, 1, 16), {"strides": (2, 2)}),
        ((3, 13, 13, 16), (4, 4, 16, 32), {"strides": (2, 2)}),
        ((9, 5, 5, 32), (4, 4, 32, 64), {"strides": (2, 2)}),
        ((1, 9, 9, 64), (3, 3, 64, 64), {"padding": ((1, 1), (1, 1))}),
        ((1, 16, 16, 24), (1, 1, 24, 40), {}),
        ((2, 9, 9, 24), (3, 3, 1, 24), {"groups": 24, "padding": ((1, 1), (1, 1))}),
        ((2, 9, 9, 6), (3, 3, 1, 12), {"groups": 6}),
        ((1, 9, 9, 1), (3, 3, 1, 1), {}),
    ],
)
def test_conv2d_layers_agree_with_the_plain_kernel(x, kernel, settings_, monkeypatch):
    x, kernel = words(*x, seed=1), words(*kernel, seed=2)
    fast = ring.conv2d(x, kernel, **settings_)
    monkeypatch.setattr(kernels, "conv2d", reference.conv2d)
    np.testing.assert_array_equal(fast, ring.conv2d(x, kernel, **settings_))


@settings(deadline=None, max_examples=40)
@given(size=pairs, strides=pairs, channels=st.integers(1, 20), top=st.integers(0, 2), right=st.integers(0, 2))
def test_sum_pool_is_a_convolution_with_ones(size, strides, channels, top, right):
    x, padding = words(2, 5, 6, channels), ((top, 0), (0, right))
    ones = np.ones((*size, 1, channels), np.uint64)
    pooled = ring.sum_pool(x, size, strides, padding)
    expected = convolved(x, ones, strides=strides, padding=padding, dilation=(1, 1), groups=channels)
    np.testing.assert_array_equal(pooled, expected)


@st.composite
def plain_convolutions(draw):
    """x, kernel, the gradient by the output; neither dilation nor groups, padding less than the kernel."""
    size, strides = draw(pairs), draw(pairs)
    padding = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in size)
    image = tuple(k + draw(st.integers(0, 4)) for k in size)
    x = words(draw(st.integers(1, 3)), *image, draw(st.integers(1, 3)), seed=1)
    kernel = words(*size, x.shape[3], draw(st.integers(1, 18)), seed=2)
    settings_ = {"strides": strides, "padding": padding}
    return x, kernel, words(*ring.conv2d(x, kernel, **settings_).shape, seed=3), settings_


@settings(deadline=None, max_examples=60)
@given(plain_convolutions())
def test_the_gradients_of_a_convolution_are_its_transposes(convolution):
    """One number of the kernel, or of the input, at a time: the transpose is what its convolution and the slope have in common."""
    x, kernel, slope, settings_ = convolution
    by_kernel = ring.kernel_gradient(x, slope, kernel.shape[:2], **settings_)
    by_input = ring.input_gradient(slope, kernel, x.shape[1:3], **settings_)
    assert (by_kernel.shape, by_input.shape) == (kernel.shape, x.shape)
    for at in [(0, 0, 0, 0), tuple(n - 1 for n in kernel.shape), tuple(n // 2 for n in kernel.shape)]:
        one = np.zeros_like(kernel)
        one[at] = 1
        assert by_kernel[at] == (convolved(x, one, **settings_, dilation=(1, 1), groups=1) * slope).sum()
    for at in [(0, 0, 0, 0), tuple(n - 1 for n in x.shape), tuple(n // 2 for n in x.shape)]:
        one = np.zeros_like(x)
        one[at] = 1
        assert by_input[at] == (convolved(one, kernel, **settings_, dilation=(1, 1), groups=1) * slope).sum()


@settings(deadline=None, max_examples=30)
@given(plain_convolutions())
def test_the_plain_kernel_gradient_agrees(convolution):
    x, kernel, slope, settings_ = convolution
    fast, plain = np.ones_like(kernel), np.ones_like(kernel)
    for gradient, out in ((kernels.kernel_gradient, fast), (reference.kernel_gradient, plain)):
        gradient(ring.pad(x, settings_["padding"]), slope, out, *settings_["strides"])
    np.testing.assert_array_equal(plain, fast)


@pytest.mark.parametrize("shape", [(1, 3, 3, 2), (2, 4, 3, 2), (1, 4, 4, 3)])
def test_gradients_of_another_convolution_are_refused(shape):
    x, kernel, slope = words(1, 5, 5, 1), words(2, 2, 1, 2), words(*shape)
    with pytest.raises(ValueError, match="gradient has shape"):
        ring.input_gradient(slope, kernel, (5, 5))
    if shape[:3] != (1, 4, 4):
        with pytest.raises(ValueError, match="gradient has shape"):
            ring.kernel_gradient(x, slope, (2, 2))


@given(m=sizes, k=sizes, n=sizes, accumulate=st.booleans())
def test_the_plain_matmul_agrees(m, k, n, accumulate):
    a, b, plain = words(m, k, seed=1), words(k, n, seed=2), words(m, n, seed=3)
    fast = plain.copy()
    reference.matmul(a, b, plain, accumulate)
    kernels.matmul(a, b, fast, accumulate)
    np.testing.assert_array_equal(plain, fast)


@settings(deadline=None, max_examples=40)
@given(convolutions(), st.booleans())
def test_the_plain_conv2d_agrees(convolution, accumulate):
    x, kernel, settings_ = convolution
    fast = np.ones_like(ring.conv2d(x, kernel, **settings_))
    plain = fast.copy()
    for conv2d, out in ((kernels.conv2d, fast), (reference.conv2d, plain)):
        padded = ring.pad(x, settings_["padding"])
        conv2d(padded, kernel, out, *settings_["strides"], *settings_["dilation"], settings_["groups"], accumulate)
    np.testing.assert_array_equal(plain, fast)


@given(size=pairs, strides=pairs)
def test_the_plain_sum_pool_agrees(size, strides):
    x = words(2, 6, 7, 9)
    fast = ring.sum_pool(x, size, strides)
    plain = np.empty_like(fast)
    reference.sum_pool(x, plain, *size, *strides)
    np.testing.assert_array_equal(plain, fast)


def test_pad_puts_zeros_around():
    x = words(2, 3, 4, 5)
    padded = ring.pad(x, ((1, 2), (3, 4)))
    np.testing.assert_array_equal(padded, np.pad(x, ((0, 0), (1, 2), (3, 4), (0, 0))))
    assert ring.pad(x, ((0, 0), (0, 0))) is x


def test_operands_may_be_slices_and_read_only():
    x, kernel, a = words(6, 5, 5, 8, seed=1), words(2, 2, 8, 16, seed=2), words(12, 8, seed=3)
    np.testing.assert_array_equal(ring.conv2d(x[1::2], kernel), ring.conv2d(x[1::2].copy(), kernel))
    np.testing.assert_array_equal(ring.matmul(a[::3], a.T), a[::3] @ a.T)
    for array in (x, kernel, a):
        array.setflags(write=False)
    np.testing.assert_array_equal(ring.matmul(a, a[:8]), a @ a[:8])
    np.testing.assert_array_equal(ring.conv2d(x, kernel)[::5], ring.conv2d(x[::5], kernel))
    np.testing.assert_array_equal(ring.sum_pool(x, (2, 2), (2, 2))[::5], ring.sum_pool(x[::5], (2, 2), (2, 2)))


def test_accumulating_without_an_output_starts_from_zero():
    a = words(3, 3)
    np.testing.assert_array_equal(ring.matmul(a, a, accumulate=True), a @ a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ring.matmul(words(2, 3), words(2, 3)), r"a has shape \(2, 3\) and b \(2, 3\)"),
        (lambda: ring.matmul(words(2, 3).view(np.int64), words(3, 2)), r"a is int64 of shape \(2, 3\): uint64 with 2 axes"),
        (lambda: ring.matmul(words(2, 3), words(3)), r"b is uint64 of shape \(3,\)"),
        (lambda: ring.matmul(words(2, 3), words(3, 4), out=words(2, 3)), r"out is uint64 of shape \(2, 3\): .* \(2, 4\) is needed"),
        (lambda: ring.matmul(words(2, 3), words(3, 4), out=words(4, 2).T), "C-contiguous"),
        (lambda: ring.matmul(*[same := words(2, 2), same], out=same), "shares memory"),
        (lambda: ring.conv2d(words(1, 3, 3, 4), words(2, 2, 3, 4)), "there are 1 groups"),
        (lambda: ring.conv2d(words(1, 3, 3, 4), words(2, 2, 2, 3), groups=2), "there are 2 groups"),
        (lambda: ring.conv2d(words(1, 3, 3, 4), words(4, 2, 4, 4)), r"no window of \(4, 2\)"),
        (lambda: ring.conv2d(words(1, 3, 3, 4), words(2, 2, 4, 4), strides=(0, 1)), r"strides are \(0, 1\)"),
        (lambda: ring.conv2d(words(3, 3, 4), words(2, 2, 4, 4)), "x is uint64 .* with 4 axes"),
        (lambda: ring.sum_pool(words(1, 3, 3, 4), (2, 0), (1, 1)), r"the window is \(2, 0\)"),
        (lambda: ring.sum_pool(words(1, 3, 3, 4), (4, 4), (1, 1)), r"no window of \(4, 4\)"),
        (lambda: ring.pad(words(1, 3, 3, 4), ((1, -1), (0, 0))), "at least 0"),
    ],
)
def test_refusals_say_what_was_given_and_what_is_needed(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_without_numba_the_plain_kernels_run_and_say_so_once():
    script = """
import sys, warnings
sys.modules["numba"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from protocols.mpc import kernels; from protocols.mpc.numbers import ring
assert not kernels.COMPILED and kernels.matmul.__module__ == "protocols.mpc.kernels.reference"
assert [w.category for w in caught] == [RuntimeWarning] and "numba could not be imported" in str(caught[0].message)
import numpy as np
print(ring.matmul(np.full((1, 2), 2**63, np.uint64), np.full((2, 1), 3, np.uint64)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[[0]]", "")

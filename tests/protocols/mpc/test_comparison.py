"""The compiled comparison kernels against their numpy twins, for every shape of block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import ProgramError
from protocols.mpc.kernels import comparison as compiled
from protocols.mpc.kernels import reference_comparison as reference
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.material import packed

windows = st.integers(2, 57)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 130))


def stream(seed: int) -> KeyStream:
    return KeyStream(seed.to_bytes(16, "little"))


def same(name: str, *arguments: object, writes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Runs both versions on copies, asserts that they write the same, and returns what they wrote."""
    both = []
    for module in (compiled, reference):
        copies = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        getattr(module, name)(*copies)
        both.append([copies[i] for i in writes])
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return tuple(both[0])


@settings(max_examples=60)
@given(windows, sizes, st.integers(0, 1), st.integers(0, 6), st.integers(0, 2**32))
def test_every_kernel_equals_its_reference(window, size, party, drop, seed):
    (examples, elements), words, blocks, key = size, packed(size[1]), blocks_for(window), stream(seed)
    x = key.words((examples, elements))
    (planes,) = same("bit_planes", x, drop, np.zeros((examples, window, words), np.uint64), writes=(2,))
    (bits,) = same("deal_blocks", planes, blocks.table, key.words((examples, blocks.monomials, words)), writes=(2,))
    mu = key.words((examples, blocks.opened, words))
    opened, last = np.zeros_like(mu), np.zeros((examples, words), np.uint64)
    opened, last = same("block_shares", planes, bits, mu, blocks.table, party, opened, last, writes=(5, 6))
    (node,) = same("deal_node", mu, blocks.count, key.words((examples, blocks.products, words)), writes=(2,))
    same("node_shares", opened, mu, node, blocks.count, party, last, writes=(5,))


@settings(max_examples=40)
@given(st.integers(0, 40), sizes, st.integers(0, 1), st.tuples(*[st.integers(-(2**31), 2**31)] * 3), st.integers(0, 2**32))
def test_selection_equals_its_reference(drop, size, party, setting, seed):
    (examples, elements), key = size, stream(seed)
    c, rho = key.words((examples, elements)), key.words((examples, packed(elements)))
    (dealt,) = same("deal_selection", c, rho, drop, key.words((examples, 5, elements)), writes=(3,))
    same("selection", c, rho, dealt, np.array([drop, 20, *setting], np.int64), party, np.zeros_like(c), writes=(5,))


@settings(max_examples=40)
@given(st.integers(0, 40), sizes, st.integers(1, 5), st.integers(0, 1), st.integers(0, 2**32))
def test_piecewise_equals_its_reference(drop, size, knots, party, seed):
    (examples, elements), key = size, stream(seed)
    c, rho = key.words((examples, elements)), key.words((examples, packed(knots * elements)))
    mask, choice = key.words((examples, 2, elements)), key.words((examples, knots, 3, elements))
    mask, choice = same("deal_piecewise", c, rho, drop, mask, choice, writes=(3, 4))
    pieces = key.words((1 + knots, 3))
    same("piecewise", c, rho, mask, choice, pieces, np.array([drop, 20], np.int64), party, np.zeros_like(c), writes=(7,))


def test_a_cut_covers_the_window_and_the_default_window_is_cheap():
    for window in range(2, 66):
        assert sum(blocks_for(window).sizes) == window - 1
    cut = blocks_for(24)
    assert (cut.opened, cut.dealt) == (8, 161)


def test_a_window_that_is_too_wide_is_refused():
    with pytest.raises(ProgramError, match="at most 65 bits"):
        blocks_for(66)

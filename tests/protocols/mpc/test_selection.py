"""Truncation, sign and selection: exact against integers at random and at the edges, and nothing but uniform values on the wire."""

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment import Deployment
from protocols.mpc.operations.bits.blocks import blocks_for
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.truncation import Truncate
from protocols.mpc.operations.wires import AsShare, Input
from protocols.mpc.parties.material import packed
from protocols.mpc.parties.simulator import PartyLost
from protocols.mpc.program import Program

CASES = [(13, 24), (10, 20), (20, 16), (0, 24), (1, 2), (13, 49), (38, 25), (0, 57)]


def program(op: type, elements: int, drop: int, window: int, **setting: int) -> Program:
    ops = (Input(), AsShare(0), op(1, drop, window, **setting))
    return Program(ops, (), (elements,), 1.0, (-1.0, 1.0), 1.0)


def limit(drop: int, window: int) -> int:
    return max(0, (1 << (drop + window - 1)) - (1 << (drop + 1)))


def edges(drop: int, window: int) -> list[int]:
    top = limit(drop, window)
    near = [0, 1, -1, 1 << drop, -(1 << drop), (1 << drop) - 1, top, -top, top - 1, 1 - top]
    return [z for z in near if abs(z) <= top]


def ring(values: list[int]) -> np.ndarray:
    return np.array([values], np.int64).view(np.uint64)


def check(z: np.ndarray, y: np.ndarray, drop: int, positive: int = 1, negative: int = 0, step: int = 0) -> None:
    """Each output comes from floor(z / 2^drop) or that plus one."""
    for value, result in zip(z.view(np.int64)[0].tolist(), y.view(np.int64)[0].tolist(), strict=True):
        rounded = {value >> drop} | ({(value >> drop) + 1} if value % (1 << drop) else set())
        expected = {positive * t + step if t >= 0 else negative * t for t in rounded}
        assert result in {((e + 2**63) % 2**64) - 2**63 for e in expected}


@pytest.mark.parametrize(("drop", "window"), CASES)
def test_edges_of_the_window_are_exact(drop, window):
    z = ring(edges(drop, window))
    for salt in "abcdefgh":  # eight masks, so that wrap-around of c is met both ways
        for op in (Truncate, Select):
            y = Deployment(program(op, z.shape[1], drop, window), [], salt).output(z)
            check(z, y, drop, negative=int(op is Truncate))


def test_one_beyond_the_window_gives_wrong_signs():
    """The precondition is needed: just outside of it the sign position overflows."""
    drop, window = 4, 10
    z = ring([(1 << (drop + window - 1)) + 5] * 64)
    y = Deployment(program(Select, 64, drop, window), []).output(z)
    assert not np.array_equal(y >> np.uint64(0), z >> np.uint64(drop))


@settings(max_examples=40)
@given(st.data())
def test_selection_of_random_values(data):
    drop = data.draw(st.integers(0, 30))
    window = data.draw(st.integers(3, min(57, 62 - drop)))
    top = limit(drop, window)
    z = ring(data.draw(st.lists(st.integers(-top, top), min_size=1, max_size=80)))
    setting = {name: data.draw(st.integers(-5, 5)) for name in ("positive", "negative", "step")}
    y = Deployment(program(Select, z.shape[1], drop, window, **setting), [], str(data.draw(st.integers(0, 99)))).output(z)
    check(z, y, drop, **setting)


def test_rounding_is_unbiased():
    """The mean of 200,000 rounded values lies within five standard deviations of z / 2^drop."""
    n, drop = 200_000, 13
    z = np.full((1, n), (7 << drop) + 2500, np.int64).view(np.uint64)
    t = Deployment(program(Truncate, n, drop, 24), []).output(z).view(np.int64)
    p = 2500 / 2**drop
    assert abs(t.mean() - 7 - p) < 5 * np.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize(("drop", "window"), CASES)
def test_rounds_and_bytes(drop, window):
    elements = 64
    z = np.zeros((2, elements), np.uint64)
    blocks = blocks_for(window)
    selected = Deployment(program(Select, elements, drop, window), []).run(z)
    assert selected.rounds == (3 if blocks.opened else 2)
    per_example = elements * 8 + blocks.opened * packed(elements) * 8 + packed(elements) * 8
    assert selected.sent == {(0, 1): 2 * per_example, (1, 0): 2 * per_example}
    truncated = Deployment(program(Truncate, elements, drop, window), []).run(z)
    assert (truncated.rounds, truncated.sent[0, 1]) == (1, 2 * elements * 8)


def test_the_default_window_costs_73_bits_online():
    elements = 6400
    sent = Deployment(program(Select, elements, 13, 24), []).run(np.zeros((1, elements), np.uint64)).sent[0, 1]
    assert sent * 8 / elements == 73


class TestWhatAServerSees:
    """Opened values are uniform whatever the secret is: bit counts of two transcripts against the binomial law."""

    elements: ClassVar[int] = 64_000
    secrets: ClassVar[dict[str, int]] = {"zero": 0, "large": (1 << 35) + 12345, "negative": -(1 << 34)}

    @pytest.mark.parametrize("secret", secrets)
    @pytest.mark.parametrize("server", [0, 1])
    def test_every_bit_of_every_message_is_balanced(self, secret, server):
        z = np.full((1, self.elements), self.secrets[secret], np.int64).view(np.uint64)
        own_share = Deployment(program(Select, self.elements, 13, 24), [], secret).run(z)
        for words in own_share.seen_by(server):
            for bit in range(64):
                ones, total = int(((words.reshape(-1) >> np.uint64(bit)) & np.uint64(1)).sum()), words.size
                assert abs(ones - total / 2) < 7 * np.sqrt(total) / 2

    def test_opened_values_are_distributed_the_same_for_two_secrets(self):
        """Kolmogorov-Smirnov distance of c for two secrets: 1.95 sqrt(2 / n) is the 0.1 % level; the keys are fixed."""
        seen = {}
        for name, secret in self.secrets.items():
            z = np.full((1, self.elements), secret, np.int64).view(np.uint64)
            messages = Deployment(program(Select, self.elements, 13, 24), [], name).run(z).messages
            seen[name] = np.sort((messages[0][3][0] + messages[1][3][0]).reshape(-1).astype(np.float64))
        for other in ("large", "negative"):
            both = np.concatenate([seen["zero"], seen[other]])
            distance = (
                np.abs(np.searchsorted(seen["zero"], both, "right") - np.searchsorted(seen[other], both, "right")).max() / self.elements
            )
            assert distance < 1.95 * np.sqrt(2 / self.elements)


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_party_that_vanishes_is_named(lost):
    z = np.zeros((1, 5), np.uint64)
    with pytest.raises(PartyLost, match=f"from party 1 in round {lost}"):
        Deployment(program(Select, 5, 13, 24), []).run(z, drop=(1, lost))


@pytest.mark.parametrize("op", [Truncate, Select])
@pytest.mark.parametrize("drop", [10, 20])
def test_a_server_that_helps_a_client_learns_what_is_stated_of_the_bits_that_are_rounded_away(op, drop):
    """u = [Z mod 2^drop > c mod 2^drop] for each of 200 answers to one input: together they know it to 1 / 50 or better."""
    answers, value = 200, (5 << drop) + (1 << drop) // 3
    z = np.full((answers, 1), value, np.int64).view(np.uint64)
    transcript = Deployment(program(op, 1, drop, 20), []).run(z)
    t = (transcript.results[0] + transcript.results[1]).view(np.int64)[:, 0]
    (_, _, _, [first]), (_, _, _, [second]) = transcript.messages[:2]
    c = ((first + second) % np.uint64(1 << drop)).astype(np.int64)[:, 0]
    up = t - (value >> drop)
    assert set(up.tolist()) == {0, 1}
    np.testing.assert_array_equal(up == 1, value % (1 << drop) > c)
    known = c[up == 0].min() - c[up == 1].max()
    assert 1 / 1000 < known / (1 << drop) < 1 / 50
    assert abs(up.mean() - 1 / 3) < 4 * np.sqrt(2 / 9 / answers)  # all that a client alone sees

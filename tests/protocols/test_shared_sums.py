"""Sums over two servers, without a network: right, opened once, and a half says nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import AggregationError
from protocols.mpc.parties.exchange import Party
from protocols.mpc.parties.keystream import KeyStream
from protocols.mpc.parties.simulator import simulate
from protocols.quantisation import word_type
from protocols.secure_aggregation.shared_sums import WAITING, Half, SumTerms, agreed, halve, new_ticket

KEY = bytes(32)


def pair(length=5, scaled=3, word=64, cohort=2):
    terms = SumTerms(length, scaled, word, cohort)
    return Half(terms, KEY), Half(terms, KEY)


def vectors(n, length, word, seed=0):
    words = KeyStream(seed.to_bytes(16, "little")).words((n, length))
    return words.astype(word_type(word))


def handed_in(first, second, vector):
    ticket = new_ticket(KEY)
    part, seed = halve(vector)
    first.hold(ticket, part)
    second.hold(ticket, seed)
    return ticket


@given(st.integers(2, 7), st.integers(1, 40_000), st.sampled_from([32, 64]), st.data())
def test_the_sum_with_factors_for_the_first_elements(n, length, word, data):
    scaled = data.draw(st.integers(1, length))
    factors = data.draw(st.lists(st.integers(1, 256), min_size=n, max_size=n))
    first, second = pair(length, scaled, word)
    x = vectors(n, length, word)
    for vector, factor in zip(x, factors, strict=True):
        ticket = handed_in(first, second, vector)
        assert first.admit(ticket, factor)
        assert second.admit(ticket, factor)
    assert first.digest() == second.digest()
    expected = np.array(factors, dtype=object) @ x[:, :scaled].astype(object) % (1 << word)
    rest = x[:, scaled:].astype(object).sum(axis=0) % (1 << word)
    total = first.opened() + second.opened()
    assert total.tolist() == [*expected.tolist(), *np.atleast_1d(rest).tolist()]


def test_what_is_not_admitted_does_not_count_and_may_be_later():
    first, second = pair()
    x = vectors(4, 5, 64)
    tickets = [handed_in(first, second, row) for row in x]
    for ticket in tickets[:2]:
        first.admit(ticket, 1), second.admit(ticket, 1)
    np.testing.assert_array_equal(first.opened() + second.opened(), x[0] + x[1])
    for ticket in tickets[2:]:
        first.admit(ticket, 1), second.admit(ticket, 1)
    np.testing.assert_array_equal(first.opened() + second.opened(), x[2] + x[3])


def test_each_sum_is_opened_once_and_over_a_cohort():
    first, _ = pair()
    ticket = handed_in(*pair(), vectors(1, 5, 64)[0])
    first.hold(ticket, vectors(1, 5, 64)[0])
    first.admit(ticket, 1)
    with pytest.raises(AggregationError, match="1 vectors have been admitted, 2 are needed: nothing is opened"):
        first.opened()
    other = new_ticket(KEY)
    first.hold(other, vectors(1, 5, 64)[0])
    first.admit(other, 1)
    first.opened()
    with pytest.raises(AggregationError, match="0 vectors"):
        first.opened()


def test_the_digest_tells_other_sets_and_factors_apart():
    digests = set()
    for factors in ([1, 1], [1, 2], [2, 1]):
        half, _ = pair()
        for number, factor in enumerate(factors):
            ticket = new_ticket(KEY)
            half.hold(ticket, bytes(32))
            half.admit(ticket, factor)
            assert number < 2
        digests.add(half.digest())
    assert len(digests) == 3


def test_a_seed_whose_vector_is_missing_is_taken_back():
    first, second = pair()
    x = vectors(3, 5, 64)
    for row in x[:2]:
        ticket = handed_in(first, second, row)
        second.admit(ticket, 1), first.admit(ticket, 1)
    lonely = new_ticket(KEY)
    second.hold(lonely, bytes(32))
    second.admit(lonely, 1)
    assert not first.admit(lonely, 1)
    assert first.digest() != second.digest()
    second.expel(lonely)
    assert first.digest() == second.digest()
    np.testing.assert_array_equal(first.opened() + second.opened(), x[0] + x[1])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (bytes(31), "a seed of 31 bytes"),
        (np.zeros(4, np.uint64), r"a vector of \(4,\) uint64; \(5,\) uint64 is needed"),
        (np.zeros(5, np.uint32), r"a vector of \(5,\) uint32"),
    ],
)
def test_parts_of_another_form(part, message):
    half, _ = pair()
    with pytest.raises(AggregationError, match=message):
        half.hold(new_ticket(KEY), part)


def test_tickets_are_given_out_by_the_aggregator_and_used_once():
    half, _ = pair()
    for forged in (b"", bytes(48), new_ticket(bytes([1]) * 32)):
        with pytest.raises(AggregationError, match="has not given out"):
            half.hold(forged, bytes(32))
    ticket = new_ticket(KEY)
    half.hold(ticket, bytes(32))
    with pytest.raises(AggregationError, match="used before"):
        half.hold(ticket, bytes(32))
    half.admit(ticket, 1)
    half.discard()
    with pytest.raises(AggregationError, match="used before"):
        half.hold(ticket, bytes(32))


def test_what_waits_is_bounded():
    half, _ = pair()
    for _ in range(WAITING):
        half.hold(new_ticket(KEY), bytes(32))
    with pytest.raises(AggregationError, match="are waiting already"):
        half.hold(new_ticket(KEY), bytes(32))


@pytest.mark.parametrize("settings", [{"length": 0}, {"scaled": 6}, {"scaled": 0}, {"word": 16}, {"cohort": 1}])
def test_terms_that_make_no_sense(settings):
    with pytest.raises(AggregationError, match="are needed"):
        pair(**settings)


def test_a_factor_below_one():
    half, _ = pair()
    with pytest.raises(AggregationError, match="a factor of 0"):
        half.admit(new_ticket(KEY), 0)


@pytest.mark.parametrize(("most", "factor"), [(1, 2), (16, 17), (256, 257), (256, 1 << 30), (256, 1 << 63), (1, -1)])
def test_a_factor_above_what_was_agreed_on(most, factor):
    """With a large one the sum would show one vector above all others; neither server admits it."""
    terms = SumTerms(5, 3, 64, 2, most)
    halves = Half(terms, KEY), Half(terms, KEY)
    tickets = [handed_in(*halves, vector) for vector in vectors(2, 5, 64)]
    for half in halves:
        with pytest.raises(AggregationError, match=f"a factor of {factor}; from 1 to {most} was agreed on"):
            half.admit(tickets[0], factor)
        assert all(half.admit(ticket, most) for ticket in tickets)  # it waits still


@pytest.mark.parametrize("most", [0, 257, -1, 1 << 40])
def test_no_larger_factors_can_be_agreed_on(most):
    with pytest.raises(AggregationError, match="from 1 to 256 can be agreed on"):
        SumTerms(5, 3, 64, 2, most)


@pytest.mark.parametrize("word", [32, 64])
def test_the_half_with_the_vector_is_uniform_whatever_the_vector(word):
    for value in (0, 1, (1 << word) - 1):
        part, seed = halve(np.full(20_000, value, word_type(word)))
        assert len(seed) == 32
        bits = np.unpackbits(part.view(np.uint8).reshape(-1, word // 8), axis=1)
        assert np.abs(bits.mean(axis=0) - 0.5).max() < 7 * 0.5 / np.sqrt(20_000)


def test_servers_agree_in_one_round_on_the_same_vectors_and_on_no_others():
    first, second = pair()
    tickets = [handed_in(first, second, row) for row in vectors(3, 5, 64)]
    for ticket in tickets[:2]:
        first.admit(ticket, 1), second.admit(ticket, 1)
    both = simulate({party: agreed(Party(party), half) for party, half in enumerate((first, second))})
    assert (both.rounds, both.sent) == (1, {(0, 1): 32, (1, 0): 32})
    assert both.results == {0: first.digest(), 1: second.digest()}
    first.admit(tickets[2], 1)
    for order in ((0, 1), (1, 0)):
        with pytest.raises(AggregationError, match="do not sum the same vectors"):
            simulate({party: agreed(Party(party), (first, second)[party]) for party in order})
    second.admit(tickets[2], 2)  # the same vectors, another factor
    with pytest.raises(AggregationError, match="do not sum the same vectors"):
        simulate({party: agreed(Party(party), half) for party, half in enumerate((first, second))})

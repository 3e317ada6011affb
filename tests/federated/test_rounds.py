"""The state machine of a round: no network, no clock, no Keras."""

import itertools
import math

import numpy as np
import pytest

from federated import SettingError, Update, UpdateRejected
from federated.rounds.rounds import RoundBook, Standing

FIVE = ["a", "b", "c", "d", "e"]


def begun(sampled=FIVE, quorum=3, deadline=10.0):
    return RoundBook(4, sampled, quorum=quorum, weights=[np.zeros((2, 3), np.float32), np.zeros(3, np.float32)], deadline=deadline)


def update(**changes):
    fields = {"round": 4, "delta": [np.ones((2, 3), np.float32), np.ones(3, np.float32)], "examples": 5, "metrics": {"loss": 0.5}}
    return Update(**fields | changes)


def weights(first=None, value=1.0, dtype=np.float32):
    return [np.full((2, 3), value, dtype) if first is None else first, np.ones(3, np.float32)]


def test_all_report():
    book = begun()
    for name in FIVE:
        assert not book.over
        book.report(name, update(), now=1.0)
    assert book.over
    assert book.failure is None
    assert book.having(Standing.REPORTED) == FIVE


ENDS = ["reports", "drops", "sends rubbish", "is late"]


def play(book, pattern):
    for name, end in zip(FIVE, pattern, strict=True):
        if end == "reports":
            book.report(name, update(), now=1.0)
        elif end == "drops":
            book.drop(name, "it is gone")
        elif end == "sends rubbish":
            with pytest.raises(UpdateRejected):
                book.report(name, update(examples=0), now=1.0)
    book.tick(10.0)


@pytest.mark.parametrize("quorum", [1, 3, 5])
def test_every_way_in_which_five_owners_can_end(quorum):
    for pattern in itertools.product(ENDS, repeat=5):
        book = begun(quorum=quorum)
        play(book, pattern)
        standings = zip(ENDS, (Standing.REPORTED, Standing.DROPPED, Standing.REJECTED, Standing.LATE), strict=True)
        for end, standing in standings:
            assert len(book.having(standing)) == pattern.count(end)
        assert book.over
        assert (book.failure is None) == (pattern.count("reports") >= quorum)
        assert set(book.reasons) == {name for name, end in zip(FIVE, pattern, strict=True) if end in ENDS[1:3]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"round": 3}, "of round 3, and it was asked in round 4"),
        ({"examples": 0}, "0 examples"),
        ({"examples": -5}, "-5 examples"),
        ({"delta": weights()[:1]}, r"its arrays are float32 \(2, 3\); expected float32 \(2, 3\), float32 \(3,\)"),
        ({"delta": weights(np.ones((3, 2), np.float32))}, r"float32 \(3, 2\)"),
        ({"delta": weights(dtype=np.float64)}, "float64"),
        ({"delta": weights(value=np.nan)}, "array 0 of its update is not finite"),
        ({"delta": weights(value=-np.inf)}, "array 0 of its update is not finite"),
        ({"metrics": {"loss": math.nan}}, "its loss is not finite"),
    ],
)
def test_an_update_that_does_not_count_is_named_and_costs_one_owner(changes, said):
    book = begun()
    with pytest.raises(UpdateRejected, match=f"b: .*{said}"):
        book.report("b", update(**changes), now=1.0)
    assert book.having(Standing.REJECTED) == ["b"]
    for name in "acde":
        book.report(name, update(), now=2.0)
    assert book.over
    assert book.failure is None
    assert len(book.refused) == 1


def test_one_nan_among_many_values():
    book, array = begun(), np.ones((2, 3), np.float32)
    array[1, 2] = np.nan
    with pytest.raises(UpdateRejected, match="not finite"):
        book.report("a", update(delta=weights(array)), now=1.0)


def test_values_whose_sum_could_overflow():
    book = RoundBook(4, ["a"], quorum=1, weights=[np.zeros(1)])
    with pytest.raises(UpdateRejected, match="larger than 1e"):
        book.report("a", update(delta=[np.array([1e101])]), now=1.0)


def test_a_second_update_is_refused_and_the_first_counts():
    book = begun()
    book.report("a", update(), now=1.0)
    with pytest.raises(UpdateRejected, match="a: it has reported in round 4 already"):
        book.report("a", update(), now=2.0)
    assert book.standing["a"] is Standing.REPORTED
    assert len(book.refused) == 1


def test_a_stranger_is_refused():
    book = begun()
    with pytest.raises(UpdateRejected, match="z: it was not asked in round 4"):
        book.report("z", update(), now=1.0)
    assert "z" not in book.standing


def test_an_update_after_the_deadline_is_late():
    book = begun()
    with pytest.raises(UpdateRejected, match="a: its update came after the deadline"):
        book.report("a", update(), now=10.0)
    assert book.having(Standing.LATE) == FIVE
    assert book.failure == "0 of 5 owners reported and 3 are needed (5 late)"


def test_it_is_over_as_soon_as_the_quorum_is_out_of_reach():
    book = begun()
    for name in "ab":
        book.drop(name, "gone")
    assert not book.over
    book.drop("c", "gone")
    assert book.over
    assert book.failure == "0 of 5 owners reported and 3 are needed (3 dropped)"


def test_one_who_has_reported_cannot_drop():
    book = begun()
    book.report("a", update(), now=1.0)
    book.drop("a", "the connection was lost")
    assert book.having(Standing.REPORTED) == ["a"]
    assert book.reasons == {}


@pytest.mark.parametrize("sampled", [[], ["a", "a"]])
def test_owners_have_to_differ(sampled):
    with pytest.raises(SettingError, match="at least one owner is needed, and each once"):
        begun(sampled)

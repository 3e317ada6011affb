"""What is kept of data and trainings: how arrays of several owners fit, rights, and which version is current."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment import key
from protocols.errors import Altered, InputError, UnknownData
from protocols.hosting import Addresses
from protocols.training.keeper import Version, _change
from protocols.training.kept import About, digest, joined, put_together, records, run_name, shows
from protocols.training.kept_versions import current, refreshed
from protocols.training.terms import Column
from protocols.vault import Label

IDS = records("abcd")


def column(name, rows=4, columns=2, content="numbers", ids=b""):
    return Column(name, (rows, columns), content, b"", ids)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_joined_columns_have_the_shape_of_joined_arrays(lengths, width):
    rows = [np.full((length, width), length, np.uint64) for length in lengths]
    below = joined([column(str(i), length, width) for i, length in enumerate(lengths)], 0, b"")
    np.testing.assert_array_equal(put_together(rows, 0), np.concatenate(rows))
    assert put_together(rows, 0).shape == below.shape
    sides = [row.T for row in rows]
    beside = joined([column(str(i), width, length) for i, length in enumerate(lengths)], 1, b"")
    assert put_together(sides, 1).shape == beside.shape


def test_labels_of_owners_who_know_fewer_classes():
    both = joined([column("a", 2, 3, "labels"), column("b", 1, 1, "labels")], 0, b"h")
    assert (both.shape, both.handle) == ((3, 3), b"h")
    np.testing.assert_array_equal(put_together([np.eye(3)[1:], np.ones((1, 1))], 0), [[0, 1, 0], [0, 0, 1], [1, 0, 0]])


def test_record_ids():
    assert joined([column("a", ids=IDS), column("b", ids=IDS)], 1, b"").records == IDS
    assert joined([column("a", ids=IDS)], 0, b"").records == IDS
    stacked = joined([column("a", ids=IDS), column("b", ids=records("wxyz"))], 0, b"").records
    assert stacked not in (IDS, b"", joined([column("b", ids=records("wxyz")), column("a", ids=IDS)], 0, b"").records)
    assert joined([column("a", ids=IDS), column("b")], 0, b"").records == b""
    assert records(["ab", "c"]) != records(["a", "bc"])
    assert records([1, 2]) == records(["1", "2"])
    for other in (records("abdc"), b""):
        with pytest.raises(InputError, match="record ids"):
            joined([column("a", ids=IDS), column("b", ids=other)], 1, b"")


def test_rights():
    assert shows(b"right", digest(b"right"))
    assert not shows(b"", digest(b"right"))
    assert digest(b"right") != b"right"
    assert run_name(b"right") != run_name(b"wrong")


def version(serial, tag):
    return Version(Label("data", "a", serial, key(tag)), About("server", b"", b""))


def test_the_newest_version_that_all_have_is_current():
    old, new, half, other = version(1, "old"), version(2, "new"), version(3, "half"), version(2, "other")
    for found in ([[old, new]] * 3, [[old, new, half], [old, new], [new]], [[new, half], [new, other], [new]]):
        chosen, following = current(found, "data")
        assert chosen == new
        assert following.serial == max(one.label.serial for versions in found for one in versions) + 1
    assert current([[old, half], [old, other]], "data")[0] == old
    with pytest.raises(UnknownData, match="do not all keep the same data"):
        current([[new], [other], [new]], "data")
    with pytest.raises(UnknownData, match="no data is kept"):
        current([[], [], []], "data")


def test_what_a_refresh_adds_changes_no_value():
    """m' - lambda' = m - lambda, the halves stay halves, and zero shares cancel."""
    masked = [_change(key("k"), "masked", (5, 2), party) for party in (0, 1)]
    halves = [_change(key("k"), "mask", (5, 2), party) for party in (0, 1)]
    np.testing.assert_array_equal(*masked)
    np.testing.assert_array_equal(halves, [_change(key("k"), name, (5, 2), 2) for name in ("mask0", "mask1")])
    np.testing.assert_array_equal(halves[0] + halves[1], masked[0])
    weights = [_change(key("k"), "kernel0", (5, 2), party) for party in (0, 1)]
    assert not (weights[0] + weights[1]).any()
    assert all(change.all() for change in (*masked, *halves, *weights))
    assert not (weights[0] == _change(key("k"), "bias0", (5, 2), 0)).any()


class Forgetful:
    """A keeper that answers a refresh, and notes what is committed."""

    def __init__(self, answer):
        self.answer, self.committed = answer, []

    async def refresh(self, *arguments):
        return self.answer

    async def commit(self, label, right, presence):
        self.committed.append(label)


SOMEWHERE = Addresses(("ws://julia:1", "ws://greg:1"), "ws://me:1")


@pytest.mark.parametrize("answers", [(b"1", b"1", b"2"), (b"1", b"2"), (b"1", b"1", b"1")])
async def test_a_refresh_counts_only_if_all_agree(answers):
    keeping = [Forgetful(answer) for answer in answers]
    old, new = version(1, "old").label, version(2, "new").label
    if len(set(answers)) == 1:
        await refreshed(SOMEWHERE, None, keeping, old, new, b"")
    else:
        with pytest.raises(Altered, match="the old ones stand"):
            await refreshed(SOMEWHERE, None, keeping, old, new, b"")
    assert [keeper.committed for keeper in keeping] == [[new] if len(set(answers)) == 1 else []] * len(keeping)

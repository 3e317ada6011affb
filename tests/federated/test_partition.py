"""Every example goes to exactly one owner, whatever the way of splitting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated import DataError, partition

WAYS = [{"by": "iid"}, {"by": "label"}, {"by": "quantity"}, {"by": "quantity", "alpha": 0.1}, {"alpha": 0.05}, {"alpha": 100.0}]


def labelled(n, classes=5):
    """The feature is the index of the example."""
    return np.arange(n)[:, None], np.arange(n) % classes


@pytest.mark.parametrize("way", WAYS, ids=str)
@given(n=st.integers(1, 60), data=st.data(), seed=st.integers(0, 100))
def test_every_example_once_and_nobody_empty(way, n, data, seed):
    owners = data.draw(st.integers(1, n))
    x, y = labelled(n)
    parts = partition(x, y, owners=owners, seed=seed, **way)
    assert len(parts) == owners
    assert sorted(np.concatenate([part.x for part in parts]).ravel()) == list(range(n))
    assert all(len(part.x) == len(part.y) > 0 and np.array_equal(part.x[:, 0] % 5, part.y) for part in parts)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_deterministic_by_seed(way):
    x, y = labelled(200)
    first, second, other = (partition(x, y, owners=7, seed=seed, **way) for seed in (1, 1, 2))
    assert all(np.array_equal(a.x, b.x) for a, b in zip(first, second, strict=True))
    assert any(not np.array_equal(a.x, b.x) for a, b in zip(first, other, strict=True))


def spread(parts):
    """How many labels an owner has, on average."""
    return np.mean([len(np.unique(part.y)) for part in parts])


def test_each_way_does_what_it_says():
    x, y = labelled(1000, 10)
    iid = partition(x, y, owners=10)
    assert {len(part.x) for part in iid} == {100}
    assert spread(iid) == 10
    assert spread(partition(x, y, owners=10, by="label")) <= 2
    assert spread(partition(x, y, owners=10, alpha=0.05)) < 5 < 9 < spread(partition(x, y, owners=10, alpha=100.0))
    sizes = sorted(len(part.x) for part in partition(x, y, owners=10, by="quantity"))
    assert sizes[-1] > 3 * sizes[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"owners": 0}, "among 0 owners: from 1 to 10"),
        ({"owners": 11}, "among 11 owners: from 1 to 10"),
        ({"owners": 2, "alpha": 0.0}, "alpha=0.0"),
        ({"owners": 2, "by": "dirichlet"}, "alpha=None"),
        ({"owners": 2, "by": "label", "alpha": 1.0}, "means nothing"),
        ({"owners": 2, "by": "colour"}, "by='colour'"),
    ],
)
def test_what_cannot_be_split(settings, said):
    with pytest.raises(DataError, match=said):
        partition(*labelled(10), **settings)


def test_arrays_that_do_not_fit_together():
    with pytest.raises(DataError, match="x has 3 examples and y has 4"):
        partition(np.zeros(3), np.zeros(4), owners=2)
    with pytest.raises(DataError, match=r"shape \(4, 2\)"):
        partition(np.zeros(4), np.zeros((4, 2)), owners=2, by="label")

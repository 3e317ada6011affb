"""What owners may send as states, and how states are hidden: without Keras."""

import numpy as np
import pytest

from federated import Hiding, OwnMasker, PlainMean, SecureAggregation, Update, UpdateHeldBack, UpdateRejected
from federated.consent.release import released
from federated.metrics.layout import LARGEST_STATES, StateLayout
from federated.metrics.limbs import LIMBS
from federated.rounds.gathering import Gathering
from federated.rounds.rounds import RoundBook
from federated.tasks.bounding import bounded, exceeds
from federated.tasks.update import Blueprint, Bound, LocalTraining, Task
from privacy import GaussianNoise

LAYOUT = StateLayout(("loss", "odd", "auc"), (2, 0, 3), (False, True, True, True, True))
TASK = Task(1, Blueprint("", ""), [np.zeros(3, np.float32)], LocalTraining(states=LAYOUT.sizes))
FINE = [-2.5, 4, 0, 3, 1]


def update(states=FINE, examples=4, dtype=np.float32, **metrics):
    return Update(1, [np.ones(3, np.float32)], examples, metrics, False, np.array(states, dtype))


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([1, 2, 3, 4], r"float32 \(4,\); expected float32 \(5,\)"),
        ([FINE], r"\(1, 5\)"),
        ([[]], r"\(1, 0\)"),
        (np.array(FINE, np.int64), "int64"),
        (np.array(FINE, complex), "complex128"),
        ([1, np.nan, 0, 0, 0], "its loss is not finite"),
        ([1, 2, 0, np.inf, 0], "its auc is not finite"),
        ([1, -2, 0, 0, 0], "its loss has counts below 0"),
        ([1, 2, 0, 0, -1e-3], "its auc has counts below 0"),
    ],
)
def test_states_that_cannot_be_are_refused_by_name(states, why):
    book = RoundBook(1, ["a", "b"], quorum=1, weights=TASK.weights, layout=LAYOUT)
    dtype = states.dtype if isinstance(states, np.ndarray) else np.float32
    with pytest.raises(UpdateRejected, match=why):
        book.report("a", update(states, dtype=dtype), now=0.0)
    book.report("b", update(), now=0.0)
    assert list(book.reasons) == ["a"]


@pytest.mark.parametrize("states", [FINE, []])
def test_states_that_can_be_count(states):
    RoundBook(1, ["a"], quorum=1, weights=TASK.weights, layout=LAYOUT).report("a", update(states), now=0.0)
    RoundBook(1, ["a"], quorum=1, weights=TASK.weights, layout=LAYOUT).report("a", update(states, dtype=np.float64), now=0.0)


def test_states_that_nobody_asked_for_are_refused():
    with pytest.raises(UpdateRejected, match=r"expected float32 \(0,\)"):
        RoundBook(1, ["a"], quorum=1, weights=TASK.weights).report("a", update(), now=0.0)


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31m", "x" * 201])
def test_names_of_metrics_are_words(name):
    with pytest.raises(UpdateRejected, match="a name of its metrics is not printable"):
        RoundBook(1, ["a"], quorum=1, weights=TASK.weights).report("a", update([], **{name: 1.0}), now=0.0)


@pytest.mark.parametrize(
    "training",
    [
        LocalTraining(states=(2,), bound=Bound(1.0)),
        LocalTraining(states=(2,), bound=Bound(1.0, counts=True)),
        LocalTraining(states=(2,), noise_multiplier=1.0, max_grad_norm=1.0, rate=0.1),
        LocalTraining(states=(-1, 2)),
        LocalTraining(states=(LARGEST_STATES, 1)),
        LocalTraining(rounds=-1),
        LocalTraining(rounds=1 << 31),
    ],
)
def test_what_an_owner_is_not_asked_for(training):
    """States have no noise: not together with what protects an update."""
    with pytest.raises(UpdateHeldBack):
        released(training)


def test_a_bounded_update_has_none():
    assert bounded(update(), Bound(1.0), GaussianNoise()).states.size == 0
    assert exceeds(Update(1, [np.zeros(3, np.float32)], 1, {}, False, np.array(FINE)), Bound(1.0))


# Hidden sums.


class Owner:
    def __init__(self, number, states, examples):
        self.name, self._update = f"owner-{number}", update(states, examples)
        self._masker = OwnMasker(self.train)

    async def train(self, task):
        return self._update

    async def evaluate(self, task):
        raise AssertionError

    async def masker(self):
        return self._masker


def gathering(owners):
    book = RoundBook(1, [owner.name for owner in owners], quorum=1, weights=TASK.weights, layout=LAYOUT)
    return Gathering(book, {owner.name: owner for owner in owners}, TASK, progress=lambda _: None)


@pytest.mark.parametrize("aggregation", [PlainMean(), SecureAggregation(), SecureAggregation(most_examples=1000, clip=1.0)], ids=repr)
async def test_sums_are_those_of_the_states(aggregation):
    rng = np.random.default_rng(2)
    counts = [5, 1000, 1]
    states = [[rng.normal() * 900 * n, n, 0, rng.integers(0, n + 1), 1e5 * n] for n in counts]
    found = await aggregation.gather(gathering([Owner(*one) for one in zip(range(3), states, counts, strict=True)]), single_updates=False)
    exact = np.sum([np.array(one, np.float32).astype(np.float64) for one in states], axis=0)
    np.testing.assert_allclose(found.states, exact, rtol=1e-12, atol=1e-4)
    assert found.examples == 1006


async def test_bytes_of_states_are_few():
    asked = gathering([Owner(i, FINE, 4) for i in range(3)])
    await PlainMean().gather(asked, single_updates=False)
    assert asked.bytes == 3 * (12 + 12 + 5 * 4)


@pytest.mark.parametrize("states", [[np.nan, 1, 0, 0, 0], [1, 1, 0, np.inf, 0], [5e12, 1, 0, 0, 0]])
async def test_an_owner_whose_states_do_not_fit_costs_itself_only(states):
    owners = [*(Owner(i, FINE, 4) for i in range(3)), Owner(3, states, 4)]
    asked = gathering(owners)
    found = await SecureAggregation(threshold=0.5).gather(asked, single_updates=False)
    np.testing.assert_allclose(found.states, 3 * np.array(FINE), atol=1e-6)
    assert list(asked.book.reasons) == ["owner-3"]
    assert "the state of a metric, or of the loss, is not finite, or above" in asked.book.reasons["owner-3"]


async def test_those_who_tell_none_or_others_are_named():
    owners = [*(Owner(i, FINE, 4) for i in range(4)), Owner(4, [], 4), Owner(5, [1, 2], 4)]
    asked = gathering(owners)
    found = await SecureAggregation(threshold=0.5).gather(asked, single_updates=False)
    np.testing.assert_allclose(found.states, 4 * np.array(FINE), atol=1e-6)
    assert set(asked.book.reasons) == {"owner-4", "owner-5"}
    assert "have 2 values; expected 5" in asked.book.reasons["owner-5"]


async def test_a_sum_with_counts_below_zero_is_refused():
    """What nobody sees in one vector shows in the sum, if it is absurd: then the round fails."""
    asked = gathering([*(Owner(i, FINE, 4) for i in range(3)), Owner(3, [0, -1e6, 0, 0, 0], 4)])
    assert await SecureAggregation().gather(asked, single_updates=False) is None
    assert all("states of metrics" in reason for reason in asked.book.reasons.values())


@pytest.mark.parametrize("value", [np.nan, 1e4, -np.inf])
def test_a_value_that_no_hidden_sum_holds_is_refused_by_name(value):
    with pytest.raises(UpdateHeldBack, match="the metric odd is not finite, or beyond"):
        Hiding(8.0, 100).check(update([], odd=value))


@pytest.mark.parametrize(
    ("clip", "most", "owners"), [(8.0, 1 << 20, 3), (8.0, 1 << 20, 1000), (8.0, 1, 100), (0.01, 1000, 50), (1e-6, 1 << 20, 3)]
)
def test_every_state_up_to_the_limit_is_exact_enough(clip, most, owners):
    hiding, rng = Hiding(clip, most), np.random.default_rng(0)
    scheme, limit = hiding.quantisation(owners), hiding._largest_state
    total, exact = np.zeros(LIMBS * 40 + 1, np.uint32 if scheme.word == 32 else np.uint64), np.zeros(40)
    examples = [1, most, *rng.integers(1, most + 1, owners - 2)]
    for n in examples:
        states = rng.choice([-1, 1], 40) * n * limit ** rng.uniform(-1, 1, 40)
        states[:4] = [n * limit, -n * limit, n, 0.0]
        hiding.check(Update(1, [], int(n), {}, False, states))
        total += scheme.encode(hiding.split(states, int(n), owners), int(n))
        exact += states
    np.testing.assert_allclose(hiding.joined(total[:-1], owners), exact, rtol=1e-9, atol=0.02 * owners + 1e-6 * sum(examples))
    scheme.check(total, owners)

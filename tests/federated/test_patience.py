"""Rounds that do not wait: for stragglers, for who is not there, for evaluations that nobody needs each time."""

import asyncio

import numpy as np
import pytest

from federated import (
    CentralGaussian,
    Evaluation,
    FedAvg,
    FedBuff,
    Federation,
    PlainMean,
    SecureAggregation,
    SettingError,
    Trained,
    Update,
    simulated_owners,
)
from federated.owners.masker import OwnMasker
from federated.runs.drawing import Waiting

START = [np.zeros(2, np.float32)]
OWNERS = 10


class Owner:
    """Answers at once, or never."""

    def __init__(self, name, frozen=False):
        self.name, self._frozen, self.asked, self.evaluated = name, frozen, 0, 0
        self._masker = OwnMasker(self.train)

    async def train(self, task):
        self.asked += 1
        if self._frozen:
            await asyncio.Event().wait()
        return Update(task.round, [np.full(2, 1.0, np.float32)], 1, {}, evaluates=True)

    async def masker(self):
        return self._masker

    async def evaluate(self, task):
        self.evaluated += 1
        return Evaluation(task.round, 1, {"error": 0.0})


def owners(*frozen, count=OWNERS):
    return [Owner(f"owner-{i}", i in frozen) for i in range(count)]


def federation(given, **settings):
    return Federation(**{"model": START, "owners": given, "progress": False, "deadline": None} | settings)


async def played(rounds, given, **settings):
    async with federation(given, **settings) as run:
        return [outcome async for outcome in run.rounds(rounds)]


@pytest.mark.parametrize("aggregation", [PlainMean(), SecureAggregation()], ids=lambda one: type(one).__name__)
async def test_a_frozen_owner_does_not_hold_the_round_though_there_is_no_deadline(aggregation):
    async with asyncio.timeout(60):
        outcomes = await played(2, owners(4), enough=0.9, aggregation=aggregation)
    assert [(outcome.failure, len(outcome.reported), outcome.late) for outcome in outcomes] == [(None, 9, ("owner-4",))] * 2


async def test_without_it_the_round_lasts_as_long_as_its_deadline():
    (outcome,) = await played(1, owners(4), deadline=0.2)
    assert (outcome.late, len(outcome.reported)) == (("owner-4",), 9)


async def test_more_are_asked_than_are_wanted_and_the_first_count():
    given = owners(0, 1)
    async with asyncio.timeout(60):
        outcomes = await played(5, given, strategy=FedAvg(fraction=0.5), oversample=1.5)
    for outcome in outcomes:
        assert (len(outcome.sampled), len(outcome.reported), outcome.failure) == (8, 5, None)  # 1.5 times 5, rounded up
        assert len(outcome.late) == 3
    assert len({outcome.sampled for outcome in outcomes}) == 5  # in another order each round
    assert len({name for outcome in outcomes for name in outcome.reported}) == 8  # not always the same who are first


async def test_who_is_first_in_a_simulation_is_a_function_of_the_seed():
    class Same:
        def __init__(self, data):
            pass

        def train(self, weights, config, state):
            return Trained([np.ones(2)], examples=1)

    runs = [
        await played(3, simulated_owners([0] * 8, trainer=Same), strategy=FedAvg(fraction=0.5), oversample=2.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    reported = [[outcome.reported for outcome in run] for run in runs]
    assert reported[0] == reported[1] != reported[2]
    assert all(len(each) == 4 for run in reported for each in run)


async def test_evaluation_every_few_rounds_by_some():
    given = owners()
    outcomes = await played(6, given, evaluate_every=3, evaluators=0.3)
    assert [len(outcome.evaluated) for outcome in outcomes] == [0, 0, 3, 0, 0, 3]
    assert ["val_error" in outcome.metrics for outcome in outcomes] == [False, False, True] * 2
    assert sum(one.evaluated for one in given) == 6
    assert outcomes[2].evaluators == outcomes[2].evaluated


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enough": 0.0}, "enough=0.0: it has to be"),
        ({"enough": 1.1}, "enough=1.1: it has to be"),
        ({"oversample": 0.5}, "oversample=0.5: it has to be"),
        ({"evaluate_every": 0}, "evaluate_every=0: it has to be"),
        ({"evaluators": 0.0}, "evaluators=0.0: it has to be"),
        ({"enough": 0.4, "quorum": 0.6}, "enough=0.4 and quorum=0.6"),
        ({"enough": 0.9, "strategy": FedBuff()}, "with FedBuff"),
        (
            {"oversample": 1.5, "privacy": CentralGaussian(clip_norm=1.0, noise_multiplier=1.0, max_epsilon=4.0, delta=1e-5)},
            "oversample= with CentralGaussian",
        ),
    ],
)
def test_what_does_not_go_together(settings, message):
    with pytest.raises(SettingError, match=message):
        federation(owners(count=20), **settings)


def test_a_round_waits_for_all_by_default():
    assert Waiting().waits_for_all

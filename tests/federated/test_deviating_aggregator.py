"""Secure aggregation with rosters against an aggregator that does what it likes: an owner refuses before anything is opened."""

import dataclasses

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors import ActorSystem
from federated import DataOwner, Federation, Hiding, OwnMasker, SecureAggregation, UpdateHeldBack
from federated.consent.admission import Policy
from federated.consent.served import Served
from federated.models import blueprint
from federated.owners.masker import agreement
from federated.rounds.gathering import Gathering
from federated.rounds.rounds import RoundBook, Standing
from federated.tasks.update import Blueprint, Bound, Evaluation, LocalTraining, Task, Update
from protocols.errors import AggregationError
from protocols.secure_aggregation import AggregationServer, terms
from protocols.secure_aggregation.session import usual_cohort, usual_degree

WEIGHTS = [np.zeros((2, 3), np.float32), np.zeros(4, np.float32)]
TASK = Task(1, Blueprint("", ""), WEIGHTS, LocalTraining(), "a run")
HIDING = Hiding(8.0, 100)
LENGTH = 10 + 1


class Crowd:
    """Owners that know each other; the aggregator is the test."""

    def __init__(self, n=5, **options):
        identities = [Ed25519PrivateKey.generate() for _ in range(n)]
        self.roster = [one.public_key().public_bytes_raw() for one in identities]
        self.trained = [[] for _ in range(n)]
        self.owners = [OwnMasker(self.training(i), identity=one, **({"roster": self.roster} | options)) for i, one in enumerate(identities)]

    def training(self, i):
        async def train(task):
            self.trained[i].append(task)
            return Update(task.round, [np.full_like(array, (1 + i) / 10) for array in task.weights], 40, {})

        return train

    async def session(self, who, tasks, *, hiding=None, of=None, label="x", **settings):
        """A session of the real protocol among `who`. What the aggregator chooses: tasks, hidings, terms."""
        hidings = hiding or [HIDING] * len(tasks)
        asked = zip(who, tasks, hidings, strict=True)
        prepared = [await self.owners[i].prepare(task, one) for i, task, one in asked]
        agreed = terms(
            label,
            [one.identity for one in prepared],
            LENGTH,
            word=HIDING.quantisation(len(who)).word,
            task=agreement(*(of or (tasks[0], hidings[0]))),
            commitments=[one.commitment for one in prepared],
            **settings,
        )
        server, some = AggregationServer(agreed), [self.owners[i] for i in who]
        advertised = server.advertisements([await one.advertise(p.ticket, agreed) for one, p in zip(some, prepared, strict=True)])
        sealed = server.shares([await one.share(agreed.identifier, advertised[k], server.nonces) for k, one in enumerate(some)])
        for k, one in enumerate(some):
            server.add(await one.mask(agreed.identifier, sealed[k]))
        alive = server.survivors()
        signed = server.confirmations([await one.confirm(agreed.identifier, alive) for one in some])
        return server.total([await one.unmask(agreed.identifier, signed[k]) for k, one in enumerate(some)])


async def test_a_session_that_follows_the_protocol():
    crowd = Crowd()
    total = await crowd.session(range(5), [TASK] * 5)
    np.testing.assert_allclose(HIDING.quantisation(5).mean(total), 0.3, atol=1e-6)


async def test_of_many_on_a_sparse_graph():
    crowd = Crowd(34)
    total = await crowd.session(range(34), [TASK] * 34)
    np.testing.assert_allclose(HIDING.quantisation(34).mean(total), np.mean(np.arange(1, 35)) / 10, atol=1e-6)


OTHER = {
    "learning_rate": dataclasses.replace(TASK, training=LocalTraining(learning_rate=0.0)),
    "epochs": dataclasses.replace(TASK, training=LocalTraining(epochs=2)),
    "bound": dataclasses.replace(TASK, training=LocalTraining(bound=Bound(1.0))),
    "weights": dataclasses.replace(TASK, weights=[WEIGHTS[0] + 1, WEIGHTS[1]]),
    "one weight": dataclasses.replace(TASK, weights=[WEIGHTS[0], np.array([0, 0, 0, 1e-30], np.float32)]),
    "blueprint": dataclasses.replace(TASK, blueprint=Blueprint("", "{}")),
    "round": dataclasses.replace(TASK, round=2),
    "run": dataclasses.replace(TASK, run="another"),
}


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("told", [True, False])
async def test_owners_are_not_summed_with_owners_who_were_asked_something_else(name, told):
    """Else all but one could be asked for nothing. The terms say the task of the one, or that of the others."""
    of = TASK if told else OTHER[name]
    with pytest.raises(AggregationError, match="about another task than this owner was given"):
        await Crowd().session(range(5), [TASK] + [OTHER[name]] * 4, of=(of, HIDING))


@pytest.mark.parametrize("other", [Hiding(4.0, 100), Hiding(8.0, 50), Hiding(8.0, 100, 2)])
async def test_nor_with_owners_whose_integers_mean_something_else(other):
    """Else the update of one would be in digits that the others' do not reach."""
    with pytest.raises(AggregationError, match="about another task"):
        await Crowd().session(range(5), [TASK] * 5, hiding=[HIDING] + [other] * 4)


async def test_terms_that_differ_between_owners_do_not_get_to_the_masks():
    crowd = Crowd()
    prepared = [await one.prepare(TASK, HIDING) for one in crowd.owners]
    common = {"word": HIDING.quantisation(5).word, "task": agreement(TASK, HIDING)}
    first, second = (terms(label, crowd.roster, LENGTH, **common) for label in ("one", "two"))
    sent = [await one.advertise(p.ticket, first if i else second) for i, (one, p) in enumerate(zip(crowd.owners, prepared, strict=True))]
    with pytest.raises(AggregationError, match="is forged, or of another session"):
        await crowd.owners[0].share(second.identifier, sent[1:])


@pytest.mark.parametrize("who", [[1, 2, 3, 4], [0, 1, 2, 3, 4]])
async def test_a_round_is_served_once(who):
    """Two sums, with and without one owner, would show its update."""
    crowd = Crowd()
    await crowd.session(range(5), [TASK] * 5)
    with pytest.raises(AggregationError, match="round 1 of this run was served before"):
        await crowd.session(who, [TASK] * len(who), label="again")
    assert [len(some) for some in crowd.trained] == [1] * 5


async def test_also_by_an_owner_that_was_restarted(tmp_path):
    record, key = tmp_path / "record", Ed25519PrivateKey.generate()

    async def train(task):
        return Update(task.round, task.weights, 1, {})

    def started():
        return OwnMasker(train, identity=key, roster=[], served=Served(record))

    await started().prepare(TASK, HIDING)
    with pytest.raises(AggregationError, match="served before"):
        await started().prepare(TASK, HIDING)
    record.write_text(record.read_text() + '["round", 12')  # the process died while it wrote
    with pytest.raises(AggregationError, match="served before"):
        await started().prepare(TASK, HIDING)
    await started().prepare(dataclasses.replace(TASK, round=2), HIDING)
    with pytest.raises(AggregationError, match="round 2 of this run was served before"):
        await started().prepare(dataclasses.replace(TASK, round=2), HIDING)


@pytest.mark.parametrize(
    ("n", "who", "settings", "message"),
    [
        (5, 3, {"degree": 2, "cohort": 3}, "a cohort of 3: this owner hides among at least 4"),
        (5, 5, {"cohort": 3}, "a cohort of 3: this owner hides among at least 4"),
        (5, 5, {"degree": 2}, "degree 2 among 5 owners: this owner masks with at least 4"),
        (40, 40, {"degree": 20}, "degree 20 among 40 owners: this owner masks with at least 22"),
        (40, 26, {}, "a cohort of 18: this owner hides among at least 27"),
    ],
)
async def test_cohorts_and_degrees_below_an_owners_own_rule(n, who, settings, message):
    assert (usual_cohort(5), usual_degree(40), usual_cohort(40)) == (4, 22, 27)
    with pytest.raises(AggregationError, match=message):
        await Crowd(n).session(range(who), [TASK] * who, **settings)


async def test_an_owner_can_choose_a_smaller_cohort_itself():
    await Crowd(least=3).session(range(3), [TASK] * 3, cohort=3)


@pytest.mark.parametrize(("stddev", "enough"), [(0.4, False), (0.499, False), (0.5001, True)])
async def test_the_share_of_noise_is_compared_with_the_cohort_that_is_signed(stddev, enough):
    """s^2 n' >= (z S)^2: told that a thousand take part, an owner would add a part that is too small for four."""
    noisy = dataclasses.replace(TASK, training=LocalTraining(bound=Bound(1.0, stddev, 2.0**-20)))
    crowd = Crowd(policy=Policy(noise=1.0))
    if enough:
        await crowd.session(range(5), [noisy] * 5, cohort=4)
        return
    with pytest.raises(AggregationError, match="this owner's policy forbids sums over 4 owners with less noise of theirs than 1 times"):
        await crowd.session(range(5), [noisy] * 5, cohort=4)


async def test_an_owner_with_a_roster_gives_nothing_in_any_other_way(build, examples):
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, examples, roster=[bytes(32)])
        model = build()
        task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining())
        with pytest.raises(UpdateHeldBack, match="its updates leave it by secure aggregation"):
            await owner.train(task)
        assert (await owner.prepare(task, HIDING)).evaluates is False


# The aggregator that follows the protocol, with owners that know each other.


class Neighbour:
    def __init__(self, name, own):
        self.name, self.own = name, own

    async def train(self, task):
        raise NotImplementedError

    async def masker(self):
        return self.own

    async def evaluate(self, task):
        return Evaluation(task.round, 0, {})


@pytest.mark.parametrize("n", [5, 34])
async def test_rounds_of_owners_with_rosters(n):
    crowd = Crowd(n)
    owners = {f"owner-{i}": Neighbour(f"owner-{i}", own) for i, own in enumerate(crowd.owners)}
    aggregation = SecureAggregation(threshold=0.7, most_examples=100)
    for number in (1, 2):
        book = RoundBook(number, list(owners), quorum=1, weights=WEIGHTS)
        task = dataclasses.replace(TASK, round=number)
        gathering = Gathering(book, owners, task, progress=lambda _: None)
        aggregate = await aggregation.gather(gathering, single_updates=False)
        np.testing.assert_allclose(aggregate.delta[0], np.mean(np.arange(1, n + 1)) / 10, atol=1e-6)
        assert len(book.having(Standing.REPORTED)) == n
        assert book.faults == {}


@pytest.mark.parametrize("n", [5, 34])
async def test_an_owner_that_leaves_before_its_keys_costs_itself_only(n):
    """On a sparse graph another order is needed then, from nonces that were not revealed."""
    crowd = Crowd(n)

    async def gone(*_):
        raise OSError("gone")

    crowd.owners[2].advertise = gone
    owners = {f"owner-{i}": Neighbour(f"owner-{i}", own) for i, own in enumerate(crowd.owners)}
    book = RoundBook(1, list(owners), quorum=1, weights=WEIGHTS)
    gathering = Gathering(book, owners, TASK, progress=lambda _: None)
    aggregate = await SecureAggregation(threshold=0.7, most_examples=100).gather(gathering, single_updates=False)
    np.testing.assert_allclose(aggregate.delta[0], (np.arange(1, n + 1).sum() - 3) / (n - 1) / 10, atol=1e-6)
    assert book.having(Standing.DROPPED) == ["owner-2"]


async def test_an_owner_that_alters_shares_is_in_the_outcome(build, examples):
    from federated import simulated_owners

    owners = simulated_owners([examples] * 5)
    own = await owners[3].masker()
    true = own.unmask

    async def lie(session, confirmations):
        opened = await true(session, confirmations)
        return msgspec.structs.replace(opened, own_masks={v: share + np.uint64(1) for v, share in opened.own_masks.items()})

    own.unmask = lie
    async with Federation(model=build, owners=owners, aggregation=SecureAggregation(), progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.failure is None
    assert len(outcome.reported) == 5
    assert set(outcome.faults) == {"owner-3"}
    assert "5 of 5 owners, 1 at fault" in str(outcome)


async def test_the_same_under_another_name_without_one_owner_ends_where_a_cohort_is_all_of_the_roster():
    """A run is what the aggregator calls it: with smaller cohorts the difference of the two sums is the update of that owner."""
    for least, ends in ((None, False), (6, True)):
        crowd = Crowd(6, least=least)
        everybody = await crowd.session(range(6), [TASK] * 6, cohort=6)
        again, others = [dataclasses.replace(TASK, run="another")] * 5, HIDING.quantisation(5)
        if ends:
            with pytest.raises(AggregationError, match="this owner hides among at least 6"):
                await crowd.session(range(5), again, of=(again[0], HIDING), label="y")
        else:  # what SECURITY.md says: nothing is claimed
            rest, scheme = await crowd.session(range(5), again, of=(again[0], HIDING), label="y"), HIDING.quantisation(6)
            summed = scheme.mean(everybody) * scheme.weight(everybody) - others.mean(rest) * others.weight(rest)
            np.testing.assert_allclose(summed / 40, 0.6, atol=1e-5)

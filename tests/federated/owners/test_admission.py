"""What an owner agrees to: what leaves it has the event that its ledger was charged, and its policy holds for whoever asks."""

import dataclasses
import itertools
import math
import re

import keras
import numpy as np
import pytest

from actors import ActorSystem, Caller, NotAllowed
from federated import (
    DataOwner,
    FedAvg,
    Federation,
    Hiding,
    ModelRefused,
    OwnerFailed,
    Policy,
    SettingError,
    UpdateHeldBack,
    blueprint_digest,
)
from federated.consent.release import Work, reach, released
from federated.consent.served import Served
from federated.machines import certificates
from federated.models import blueprint, steps
from federated.owners.giver import Drop
from federated.owners.training import Trainer
from federated.records.data import Data
from federated.tasks.update import Blueprint, Bound, LocalTraining, Task
from privacy import Ledger
from protocols.workers.sum_server import SumServer

DPSGD = {"noise_multiplier": 100.0, "max_grad_norm": 1.0, "rate": 0.1}
NOISE = Bound(0.005, 5.0, 2.0**-20)


def linear():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def task(training=None, model=None, number=1):
    plan = blueprint.draw(model or linear())
    return Task(number, plan, [np.zeros((6, 1), np.float32), np.zeros(1, np.float32)], training or LocalTraining(), "a run")


def records(odd=(1, 2, 3, 4, 5, 6), label=1.0, n=1000):
    """Zeros, but for one record."""
    x, y = np.zeros((n, 6), np.float32), np.zeros((n, 1), np.float32)
    x[17], y[17] = odd, label
    return x, y


def ledger(tmp_path, unit="example", **settings):
    return Ledger(tmp_path / f"ledger-{unit}", data="ward", unit=unit, **{"max_epsilon": 5.0, "delta": 1e-5} | settings)


async def asked(training, book, data=None, evaluation=None, **options):
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, data or records(), evaluation, ledger=book, **options)
        return await owner.train(task(training))


# Ledgers: what they are charged is what leaves.


@pytest.mark.parametrize("batch_size", [None, 1, 32])
async def test_an_exact_gradient_is_not_charged_as_dp_sgd(tmp_path, batch_size):
    book = ledger(tmp_path)
    with pytest.raises(UpdateHeldBack, match="a gradient with noise_multiplier"):
        await asked(LocalTraining(gradient=True, batch_size=batch_size, **DPSGD), book)
    assert book.releases == ()


async def test_metrics_do_not_leave_past_a_ledger(tmp_path):
    book = ledger(tmp_path)
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, records(), records(), ledger=book)
        with pytest.raises(UpdateHeldBack, match="tells no metrics"):
            await owner.evaluate(task())
        update = await owner.train(task(LocalTraining(**DPSGD)))
        assert (update.metrics, update.evaluates) == ({}, False)
        prepared = await owner.prepare(task(LocalTraining(**DPSGD), number=2), Hiding(8.0, 1000))
        assert (prepared.metrics, prepared.evaluates) == ((), False)
    assert len(book.releases) == 2


async def test_whether_it_was_clipped_is_not_told_beside_the_noise(tmp_path):
    book = ledger(tmp_path, "owner")
    with pytest.raises(UpdateHeldBack, match="counts with noise"):
        await asked(LocalTraining(gradient=True, batch_size=None, bound=dataclasses.replace(NOISE, counts=True)), book)
    assert book.releases == ()


@pytest.mark.parametrize("step", [2.0**-8, 2.0**-10, 0.003, 0.0, -(2.0**-20), math.nan, math.inf])
async def test_a_step_that_would_move_the_norm_is_refused(tmp_path, step):
    """Rounding may change the norm by a quarter of the clip norm; a step is a power of two, so that float32 holds the sums."""
    book = ledger(tmp_path, "owner")
    with pytest.raises(UpdateHeldBack, match=r"a coarse step|a step that is out of range"):
        await asked(LocalTraining(bound=Bound(0.002, 5.0, step)), book)
    assert book.releases == ()


GRID = {
    "gradient": (False, True),
    "noise_multiplier": (0.0, 3.0),
    "rate": (0.0, 0.2),
    "max_grad_norm": (0.0, 1.0),
    "proximal": (0.0, 0.1),
    "epochs": (1, 2),
    "bound": (
        None,
        Bound(1.0),
        Bound(1.0, counts=True),
        Bound(1.0, 3.0, 2.0**-10),
        Bound(1.0, 3.0, 0.25),
        Bound(1.0, 3.0, 2.0**-10, counts=True),
    ),
}


class Silence:
    """Noise that is none, so that what is under it can be seen."""

    def discrete(self, shape, sigma):
        return np.zeros(shape)


@pytest.mark.parametrize("unit", ["example", "owner"])
@pytest.mark.sample(1)
async def test_all_combinations_of_settings(tmp_path, monkeypatch, unit):
    """What leaves is charged at least what it is worth, for data sets as far apart as they come, or is refused and costs nothing."""
    combinations = [
        LocalTraining(batch_size=None, learning_rate=1.0, **dict(zip(GRID, one, strict=True))) for one in itertools.product(*GRID.values())
    ]
    monkeypatch.setattr("federated.owners.training.GaussianNoise", Silence)
    far = records((60, 0, 0, 0, 0, 0), 100.0, n=20), records((60, 0, 0, 0, 0, 0), -100.0, n=20)
    plan, charged = task(), {Work.FIT: 0, Work.GRADIENT: 0, Work.DPSGD: 0}
    async with ActorSystem() as system:
        for number, training in enumerate(combinations):
            book = Ledger(tmp_path / f"{unit}-{number}", data="ward", unit=unit, max_epsilon=1e4, delta=1e-5, method="rdp")
            pair = [await system.spawn(DataOwner, data, data, ledger=book) for data in far]
            try:
                first = await pair[0].train(dataclasses.replace(plan, training=training))
            except UpdateHeldBack:
                assert book.releases == (), training
                continue
            ((event, count),) = book.events
            second = await pair[1].train(dataclasses.replace(plan, training=training))
            assert first.metrics == second.metrics == {}, training
            assert first.examples == second.examples
            charged[released(training).work] += 1
            if training.noise_multiplier:
                assert unit == "example"
                assert training.bound is None
                assert (event.event.noise_multiplier, event.sampling_probability, count) == (3.0, pytest.approx(0.2), 5 * training.epochs)
                continue
            assert unit == "owner"
            apart = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(first.delta, second.delta, strict=True)))
            assert apart > 1.9  # the neighbours are as far apart as they come
            assert apart / training.bound.stddev * event.noise_multiplier <= 1 + 1e-6
    assert (charged[Work.FIT] > 0 and charged[Work.GRADIENT] > 0) if unit == "owner" else charged[Work.DPSGD] > 0


async def test_what_is_charged_as_dp_sgd_is_trained_by_dp_sgd(tmp_path):
    """Without noise of the engine's the exact record would be in the update."""
    book = ledger(tmp_path)
    update = await asked(LocalTraining(**{**DPSGD, "noise_multiplier": 3.0, "rate": 0.5}, learning_rate=1.0), book)
    told = np.concatenate([array.ravel() for array in update.delta])
    assert np.abs(told).min() > 0  # noise in every value, and C / B would be the most without
    assert np.abs(told).max() < 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"epochs": 10**12},
        {"batch_size": 0},
        {"batch_size": -5},
        {"proximal": -1.0},
        {"proximal": math.nan},
        {"learning_rate": math.inf},
        {"learning_rate": -0.1},
        {"learning_rate": math.nan},
        {"seed": -1},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": -1.0},
        {"max_grad_norm": math.nan},
        {**DPSGD, "max_grad_norm": 0.0},
        {**DPSGD, "max_grad_norm": math.inf},
        {**DPSGD, "rate": 0.0},
        {**DPSGD, "rate": 1.5},
        {**DPSGD, "rate": math.nan},
        {"rate": 0.1},
        {"max_grad_norm": 1.0},
        {**DPSGD, "bound": Bound(1.0)},
        {**DPSGD, "bound": NOISE},
        {"gradient": True, "proximal": 0.1},
        {"gradient": True, "epochs": 2},
        {"bound": Bound(0.0)},
        {"bound": Bound(math.inf)},
        {"bound": Bound(math.nan)},
        {"bound": Bound(-1.0)},
        {"bound": Bound(1.0, math.nan, 2.0**-20)},
        {"bound": Bound(1.0, math.inf, 2.0**-20)},
        {"bound": Bound(1.0, -1.0, 2.0**-20)},
        {"bound": Bound(1.0, 1e-9, 2.0**-20)},
        {"bound": Bound(1.0, 0.0, 2.0**-20)},
    ],
)
@pytest.mark.sample(12)
async def test_settings_that_mean_nothing_are_refused_by_every_trainer(settings):
    trainer = Trainer()
    try:
        with pytest.raises(UpdateHeldBack, match="this owner was asked"):
            await trainer.train(task(LocalTraining(**settings)), Data(records()), evaluates=False)
    finally:
        await trainer.close()


@pytest.mark.parametrize(
    "change",
    [
        {"round": -1},
        {"round": 1 << 40},
        {"run": "x" * 1000},
        {"weights": [np.full((6, 1), np.nan, np.float32), np.zeros(1, np.float32)]},
        {"weights": [np.full((6, 1), np.inf, np.float32), np.zeros(1, np.float32)]},
        {"weights": [np.zeros((6, 1), np.int64), np.zeros(1, np.float32)]},
        {"weights": [np.zeros((6, 2), np.float32), np.zeros(1, np.float32)]},
        {"weights": [np.zeros((6, 1), np.float32)]},
        {"weights": []},
    ],
)
@pytest.mark.parametrize("message", ["train", "evaluate"])
async def test_tasks_that_mean_nothing(change, message):
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, records(), records())
        with pytest.raises(UpdateHeldBack):
            await getattr(owner, message)(dataclasses.replace(task(), **change))


# Policies.


def imprinting(bins=400, d=20):
    """A layer that many records leave a gradient of their own in (Fowl et al., ICLR 2022), and its weights."""
    model = keras.Sequential([keras.Input((d,)), keras.layers.Dense(bins, "relu"), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    edges = np.linspace(0.3, 0.7, bins).astype(np.float32)
    return model, [np.tile(np.ones((d, 1), np.float32) / d, (1, bins)), -edges, np.ones((bins, 1), np.float32)]


def robbed(update, data):
    """How many records are in an update word for word."""
    dw, db = (np.asarray(array, float) for array in update.delta[:2])
    step = np.diff(db)
    found = [np.diff(dw, axis=1)[:, i] / step[i] for i in range(len(step)) if abs(step[i]) > 1e-9]
    return sum(min(np.abs(one - row).max() for one in found) < 1e-3 for row in data)


async def test_of_fifty_records_none_comes_back():
    data = np.random.default_rng(1).uniform(0, 1, (50, 20)).astype(np.float32)
    model, weights = imprinting()
    whole = Task(1, blueprint.draw(model), weights, LocalTraining(gradient=True, batch_size=None))
    own = keras.Sequential([keras.Input((20,)), keras.layers.Dense(1)])
    own.compile("sgd", "mse")
    async with ActorSystem() as system:
        careless = await system.spawn(DataOwner, (data, np.zeros((50, 1), np.float32)))
        assert robbed(await careless.train(whole), data) > 40  # the attack is what it is meant to be
        for policy in (
            Policy(models=[own]),
            Policy(models=[blueprint_digest(own)]),
            Policy(noise=0.1),
            Policy(min_examples=51),
            Policy(min_batch=64),
            Policy(largest=1000),
        ):
            owner = await system.spawn(DataOwner, (data, np.zeros((50, 1), np.float32)), policy=policy)
            with pytest.raises(UpdateHeldBack, match="this owner's policy forbids"):
                await owner.train(whole)
            with pytest.raises(UpdateHeldBack, match="this owner's policy forbids"):
                await owner.prepare(whole, Hiding(8.0, 50))


async def test_what_a_policy_names_is_trained():
    async with ActorSystem() as system:
        policy = Policy(models=[linear()], min_batch=16, min_examples=1000, largest=7)
        owner = await system.spawn(DataOwner, records(), records(), policy=policy)
        keras.layers.Dense(1)  # Keras counts its names on
        assert (await owner.train(task(model=linear()))).examples == 1000
        other = linear()
        other.compile("sgd", "mae")
        for message in ("train", "evaluate"):
            with pytest.raises(UpdateHeldBack, match="models other than those"):
                await getattr(owner, message)(task(model=other))


def test_a_digest_is_that_of_the_model_and_not_of_its_names():
    def made(activation="relu", rate=0.1, name=None):
        inner = keras.layers.Dense(4, activation, name=name)
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
        model.compile(keras.optimizers.SGD(rate), "mse")
        return model

    same = {blueprint_digest(made()), blueprint_digest(made()), blueprint_digest(made(name="first")), blueprint_digest(made(name="relu"))}
    assert len(same) == 1
    others = [made("tanh"), made("tanh", name="tanh"), made(rate=0.2), linear()]
    assert len(same | {blueprint_digest(one) for one in others}) == 4
    with pytest.raises(ModelRefused, match="no JSON"):
        blueprint.digest(Blueprint("[" * 100_000, "{}"))


@pytest.mark.parametrize(
    ("training", "fits"),
    [
        (LocalTraining(**{**DPSGD, "noise_multiplier": 1.9}), False),
        (LocalTraining(**{**DPSGD, "noise_multiplier": 2.0}), True),
        (LocalTraining(bound=Bound(1.0)), False),
        (LocalTraining(bound=Bound(1.0, 1.9, 2.0**-20)), False),
        (LocalTraining(bound=Bound(1.0, 2.01, 2.0**-20)), True),
        (LocalTraining(), False),
        (LocalTraining(gradient=True), False),
    ],
)
async def test_the_least_noise(training, fits):
    assert reach(Bound(1.0, 2.0, 2.0**-20), 7) < 1.001
    if fits:
        assert (await asked(training, None, policy=Policy(noise=2.0))).delta
        return
    with pytest.raises(UpdateHeldBack, match="less noise of its own than 2 times their bound"):
        await asked(training, None, policy=Policy(noise=2.0))


async def test_hidden_updates_with_too_little_noise_in_their_training_are_refused_at_once():
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, records(), policy=Policy(noise=2.0))
        for training in (LocalTraining(), LocalTraining(bound=Bound(1.0)), LocalTraining(**{**DPSGD, "noise_multiplier": 1.0})):
            with pytest.raises(UpdateHeldBack, match="less noise"):
                await owner.prepare(task(training), Hiding(8.0, 1000))


@pytest.mark.parametrize("n", [50, 64, 65, 95])
async def test_no_step_is_over_fewer_examples_than_the_least(build, n, monkeypatch):
    """A remainder of one record, with a schedule that moves in its step only, would be that record."""
    seen = []
    trainer = Trainer(min_batch=32)
    x = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    model = build()
    try:
        one = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(batch_size=n - 1))
        await trainer.train(one, Data((x, np.zeros(n, int))), evaluates=False)
        true = steps.stepped
        monkeypatch.setattr(steps, "stepped", lambda model, some: seen.append(some.size) or true(model, some))
        for batch in (32, 33, n - 1):
            seen.clear()
            training = LocalTraining(batch_size=batch)
            await trainer.train(dataclasses.replace(one, training=training), Data((x, np.zeros(n, int))), evaluates=False)
            assert sum(seen) == n
            assert min(seen) >= 32
    finally:
        await trainer.close()


async def test_nor_are_those_of_a_data_set():
    import tensorflow as tf

    whole = tf.data.Dataset.from_tensor_slices(records(n=100))
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, whole.batch(32), policy=Policy(min_batch=32))
        with pytest.raises(UpdateHeldBack, match="its data set has such a batch: drop the remainder"):
            await owner.train(task())
        owner = await system.spawn(DataOwner, whole.batch(32, drop_remainder=True), policy=Policy(min_batch=32))
        assert (await owner.train(task())).examples == 96


async def test_rounds_in_all_and_a_day(tmp_path):
    record = tmp_path / "record"
    async with ActorSystem() as system:
        for _ in range(2):  # also after a restart
            owner = await system.spawn(DataOwner, records(), records(), policy=Policy(rounds=2, record=record))
            await owner.train(task())
            await owner.evaluate(task())
        for message in ("train", "evaluate"):
            with pytest.raises(UpdateHeldBack, match="allows 2 services of this kind, and they have been given"):
                await getattr(owner, message)(task(number=3))


def test_a_day_has_24_hours():
    now = [1000.0]
    served = Served(clock=lambda: now[0])
    for _ in range(3):
        served.count("training", "run", 1, in_all=None, a_day=3)
    with pytest.raises(UpdateHeldBack, match="allows 3 services of this kind a day"):
        served.count("training", "run", 1, in_all=None, a_day=3)
    served.count("evaluation", "run", 1, in_all=None, a_day=3)
    now[0] += 24 * 3600 + 1
    served.count("training", "run", 1, in_all=None, a_day=3)


def test_a_record_that_is_none(tmp_path):
    for text in ("nonsense\n", '{"a": 1}\n', '["round"]\n', '["round", 1.0, "run", 1]\nx\n'):
        (tmp_path / "record").write_text(text)
        with pytest.raises(UpdateHeldBack, match="is no record of what an owner has served"):
            Served(tmp_path / "record")


async def test_a_spent_budget_is_refused_before_training(tmp_path):
    book = ledger(tmp_path, max_epsilon=0.001)
    with pytest.raises(UpdateHeldBack, match="budget of this owner is spent"):
        await asked(LocalTraining(**{**DPSGD, "noise_multiplier": 1.0}), book)


async def test_without_metrics(build, examples):
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(DataOwner, examples, examples, policy=Policy(metrics=False), name="owner")
        owners = [f"{system.address}/owner"]
        async with Federation(model=build, owners=owners, strategy=FedAvg(), progress=False) as federation:
            (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.failure is None
    assert outcome.metrics == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"min_batch": 0},
        {"min_examples": 0},
        {"noise": -1.0},
        {"noise": math.nan},
        {"noise": math.inf},
        {"rounds": 0},
        {"rounds_a_day": 0},
        {"largest": 0},
        {"models": "a digest"},
    ],
)
def test_policies_that_make_no_sense(settings):
    ((name, value),) = settings.items()
    with pytest.raises(SettingError, match=f"{name}={re.escape(repr(value))}"):
        Policy(**settings)


# Who is served.


@pytest.mark.parametrize(
    ("caller", "policy", "served"),
    [
        (Caller(local=True), Policy(), True),
        (Caller(same_user=True), Policy(), True),
        (Caller(dialed=True, url="ws://hub.example:9000"), Policy(), True),
        (Caller(dialed=True, url="ws://hub.example:9000"), Policy(aggregator="hub"), True),
        (Caller(dialed=True, url="ws://server.example:4000"), Policy(), False),  # a server of a sum, which the owner dials to hand in
        (Caller(dialed=True, url="ws://127.0.0.1:9000"), Policy(), False),  # whoever has taken the port
        (Caller(dialed=True, url="ws://127.0.0.1:9000", same_user=True), Policy(), True),
        (Caller(url="ws://hub.example:9000"), Policy(), False),
        (Caller(), Policy(), False),
        (Caller(), Policy(aggregator="hub"), False),
        (Caller(), Policy(plaintext=True), True),
    ],
)
def test_callers_without_certificates(caller, policy, served):
    joined = ["ws://hub.example:9000", "ws://127.0.0.1:9000"]
    if served:
        policy.check_caller(caller, joined)
        return
    with pytest.raises(NotAllowed, match="this owner serves"):
        policy.check_caller(caller, joined)


async def test_only_its_own_process_says_whom_an_owner_joins():
    async with ActorSystem("ws://127.0.0.1:0") as at_ward, ActorSystem() as other:
        owner = await at_ward.spawn(DataOwner, records(), name="owner")
        await owner.joins("ws://127.0.0.1:9000")
        with pytest.raises(NotAllowed, match="own process"):
            await (await other.connect(f"{at_ward.address}/owner", DataOwner)).joins("ws://127.0.0.1:9000")


async def test_only_the_aggregators_certificate_is_served(tmp_path, build, examples):
    certificates.issue({"ward": "127.0.0.1", "hub": "127.0.0.1", "client": None}, tmp_path)
    ward = certificates.encryption(tmp_path, "ward")
    model = build()
    plan = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining(), "a run")
    async with ActorSystem(listen="wss://127.0.0.1:0", ssl=ward.listen, connect_ssl=ward.connect) as at_ward:
        await at_ward.spawn(DataOwner, examples, examples, policy=Policy(aggregator="hub"), name="owner")
        await at_ward.spawn(DataOwner, examples, name="nobodys")
        for name, served in (("client", False), ("ward", False), ("hub", True)):
            async with ActorSystem(connect_ssl=certificates.encryption(tmp_path, name).connect) as system:
                owner = await system.connect(f"{at_ward.address}/owner", DataOwner)
                calls = [
                    lambda owner=owner: owner.train(plan),
                    lambda owner=owner: owner.evaluate(plan),
                    lambda owner=owner: owner.prepare(plan, Hiding(8.0, 100)),
                ]
                for call in calls:
                    if served:
                        assert await call()
                        continue
                    with pytest.raises(NotAllowed, match=f"serves the holder of the certificate of 'hub'; you are .*'{name}'"):
                        await call()
                for call in (owner.confirm(b"", []), owner.unmask(b"", []), owner.mask(b"", {}), owner.share(b"", [])):
                    with pytest.raises(Exception, match="in no such session" if served else "serves the holder"):
                        await call
                with pytest.raises(NotAllowed, match=r"give it Policy\(aggregator=\.\.\.\)"):
                    await (await system.connect(f"{at_ward.address}/nobodys", DataOwner)).train(plan)


async def test_the_two_servers_of_a_sum_are_two_and_those_that_the_policy_names():
    """Who names both servers, and names its own, or one twice, would see the update. Nothing is trained for that, nor connected to."""
    asked_to_train = []

    class Counting(DataOwner):
        async def _trained(self, task, *, hidden=False):
            asked_to_train.append(task)
            raise UpdateHeldBack("this test goes no further")

    async with ActorSystem("ws://127.0.0.1:0") as first, ActorSystem("ws://127.0.0.1:0") as second, ActorSystem() as own:
        for system in (first, second):
            await system.spawn(SumServer, name="sums")
        one, other = [await own.connect(f"{system.address}/sums", SumServer) for system in (first, second)]
        drop, hiding = Drop(bytes(16), bytes(48), 3), Hiding(8.0, 100)
        anything, named = Policy(), Policy(servers=[first.address, second.address])
        for policy in (anything, named):
            owner = await own.spawn(Counting, records(), policy=policy)
            with pytest.raises(UpdateHeldBack, match="both halves of its update to one server"):
                await owner.give(task(), hiding, drop, one, one)
            with pytest.raises(UpdateHeldBack, match="goes no further"):
                await owner.give(task(), hiding, drop, one, other)
        assert len(asked_to_train) == 2
        for servers in ([], [first.address], ["ws://127.0.0.1:1", second.address]):
            owner = await own.spawn(Counting, records(), policy=Policy(servers=servers))
            with pytest.raises(UpdateHeldBack, match="servers of a sum other than those"):
                await owner.give(task(), hiding, drop, one, other)
        assert len(asked_to_train) == 2


# What an aggregator may try with a model of its own making, past a ledger.


def nan_beside_a_record():
    """Its second kernel has a gradient that is NaN, whatever the data: of what belongs to the first, nothing may be told but noise."""
    given = keras.Input((6,))
    first = keras.layers.Dense(1, use_bias=False)(given)
    second = keras.ops.sqrt(keras.layers.Dense(1, use_bias=False)(given))
    model = keras.Model(given, keras.layers.Concatenate()([first, second]))
    model.compile(keras.optimizers.SGD(1e6), "mae")
    return model


@pytest.mark.parametrize("gradient", [False, True])
async def test_an_update_with_a_value_that_is_none_is_noise_alone(tmp_path, gradient):
    """A norm of NaN clips nothing: the record stood in the other values, 10^5 times as large as the clip norm."""
    x, _ = records(n=20)
    weights = [np.zeros((6, 1), np.float32)] * 2
    training = LocalTraining(gradient=gradient, batch_size=None, learning_rate=None if gradient else 1e6, bound=Bound(0.005, 5.0, 2.0**-20))
    one = Task(1, blueprint.draw(nan_beside_a_record()), weights, training, "a run")
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, (x, np.full((20, 2), 1e3, np.float32)), ledger=ledger(tmp_path, "owner"))
        update = await owner.train(one)
    assert all(np.isfinite(array).all() and np.abs(array).max() < 60 for array in update.delta)


async def test_evaluation_reads_no_record_past_a_policy_with_noise():
    """Its metrics have none, and a model can be made whose metrics are a record."""
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, records(), records(), policy=Policy(noise=10.0))
        with pytest.raises(UpdateHeldBack, match="tells no metrics"):
            await owner.evaluate(task())


async def test_failures_are_no_oracle_past_a_ledger(tmp_path):
    """An Embedding fails if a value is out of its range: twenty rounds at no cost told a feature to 20 bits."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Rescaling(100.0), keras.layers.Embedding(500, 1), keras.layers.Flatten()])
    model.compile("sgd", "mse")
    plan, weights, told = blueprint.draw(model), [np.zeros((500, 1), np.float32)], []
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, records(), ledger=ledger(tmp_path, "owner"))
        for number in range(1, 7):
            with pytest.raises((OwnerFailed, UpdateHeldBack)) as caught:
                await owner.train(Task(number, plan, weights, LocalTraining(bound=Bound(0.005, 5000.0, 2.0**-20)), "a run"))
            told.append(str(caught.value))
    assert ["failed (" in one for one in told] == [True] * 3 + [False] * 3
    assert all("training has failed 3 times here" in one for one in told[3:])

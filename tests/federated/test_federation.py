"""Rounds from end to end: real Keras models, simulated owners, and owners over websockets."""

import asyncio
import contextlib

import keras
import numpy as np
import pytest

from actors import ActorSystem
from federated import (
    DataError,
    DataOwner,
    FedAvg,
    FedAvgM,
    Federation,
    FederationClosed,
    FedProx,
    FedSGD,
    Krum,
    MultiKrum,
    PlainMean,
    SettingError,
    Update,
    partition,
    simulated_owners,
)


def parts_of(examples, owners=5, **settings):
    return partition(*examples, owners=owners, **settings)


async def played(rounds=2, **settings):
    federation = Federation(**settings)
    async with federation:
        outcomes = [outcome async for outcome in federation.rounds(rounds)]
    return federation, outcomes


def same_weights(one, other, **tolerance):
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


# What is computed.


@pytest.mark.parametrize("strategy", [FedAvg(batch_size=None), FedSGD(eta=0.1)], ids=["FedAvg", "FedSGD"])
async def test_one_full_step_of_everybody_is_centralised_sgd(build, examples, strategy):
    parts = parts_of(examples, by="quantity", alpha=1.0)
    federation, outcomes = await played(4, model=build, owners=simulated_owners(parts), strategy=strategy)
    central = build()
    for outcome in outcomes:
        metrics = central.train_on_batch(*examples, return_dict=True)
        assert outcome.metrics["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-5)
        assert outcome.examples == len(examples[0])
    same_weights(federation.model, central, rtol=2e-6, atol=1e-6)


async def test_gradients_on_a_batch_are_those_of_keras(build, examples):
    federation, _ = await played(1, model=build, owners=simulated_owners([examples]), strategy=FedSGD(eta=1.0, batch_size=60))
    central = build(optimizer=keras.optimizers.SGD(1.0))
    central.train_on_batch(*examples)
    same_weights(federation.model, central, rtol=1e-5, atol=1e-6)


async def test_the_proximal_term_is_that_of_the_paper(build, examples):
    federation, _ = await played(
        1, model=build, owners=simulated_owners([examples]), strategy=FedProx(mu=0.7, local_epochs=3, batch_size=None)
    )
    model, start = build(), build().get_weights()
    for _ in range(3):  # w - rate (g + mu (w - w_t))
        before = model.get_weights()
        model.train_on_batch(*examples)
        pulled = [w - 0.1 * 0.7 * (b - s) for w, b, s in zip(model.get_weights(), before, start, strict=True)]
        model.set_weights(pulled)
    same_weights(federation.model, model, rtol=1e-5, atol=1e-6)


async def test_statistics_of_batch_normalisation_are_averaged_whatever_the_optimizer(build, examples):
    def model():
        keras.utils.set_random_seed(1)
        return build([keras.layers.BatchNormalization(), keras.layers.Dense(3)])

    federation, _ = await played(1, model=model, owners=simulated_owners(parts_of(examples)), strategy=FedAvgM(batch_size=None))
    means = []
    for x, y in parts_of(examples):
        alone = model()
        alone.train_on_batch(x, y)
        means.append(alone.layers[0].moving_mean.numpy() * len(x))
    np.testing.assert_allclose(federation.model.layers[0].moving_mean.numpy(), np.sum(means, 0) / 60, rtol=1e-5, atol=1e-7)


async def test_evaluation_data_stays_and_its_metrics_are_means(build, examples):
    x, y = examples
    parts, tests = parts_of(examples, owners=2), [(x[:10], y[:10]), (x[10:40], y[10:40])]
    federation, (outcome,) = await played(1, model=build, owners=simulated_owners(parts, evaluation=tests))
    values = [federation.model.evaluate(*test, verbose=0, return_dict=True) for test in tests]
    assert outcome.metrics["val_loss"] == pytest.approx((10 * values[0]["loss"] + 30 * values[1]["loss"]) / 40, rel=1e-5)
    assert outcome.metrics["val_accuracy"] == pytest.approx((10 * values[0]["accuracy"] + 30 * values[1]["accuracy"]) / 40)


async def test_the_aggregator_evaluates_on_data_of_its_own(build, examples):
    federation, (_, outcome) = await played(2, model=build, owners=simulated_owners(parts_of(examples)), evaluation=examples)
    values = federation.model.evaluate(*examples, verbose=0, return_dict=True)
    assert outcome.metrics["test_loss"] == pytest.approx(values["loss"], rel=1e-5)
    assert outcome.metrics["test_accuracy"] == pytest.approx(values["accuracy"])


async def test_data_sets_of_tensorflow_and_keras(build, examples):
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return examples[0][20 * i : 20 * i + 20], examples[1][20 * i : 20 * i + 20]

    sources = [tf.data.Dataset.from_tensor_slices(examples).batch(20), Batches()]
    models = []
    for source in sources:
        federation, (outcome,) = await played(1, model=build, owners=simulated_owners([source]))
        assert outcome.examples == 60
        models.append(federation.model)
    same_weights(*models)
    by_hand = build()
    by_hand.fit(sources[0], shuffle=False, verbose=0)
    same_weights(models[0], by_hand, rtol=1e-6)
    federation, (outcome,) = await played(1, model=build, owners=simulated_owners(sources), strategy=FedSGD())
    assert outcome.examples == 120


async def test_a_data_set_without_end_costs_its_owner_the_round(build, examples):
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(examples).batch(20).repeat()
    _, (outcome,) = await played(1, model=build, owners=simulated_owners([examples, endless]), strategy=FedSGD())
    assert outcome.reported == ("owner-0",)
    assert "use take(n)" in outcome.dropped["owner-1"]


# Runs are repeatable.


async def test_runs_are_repeated_exactly_layers_with_chance_included(build, examples):
    def model():
        keras.utils.set_random_seed(1)  # initializers take their seeds when layers are made
        return build([keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)])

    settings = {"model": model, "strategy": FedAvg(fraction=0.6, batch_size=4), "seed": 3}
    (one, first), (two, second) = [
        await played(3, owners=simulated_owners(parts_of(examples), dropout=0.2, seed=1), **settings) for _ in range(2)
    ]
    same_weights(one.model, two.model, rtol=0, atol=0)
    assert [o.reported for o in first] == [o.reported for o in second]
    other, _ = await played(3, owners=simulated_owners(parts_of(examples), dropout=0.2, seed=1), **settings | {"seed": 4})
    assert not np.array_equal(one.model.get_weights()[0], other.model.get_weights()[0])


async def test_nothing_passes_from_one_owner_to_the_next(build, examples):
    """With momentum, whose state the shared model has: each owner begins anew, as if it were alone."""
    model = lambda: build(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))  # noqa: E731
    parts = parts_of(examples, owners=3)
    federation, _ = await played(1, model=model, owners=simulated_owners(parts), strategy=FedAvg(batch_size=5))
    singles = []
    for i, part in enumerate(parts):
        owners = simulated_owners(parts, dropouts={1: [f"owner-{j}" for j in range(3) if j != i]})
        alone, _ = await played(1, model=model, owners=owners, strategy=FedAvg(batch_size=5), quorum=0.1)
        singles.append([len(part[0]) * w for w in alone.model.get_weights()])
    for k, weights in enumerate(federation.model.get_weights()):
        np.testing.assert_allclose(weights, sum(single[k] for single in singles) / 60, rtol=1e-5, atol=1e-7)


# Owners that drop out, are late, or send rubbish.


async def test_scripted_dropouts_and_stragglers(build, examples):
    owners = simulated_owners(
        parts_of(examples), dropouts={1: ["owner-0"], 2: ["owner-1", "owner-2"]}, stragglers={2: ["owner-4", "owner-3"]}
    )
    federation, outcomes = await played(3, model=build, owners=owners)
    first, second, third = outcomes
    assert list(first.dropped) == ["owner-0"]
    assert "of 5 owners reported and 3 are needed (2 dropped" in second.failure
    assert third.failure is None
    assert len(third.reported) == 5
    assert federation.history == outcomes


class Scripted:
    """An owner that answers as it is told; not simulated, not a Keras model: anything with these messages is an owner."""

    def __init__(self, name, answer):
        self.name, self.answer = name, answer

    async def train(self, task):
        return await self.answer(task)

    async def evaluate(self, task):
        raise AssertionError("it has no evaluation data")


async def honest(task):
    return Update(task.round, [np.ones_like(w) for w in task.weights], 1, {"loss": 1.0})


async def nan(task):
    return Update(task.round, [np.full_like(w, np.nan) for w in task.weights], 1, {})


async def wrong_shape(task):
    return Update(task.round, [np.zeros(3, np.float32) for _ in task.weights], 1, {})


async def old_round(task):
    return Update(task.round - 1, [np.ones_like(w) for w in task.weights], 1, {})


async def no_examples(task):
    return Update(task.round, [np.ones_like(w) for w in task.weights], 0, {})


async def crash(task):
    raise ZeroDivisionError("its disk is full")


async def silence(task):
    await asyncio.Event().wait()


BAD = {"nan": nan, "shape": wrong_shape, "old": old_round, "none": no_examples, "crash": crash, "silent": silence}


async def test_each_bad_owner_is_named_and_costs_itself_only(build):
    owners = [Scripted(f"good-{i}", honest) for i in range(7)] + [Scripted(name, answer) for name, answer in BAD.items()]
    federation, (outcome,) = await played(1, model=build, owners=owners, deadline=0.2)
    assert sorted(outcome.reported) == [f"good-{i}" for i in range(7)]
    assert outcome.rejected.keys() == {"nan", "shape", "old", "none"}
    assert outcome.dropped == {"crash": "it failed (ZeroDivisionError); see this owner's log"}
    assert outcome.late == ("silent",)
    for weights, start in zip(federation.model.get_weights(), build().get_weights(), strict=True):
        np.testing.assert_allclose(weights, start + 1, rtol=1e-6)


async def test_a_failed_round_changes_nothing_and_the_run_goes_on(build):
    state = {"broken": True}

    async def moody(task):
        if state["broken"]:
            raise OSError("away")
        return await honest(task)

    federation = Federation(model=build, owners=[Scripted("a", moody), Scripted("b", moody)])
    async with federation:
        (failed,) = [outcome async for outcome in federation.rounds(1)]
        same_weights(federation.model, build(), rtol=0)
        state["broken"] = False
        (fine,) = [outcome async for outcome in federation.rounds(1)]
    assert "0 of 2 owners reported" in failed.failure
    assert "failed, 0 of 2" in str(failed)
    assert (fine.round, fine.failure) == (2, None)


async def test_a_cancelled_round_leaves_nothing_behind_and_can_be_played_again(build):
    reached = asyncio.Event()

    async def stuck(task):
        reached.set()
        await asyncio.Event().wait()

    federation = Federation(model=build, owners=[Scripted("a", stuck), Scripted("b", honest)])
    async with federation:
        playing = asyncio.create_task(anext(federation.rounds(1)))
        await reached.wait()
        playing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await playing
        federation._owners["a"].answer = honest
        assert (await anext(federation.rounds(1))).round == 1


async def test_robust_strategies_get_the_single_updates(build):
    async def attack(task):
        return Update(task.round, [np.full_like(w, 1e6) for w in task.weights], 10**6, {})

    owners = [Scripted(f"good-{i}", honest) for i in range(5)] + [Scripted("attacker", attack)]
    federation, _ = await played(1, model=build, owners=owners, strategy=MultiKrum(f=1, m=3))
    for weights, start in zip(federation.model.get_weights(), build().get_weights(), strict=True):
        np.testing.assert_allclose(weights, start + 1, rtol=1e-6)


# Over the network.


async def test_three_owners_over_websockets_are_as_good_as_simulated_ones(build, examples):
    parts = parts_of(examples, owners=3)
    async with contextlib.AsyncExitStack() as stack:
        urls = []
        for part in parts:
            system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
            await system.spawn(DataOwner, part, part, name="owner")
            urls.append(f"{system.address}/owner")
        remote, outcomes = await played(2, model=build, owners=urls, strategy=FedAvg(batch_size=None))
    assert outcomes[0].reported == tuple(urls)
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} == outcomes[0].metrics.keys()
    local, _ = await played(2, model=build, owners=simulated_owners(parts), strategy=FedAvg(batch_size=None))
    same_weights(remote.model, local.model, rtol=1e-6)


async def test_an_owner_that_is_away_drops_out_and_can_come_back(build, examples):
    async with ActorSystem(listen="ws://127.0.0.1:0") as system:
        await system.spawn(DataOwner, examples, name="owner")
        away = "ws://127.0.0.1:9/owner"
        _, (outcome,) = await played(1, model=build, owners=[f"{system.address}/owner", away])
        assert list(outcome.dropped) == [away]
        assert "ConnectFailed" in outcome.dropped[away]


# Bad settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"owners": []}, "at least one owner"),
        ({"owners": "ws://127.0.0.1:1/owner"}, "a list of at least one owner"),
        ({"owners": ["ws://127.0.0.1:1/a"] * 2}, "each once"),
        ({"quorum": 0.0}, "quorum=0.0: it has to be in"),
        ({"deadline": 0.0}, "deadline=0.0"),
        ({"seed": -1}, "seed=-1"),
        ({"resume": True}, "give folder="),
        ({"strategy": Krum(f=2)}, "Krum needs 7 updates a round, and 2 of 2 owners are asked"),
    ],
)
def test_settings_that_make_no_sense(build, settings, message):
    with pytest.raises(SettingError, match=message):
        Federation(**{"model": build, "owners": ["ws://127.0.0.1:1/a", "ws://127.0.0.1:2/a"]} | settings)


class Hidden(PlainMean):
    hides_updates = True


def test_robust_strategies_refuse_what_hides_the_updates_and_say_why(build):
    owners = [Scripted(str(i), honest) for i in range(9)]
    with pytest.raises(SettingError, match="Krum compares the updates of single owners, which Hidden hides from everybody"):
        Federation(model=build, owners=owners, strategy=Krum(), aggregation=Hidden())


async def test_outside_of_the_block(build, examples):
    federation = Federation(model=build, owners=simulated_owners([examples]))
    with pytest.raises(FederationClosed, match="enter 'async with federation:' first"):
        _ = federation.model
    with pytest.raises(FederationClosed):
        await anext(federation.rounds(1))
    async with federation:
        await anext(federation.rounds(1))
    assert federation.model.built
    with pytest.raises(FederationClosed, match="inside 'async with federation:'"):
        await federation.run(rounds=1)


@pytest.mark.parametrize("data", [None, (np.ones(3),), (np.ones(3), np.ones(4)), (np.ones((0, 2)), np.ones(0))])
def test_data_that_is_none(data):
    with pytest.raises(DataError):
        simulated_owners([data])

"""What owners tell of their failures: kinds, and nothing of a record, in whatever is sent, logged or shown."""

import asyncio.selector_events
import contextlib
import dataclasses
import logging

import keras
import numpy as np
import pytest

from actors import ActorSystem
from federated import (
    DPSGD,
    DataError,
    DataOwner,
    FedAvg,
    Federation,
    Hiding,
    LocalGaussian,
    ModelRefused,
    OwnerFailed,
    PlainMean,
    ProcessEngine,
    SecureAggregation,
    SettingError,
    SharedAggregation,
    UpdateHeldBack,
    simulated_owners,
)
from federated.models import blueprint
from federated.simulation.engine import cannot_be_sent
from federated.tasks.failures import in_own_words
from federated.tasks.update import Blueprint, LocalTraining, Task
from protocols import Cluster, Worker

CANARY = 7_770_777
OWN_LOGS = ("federated.tasks.failures", "federated.models.blueprint")
"""Where an owner writes what it does not tell."""
PRIVATE = {"max_epsilon": 9.0, "delta": 1e-5}
FORMS = ["plain", "secure", "shared", "local noise", "dpsgd"]


def compiled(*layers, loss="mse", shape=(4,), dtype="float32"):
    def build():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input(shape, dtype=dtype), *[one() for one in layers]])
        model.compile("sgd", loss)
        return model

    return build


def dense():
    return keras.layers.Dense(1)


def classes():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Unreadable(keras.utils.PyDataset):
    """Data in a file that is gone."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise FileNotFoundError(2, "No such file", f"/data/patient-{CANARY}.csv")


X = np.zeros((64, 4), np.float32)
CASES = {
    "labels": (compiled(dense, loss=classes()), (X, np.full(64, CANARY)), "DataError"),
    "labels beyond an embedding": (
        compiled(lambda: keras.layers.Embedding(2, 2), keras.layers.Flatten, dense, dtype="int32"),
        (np.full((64, 4), CANARY, np.int32), np.zeros((64, 1), np.float32)),
        "failed (InvalidArgumentError)",
    ),
    "labels that are words": (compiled(dense), (X, np.full((64, 1), f"patient {CANARY}")), "DataError: the labels are texts"),
    "a file": (compiled(dense), Unreadable(), "failed (FileNotFoundError)"),
}


@contextlib.asynccontextmanager
async def settings_of(form):
    if form == "shared":
        workers = [Worker("localhost:0") for _ in range(3)]
        async with Cluster(*workers[:2], crypto_provider=workers[2]) as cluster:
            yield {"aggregation": SharedAggregation(cluster)}
    else:
        yield {
            "plain": {"aggregation": PlainMean()},
            "secure": {"aggregation": SecureAggregation(threshold=0.7)},
            "local noise": {"privacy": LocalGaussian(clip_norm=1.0, noise_multiplier=100.0, **PRIVATE)},
            "dpsgd": {"privacy": DPSGD(noise_multiplier=10.0, max_grad_norm=1.0, sampling_rate=0.9, **PRIVATE)},
        }[form]


@pytest.fixture
def wire(monkeypatch):
    """All that is written to sockets in this process. What a listening system sends is not masked."""
    written, transport = [], asyncio.selector_events._SelectorSocketTransport
    true = transport.write

    def write(self, data):
        written.append(bytes(data))
        return true(self, data)

    monkeypatch.setattr(transport, "write", write)
    monkeypatch.setattr(transport, "writelines", lambda self, parts: write(self, b"".join(parts)))
    return written


def assert_nowhere(canary, *, wire, caplog, outcomes):
    texts = [str(canary).encode(), np.int64(canary).tobytes(), np.int32(canary).tobytes()]
    sent = b"".join(wire)
    assert len(sent) > 1000  # there was something to look at
    assert not any(text in sent for text in texts)
    told = "\n".join(record.getMessage() + str(record.exc_info) for record in caplog.records if not record.name.startswith(OWN_LOGS))
    assert str(canary) not in told
    assert str(canary) not in "\n".join(map(repr, outcomes))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.sample(5)
async def test_no_value_of_the_data_leaves_when_training_fails(form, case, wire, caplog):
    caplog.set_level(logging.DEBUG)
    build, data, told = CASES[case]
    async with ActorSystem(listen="ws://127.0.0.1:0") as ward, settings_of(form) as settings:
        for i in range(4):
            await ward.spawn(DataOwner, data, name=f"o{i}")
        names = [f"{ward.address}/o{i}" for i in range(4)]
        async with Federation(model=build, owners=names, strategy=FedAvg(batch_size=64), progress=False, **settings) as federation:
            outcomes = [outcome async for outcome in federation.rounds(1)]
    assert outcomes[0].dropped  # it is over when too many are gone
    if not (form == "dpsgd" and case in ("a file", "labels beyond an embedding")):  # those are refused for another reason before
        assert all(told in why for why in outcomes[0].dropped.values())
    assert_nowhere(CANARY, wire=wire, caplog=caplog, outcomes=outcomes)


@pytest.mark.parametrize("case", ["labels", "labels beyond an embedding", "a file"])
async def test_nor_when_evaluation_fails(case, wire, caplog):
    caplog.set_level(logging.DEBUG)
    build, data, told = CASES[case]
    good = (np.zeros((64, 4), np.int32 if "embedding" in case else np.float32), np.zeros(64, int))
    async with ActorSystem(listen="ws://127.0.0.1:0") as ward:
        for i in range(3):
            await ward.spawn(DataOwner, good, data if i else good, name=f"o{i}")
        names = [f"{ward.address}/o{i}" for i in range(3)]
        async with Federation(model=build, owners=names, progress=False) as federation:
            (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert len(outcome.reported) == 3
    assert set(outcome.faults) == set(names[1:])
    assert all(told in why and "its evaluation does not count" in why for why in outcome.faults.values())
    assert "val_loss" in outcome.metrics
    assert_nowhere(CANARY, wire=wire, caplog=caplog, outcomes=[outcome])


STEPS = {"advertise": (b"", None), "share": (b"", []), "mask": (b"", {}), "confirm": (b"", []), "unmask": (b"", [])}


class Fragile(DataOwner):
    """Each step of whose aggregation fails in a way that quotes data."""

    def __init__(self, step):
        super().__init__((X, np.zeros((64, 1))))
        side = self._giver if step == "give" else self._masker

        async def fail(*_):
            raise KeyError(f"patient {CANARY}")

        setattr(side, step, fail)


@pytest.mark.parametrize("step", ["prepare", "advertise", "share", "mask", "confirm", "unmask", "give"])
@pytest.mark.sample(2)
async def test_nor_when_a_step_of_an_aggregation_fails(step, wire, caplog):
    caplog.set_level(logging.DEBUG)
    async with ActorSystem(listen="ws://127.0.0.1:0") as ward, settings_of("shared" if step == "give" else "secure") as settings:
        for i in range(4):
            await ward.spawn(Fragile, step, name=f"o{i}")
        names = [f"{ward.address}/o{i}" for i in range(4)]
        async with Federation(model=compiled(dense), owners=names, progress=False, **settings) as federation:
            outcomes = [outcome async for outcome in federation.rounds(1)]
    assert outcomes[0].failure is not None
    assert_nowhere(CANARY, wire=wire, caplog=caplog, outcomes=outcomes)


@pytest.mark.parametrize("engine", [None, lambda: ProcessEngine(1)])
@pytest.mark.parametrize("case", ["labels", "labels beyond an embedding", "a file"])
@pytest.mark.sample(1)
async def test_nor_from_simulated_owners(engine, case):
    build, data, told = CASES[case]
    owners = simulated_owners([data] * 2, engine=engine and engine())
    async with Federation(model=build, owners=owners, progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert set(outcome.dropped) == {"owner-0", "owner-1"}
    assert all(told in why and str(CANARY) not in why for why in outcome.dropped.values())


async def test_nor_from_owners_that_are_programs():
    class Own:
        name = "own"

        async def train(self, task):
            raise ValueError(f"patient {CANARY}")

        async def evaluate(self, task):
            raise AssertionError

    async with Federation(model=compiled(dense), owners=[Own()], progress=False) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.dropped == {"own": "it failed (ValueError); see this owner's log"}


# Evaluations that are missing.


def good():
    return X, np.zeros((64, 1), np.float32)


ODD = {
    "wrong shape": ((X[:, :2], good()[1]), "DataError: the features have shape (2,)"),
    "NaN": ((X * np.nan, good()[1]), "its loss is not finite"),
    "infinite": ((X, good()[1] + np.inf), "its loss is not finite"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_evaluation_that_does_not_count_is_named(name, tmp_path):
    odd, why = ODD[name]
    owners = simulated_owners([good()] * 2, evaluation=[odd, good()])
    async with Federation(model=compiled(dense), owners=owners, progress=False, folder=tmp_path) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.reported == ("owner-0", "owner-1")
    assert set(outcome.faults) == {"owner-0"}
    assert why in outcome.faults["owner-0"]
    assert "2 of 2 owners, 1 at fault" in str(outcome)
    owners = simulated_owners([good()] * 2, evaluation=[odd, good()])
    async with Federation(model=compiled(dense), owners=owners, progress=False, folder=tmp_path, resume=True) as federation:
        assert federation.history[0].faults == outcome.faults


class Evaluating:
    """An owner whose evaluations are as scripted."""

    def __init__(self, name, answer):
        self.name, self._answer = name, answer

    async def train(self, task):
        from federated import Update

        return Update(task.round, [np.ones_like(array) for array in task.weights], 1, {}, evaluates=True)

    async def evaluate(self, task):
        return await self._answer(task)


async def test_late_evaluations_and_those_of_another_round():
    from federated import Evaluation

    async def fine(task):
        return Evaluation(task.round, 10, {"loss": 1.0})

    async def old(task):
        return Evaluation(task.round - 1, 10, {"loss": 5.0})

    async def none(task):
        return Evaluation(task.round, 0, {})

    async def silent(task):
        await asyncio.Event().wait()

    answers = {"fine": fine, "old": old, "none": none, "silent": silent}
    owners = [Evaluating(name, answer) for name, answer in answers.items()]
    async with Federation(model=compiled(dense), owners=owners, progress=False, deadline=0.3) as federation:
        (outcome,) = [outcome async for outcome in federation.rounds(1)]
    assert outcome.metrics["val_loss"] == 1.0
    assert set(outcome.faults) == {"old", "none", "silent"}
    assert "after the deadline" in outcome.faults["silent"]
    assert "of round 0" in outcome.faults["old"]
    assert "over no examples" in outcome.faults["none"]


# The words themselves.


async def test_errors_of_this_library_pass_without_what_caused_them():
    async def fail():
        try:
            raise ValueError(f"patient {CANARY}")
        except ValueError as error:
            raise DataError("in our words") from error

    with pytest.raises(DataError, match="in our words") as told:
        await in_own_words("training", fail())
    assert told.value.__cause__ is told.value.__context__ is None


async def test_errors_of_others_become_kinds(caplog):
    async def fail():
        raise ValueError(f"patient {CANARY}")

    with pytest.raises(OwnerFailed, match=r"^training failed \(ValueError\); see this owner's log$") as told:
        await in_own_words("training", fail())
    assert told.value.__cause__ is told.value.__context__ is None
    assert str(CANARY) in caplog.text


async def test_labels_that_are_ignored_are_no_classes(build, examples):
    """And labels that fit are not refused: from 0 to the width, of arrays and data sets, as any integer or float."""
    import tensorflow as tf

    x, y = examples
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    odd = y.copy()
    odd[3] = -1
    sets = {
        "ignored": ((x, odd), {"loss": loss, "metrics": []}, True),
        "not ignored": ((x, odd), {}, False),
        "one too many": ((x, y + 1), {}, False),
        "floats": ((x, y.astype(np.float32)), {}, True),
        "a column": ((x, y[:, None]), {}, True),
        "a data set": (tf.data.Dataset.from_tensor_slices((x, y)).batch(7), {}, True),
        "a data set with one too many": (tf.data.Dataset.from_tensor_slices((x, y + 1)).batch(7), {}, False),
        "by name": ((x, y + 1), {"loss": "sparse_categorical_crossentropy"}, False),
    }
    async with ActorSystem() as system:
        for name, (data, settings, fits) in sets.items():
            model = build(**settings)
            owner = await system.spawn(DataOwner, data, data)
            task = Task(1, blueprint.draw(model), model.get_weights(), LocalTraining())
            if fits:
                assert (await owner.train(task)).examples == 60, name
                continue
            for work in (owner.train, owner.evaluate):
                with pytest.raises(DataError, match="a label of this owner is not from 0 to 2"):
                    await work(task)


async def test_a_model_that_cannot_be_built_is_told_in_own_words(build):
    plan = blueprint.draw(build())
    async with ActorSystem() as system:
        owner = await system.spawn(DataOwner, good())
        task = Task(1, dataclasses.replace(plan, architecture=plan.architecture.replace('"Dense"', '"Nonsense"')), [], LocalTraining())
        with pytest.raises(ModelRefused, match=r"cannot be built from its blueprint \(ValueError, see the log there\)"):
            await owner.train(task)
        with pytest.raises(ModelRefused, match="cannot be built"):
            await owner.prepare(dataclasses.replace(task, blueprint=Blueprint("{", "{}")), Hiding(8.0, 100))
        with pytest.raises(UpdateHeldBack):
            Hiding(float("nan"), 1)


def test_data_that_cannot_be_sent_is_not_quoted():
    error = cannot_be_sent(TypeError(f"cannot pickle 'patient {CANARY}'"))
    assert isinstance(error, SettingError)
    assert str(CANARY) not in str(error)

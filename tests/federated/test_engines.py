"""One contract for all engines: wherever owners train, the result is the same, and nothing is left behind."""

import asyncio
import os
import signal

import keras
import numpy as np
import psutil
import pytest
from forked import forking

from federated import FedAvg, Federation, ProcessEngine, RayEngine, SettingError, ThreadEngine, partition, simulated_owners
from federated.tasks.update import Blueprint, LocalTraining, Task

ENGINES = {
    "thread": ThreadEngine,
    "processes": lambda: ProcessEngine(2),
    "ray": lambda: RayEngine(workers=2, cores=0.5),
}


def model(build):
    def make():
        keras.utils.set_random_seed(1)
        return build([keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)])

    return make


@pytest.fixture
def nodes_are_forked():
    """Have processes of an engine come from one that has loaded Keras: each would take four seconds of a processor for it."""
    with forking(("actors.node",), ("actors.system", "federated", "keras")) as nursery:
        if nursery is not None:
            nursery.begin()
        yield


async def nothing_more(federation):
    """Play no more rounds."""


async def played(build, examples, engine, then=nothing_more):
    owners = simulated_owners(partition(*examples, owners=5), evaluation=[examples] * 5, engine=engine, dropouts={2: ["owner-3"]})
    federation = Federation(model=model(build), owners=owners, strategy=FedAvg(batch_size=4), quorum=0.25)
    async with federation:
        outcomes, weights = [outcome async for outcome in federation.rounds(2)], federation.model.get_weights()
        await then(federation)
    return outcomes, weights


@pytest.mark.parametrize("name", ["processes", pytest.param("ray", marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.usefixtures("nodes_are_forked")
async def test_the_same_result_as_in_one_thread_and_a_process_that_dies_costs_its_owners_a_round(build, examples, name):
    """Both on the same processes, for each takes seconds to start."""
    expected, reference = await played(build, examples, ThreadEngine())
    before = set(psutil.Process().children(recursive=True))

    async def one_dies(federation):
        victim, *_ = set(psutil.Process().children(recursive=True)) - before
        os.kill(victim.pid, signal.SIGKILL)
        outcomes = [outcome async for outcome in federation.rounds(3)]
        assert all(outcome.failure is None for outcome in outcomes)
        assert len(outcomes[0].reported) < 5
        assert any("of the pool is gone" in reason for reason in outcomes[0].dropped.values())
        assert len(outcomes[-1].reported) == 5, "the process was started anew"

    then = one_dies if name == "processes" else nothing_more
    outcomes, found = await played(build, examples, ENGINES[name](), then)
    assert [o.reported for o in outcomes] == [o.reported for o in expected]
    for one, other in zip(outcomes, expected, strict=True):
        assert one.metrics == pytest.approx(other.metrics, rel=1e-4)
    for a, b in zip(found, reference, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    _, alive = psutil.wait_procs(set(psutil.Process().children(recursive=True)) - before, timeout=10)
    assert not alive


@pytest.mark.parametrize("name", ["processes", pytest.param("ray", marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore")  # Ray's own
async def test_data_that_cannot_leave_this_process(build, examples, name):
    import tensorflow as tf

    parts = [tf.data.Dataset.from_tensor_slices(examples).batch(20)] * 2
    with pytest.raises(SettingError, match="cannot be sent to another process"):
        async with Federation(model=build, owners=simulated_owners(parts, engine=ENGINES[name]())):
            pass


async def test_thousands_of_owners_have_no_thread_and_no_model_each(build, examples):
    owners = simulated_owners(partition(np.tile(examples[0], (50, 1)), np.tile(examples[1], 50), owners=2000))
    threads = len(psutil.Process().threads())
    federation = Federation(model=build, owners=owners, strategy=FedAvg(fraction=0.05, batch_size=None))
    async with federation:
        outcome = await anext(federation.rounds(1))
        assert len(psutil.Process().threads()) < threads + 20
    assert len(outcome.reported) == 100


def test_the_task_that_is_stored_for_ray_is_the_one_that_is_asked():
    """Not one that is gone, whose place in memory, and so whose id(), the next one has: weights would be of a round before."""

    class Store:
        def put(self, task):
            return task.round, [array.copy() for array in task.weights]

    engine = RayEngine(workers=1)
    engine._ray = Store()
    plan, training = Blueprint("", ""), LocalTraining()
    for number in range(1, 200):
        task = Task(number, plan, [np.full(1, number, np.float32)], training)
        round_of, (weights,) = engine._stored(task)
        assert (round_of, weights[0]) == (number, number)
        assert engine._stored(task) is engine._stored(task), "it is put there once"
        del task


def test_settings_that_make_no_sense():
    with pytest.raises(SettingError, match="processes=0"):
        ProcessEngine(0)
    with pytest.raises(SettingError, match="workers=0"):
        RayEngine(workers=0)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingError, match=r"pip install 'confide\[ray\]'"):
        RayEngine()


async def test_cancelling_stops_the_owners(build, examples):
    owners = simulated_owners([examples] * 4)
    federation = Federation(model=build, owners=owners, strategy=FedAvg(local_epochs=10**6, batch_size=5), deadline=0.5)
    async with federation:
        outcome = await anext(federation.rounds(1))
    assert len(outcome.late) == 4
    await asyncio.sleep(0)

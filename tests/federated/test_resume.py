"""A run that is killed and resumed is, bit for bit, the run that was never interrupted."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from federated import FedAdam, FedAvg, Federation, RunExists, partition, simulated_owners
from federated.runs.run_folder import FILE, Checkpoint, RunFolder

SCRIPT = """
import asyncio, json, sys
import keras, numpy as np
from federated import FedAdam, Federation, partition, simulated_owners

rng = np.random.default_rng(5)
y = rng.integers(0, 3, 60)
x = rng.normal(size=(60, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[y]

def build():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

async def main(folder):
    owners = simulated_owners(partition(x, y, owners=6), dropout=0.2, seed=2, evaluation=[(x, y)] * 6)
    federation = Federation(model=build, owners=owners, strategy=FedAdam(fraction=0.7, batch_size=5), folder=folder, resume=True)
    async with federation:
        async for outcome in federation.rounds(6):
            print(outcome.round, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        weights = [w.tolist() for w in federation.model.get_weights()]
        print(json.dumps([weights, [[o.round, o.reported, dict(o.metrics)] for o in federation.history]]), flush=True)

asyncio.run(main(sys.argv[1]))
"""


def played(folder, *, kill_after=None):
    """Plays the script; kills it when it has told of a round."""
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "env": env}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], **pipes) as process:
        try:
            for line in process.stdout:
                if line.startswith("["):
                    return json.loads(line)
                if int(line) == kill_after:
                    process.send_signal(signal.SIGKILL)
                    return None
                process.stdin.write("\n")
                process.stdin.flush()
        finally:
            process.kill()
    raise AssertionError("it ended without a result")


@pytest.mark.long
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole = played(tmp_path / "whole")
    assert [number for number, *_ in whole[1]] == [1, 2, 3, 4, 5, 6]
    assert played(tmp_path / "killed", kill_after=2) is None
    assert played(tmp_path / "killed", kill_after=5) is None
    assert played(tmp_path / "killed") == whole


def federation_of(build, examples, folder, **settings):
    owners = simulated_owners(partition(*examples, owners=3), evaluation=[examples] * 3)
    return Federation(**{"model": build, "owners": owners, "strategy": FedAvg(batch_size=10), "folder": folder} | settings)


async def run(federation, rounds, callbacks=()):
    async with federation:
        return await federation.run(rounds=rounds, callbacks=callbacks)


def test_what_a_killed_process_was_writing_is_removed_and_the_last_checkpoint_stands(tmp_path):
    kept = Checkpoint("run", [np.ones(3, np.float32)], {}, ())
    RunFolder(tmp_path, resume=False).save(kept)
    (tmp_path / f"{FILE}.0123abcd.new").write_bytes(b"half")
    (tmp_path / "mine.new").write_bytes(b"not ours")
    folder = RunFolder(tmp_path, resume=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.new", FILE]
    assert np.array_equal(folder.load("run").weights[0], kept.weights[0])


class Interrupted(Exception):
    """Somebody pulled the plug."""


def interruption(after):
    def begin(epoch, logs):
        if epoch == after:
            raise Interrupted

    return begin


def plateau():
    return [
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=0.1),
        keras.callbacks.EarlyStopping(monitor="loss", patience=4, min_delta=0.05, restore_best_weights=True),
    ]


@pytest.mark.long
async def test_callbacks_remember(build, examples, tmp_path):
    """The learning rate falls, and training stops, in the same rounds as without an interruption."""
    whole = federation_of(build, examples, None)
    history = await run(whole, 30, plateau())
    assert 5 < len(history) < 30
    for last in (3, 5):
        part = federation_of(build, examples, tmp_path, resume=True)
        with pytest.raises(Interrupted):
            await run(part, 30, [*plateau(), keras.callbacks.LambdaCallback(on_epoch_begin=interruption(last))])
        assert len(part.history) == last
    part = federation_of(build, examples, tmp_path, resume=True)
    assert len(await run(part, 30, plateau())) == len(history)
    assert [o.metrics for o in part.history] == [o.metrics for o in history]
    assert float(part.model.optimizer.learning_rate) == float(whole.model.optimizer.learning_rate) < 0.1
    for a, b in zip(part.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    again = federation_of(build, examples, tmp_path, resume=True)
    assert len(await run(again, 30, plateau())) == len(history), "a run that a callback has ended stays ended"


async def test_rounds_that_are_there_are_not_played_again(build, examples, tmp_path):
    async def play(*pieces):
        federation = federation_of(build, examples, tmp_path, resume=True)
        async with federation:
            return [[o.round async for o in federation.rounds(n)] for n in pieces]

    assert await play(2, 2) == [[1, 2], [3, 4]]
    assert await play(3, 3) == [[], [5, 6]]
    assert await play(10) == [[7, 8, 9, 10]]


async def test_a_run_is_never_overwritten_or_mixed(build, examples, tmp_path):
    await run(federation_of(build, examples, tmp_path), 1)
    with pytest.raises(RunExists, match="give resume=True to go on with it, or another folder"):
        await run(federation_of(build, examples, tmp_path), 1)
    for other in ({"strategy": FedAdam()}, {"seed": 9}, {"model": lambda: build([keras.layers.Dense(3, use_bias=False)])}):
        with pytest.raises(RunExists, match="another model, strategy, seed or privacy"):
            await run(federation_of(build, examples, tmp_path, resume=True, **other), 1)
    (tmp_path / FILE).write_bytes(b"not a run")
    with pytest.raises(RunExists, match="is not a run, or is damaged"):
        await run(federation_of(build, examples, tmp_path, resume=True), 1)


def test_whatever_happens_while_it_is_written_a_whole_checkpoint_is_there(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, resume=True)
    first = Checkpoint("run", [np.ones(3, np.float32)], {"v": [np.zeros(2)]}, ())
    folder.save(first)

    def full(*_args, **_kwargs):
        raise OSError("no space left on device")

    for step in ("savez", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(np if step == "savez" else os, step, full)
            with pytest.raises(OSError, match="no space"):
                folder.save(Checkpoint("run", [np.full(3, 7, np.float32)], {}, ()))
        kept = RunFolder(tmp_path, resume=True).load("run")
        np.testing.assert_array_equal(kept.weights[0], first.weights[0])
        assert kept.state.keys() == {"v"}


async def test_a_full_disk_ends_the_run_with_its_own_error(build, examples, tmp_path, monkeypatch):
    federation = federation_of(build, examples, tmp_path)
    async with federation:
        await anext(federation.rounds(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
            with pytest.raises(OSError, match="no space"):
                await anext(federation.rounds(1))
    await asyncio.sleep(0)
    resumed = federation_of(build, examples, tmp_path, resume=True)
    async with resumed:
        assert len(resumed.history) == 1

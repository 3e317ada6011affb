"""The soak of benchmarks/soak: a minute of it with all its bars, and that nothing is left of one that was interrupted."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.soak.findings import Brought, Findings
from benchmarks.soak.oracle import Oracle, question

ROOT = Path(__file__).parents[2]


async def soak(*arguments):
    command = [sys.executable, "-m", "benchmarks.soak", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return await asyncio.create_subprocess_exec(*command, stderr=PIPE, env=environment, cwd=ROOT)


def left(folder) -> list[str]:
    """What still runs that was told of a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_minute_of_faults(tmp_path):
    process = await soak("--minutes", 1, "--seed", 1, "--folder", tmp_path / "soak", "--json", tmp_path / "found.json")
    _, said = await process.communicate()
    found = json.loads((tmp_path / "found.json").read_text())
    missed = {name: bar["seen"] for name, bar in found["bars"].items() if not bar["held"]}
    assert (process.returncode, missed) == (0, {}), said.decode()
    assert not left(tmp_path)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", [[], ["--loopback"]])
async def test_nothing_is_left_of_one_that_was_interrupted(tmp_path, where):
    folder = tmp_path / "soak"
    process = await soak("--minutes", 5, "--folder", folder, *where)
    async with asyncio.timeout(300):
        while b"three workers are ready" not in (line := await process.stderr.readline()):
            assert line
    assert left(folder)
    inner = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in inner:  # as a terminal does
        if "benchmarks.soak" in " ".join(one.cmdline()):
            one.send_signal(signal.SIGINT)
    async with asyncio.timeout(200):
        await process.stderr.read()
        assert await process.wait() == 1
    assert not left(folder)


def test_bars_see_what_was_missed():
    found = Findings(1, quota=3, limited="limited")
    found.heard.times += [1.0, 2.0, 9.0]
    found.heard.answered["limited"] = 4
    found.heard.twice = 1
    found.brought.append(Brought("kill", "julia", began=2.5, over=3.0, healed=9.0, start=1.0))
    assert found.silences() == {"kill": [6.5]}
    missed = {name for name, (held, _) in found.bars().items() if not held}
    assert {"answers beyond the quota", "input masks used twice", "silence after one killed worker beyond its start, at most 5 s"} <= missed
    assert not found.held


def test_the_oracle_is_the_model():
    import keras

    oracle, x = Oracle.drawn(1), question(1, 2, 3)
    layers = keras.layers
    model = keras.Sequential([layers.Input((12,)), layers.Dense(16), layers.ReLU(), layers.Dense(4)])
    model.set_weights(list(oracle.weights))
    np.testing.assert_allclose(oracle.answer(x), model(x.astype(np.float32)), atol=1e-5)

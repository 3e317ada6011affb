"""Three machines as three processes on loopback, with certificates: two wards train on their own digits, a hub averages.

Each machine is a folder that has only what that machine needs: cluster.toml, hospitals.py, its own certificate, its own data.
Usage: python examples/three_machines.py [--rounds N]
"""

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

import digits
from federated import partition

HERE = Path(__file__).parent
CONFIDE = (sys.executable, "-m", "federated.command")  # the command `confide`
WARDS = ("ward-1", "ward-2")
ROUNDS = 4
"""In cluster.toml."""


async def confide(folder: Path, *arguments: str) -> None:
    """Runs the command until it is over."""
    process = await create_subprocess_exec(*CONFIDE, *arguments, cwd=folder)
    if await process.wait():
        raise SystemExit(f"confide {' '.join(arguments)} failed")


@contextlib.asynccontextmanager
async def machine(folder: Path, *, stdout: int | None = None) -> AsyncIterator[Process]:
    """`confide run` for the node that the folder is named after; Ctrl-C ends it with the block."""
    command = [*CONFIDE, "run", folder.name, "--cluster", "cluster.toml", "--keys", "keys"]
    process = await create_subprocess_exec(*command, cwd=folder, stdout=stdout)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


async def set_up(root: Path, rounds: int) -> None:
    """A folder for each machine."""
    place(root, port=0, rounds=rounds)  # the hub is to choose a port that is free
    await confide(root, "certs", "cluster.toml", "--out", "keys")
    for name in ("hub", *WARDS):
        (root / name / "keys").mkdir(parents=True)
        for key in ("ca.pem", f"{name}.pem", f"{name}.key"):
            shutil.copy(root / "keys" / key, root / name / "keys")
        shutil.copy(HERE / "hospitals.py", root / name)
    place(root / "hub", port=0, rounds=rounds)
    data = digits.load()
    train = partition(data.x_train, data.y_train, owners=2, alpha=1.0, seed=0)
    test = partition(data.x_test, data.y_test, owners=2, seed=0)
    for i, name in enumerate(WARDS):
        np.savez(root / name / f"{name}.npz", x_train=train[i].x, y_train=train[i].y, x_test=test[i].x, y_test=test[i].y)


def place(folder: Path, *, port: int, rounds: int) -> None:
    """Puts cluster.toml there."""
    text = (HERE / "cluster.toml").read_text().replace(":9000", f":{port}").replace(f"rounds = {ROUNDS}", f"rounds = {rounds}")
    (folder / "cluster.toml").write_text(text)


def show(line: bytes) -> None:
    """What the hub has printed."""
    print(f"hub: {line.decode().rstrip()}", flush=True)


async def main(root: Path, rounds: int) -> None:
    """Makes the folders, runs the machines, and shows what the hub prints."""
    await set_up(root, rounds)
    async with machine(root / "hub", stdout=PIPE) as hub:
        assert hub.stdout is not None
        port = int((await hub.stdout.readline()).decode().rpartition(":")[2])
        for folder in (root, *(root / name for name in WARDS)):
            place(folder, port=port, rounds=rounds)
        async with machine(root / WARDS[0]), machine(root / WARDS[1]):
            for _ in WARDS:
                show(await hub.stdout.readline())  # who has joined
            await confide(root, "status", "--cluster", "cluster.toml", "--keys", "keys")
            async for line in hub.stdout:
                show(line)
            if await hub.wait():
                raise SystemExit("the hub failed")
    print("val_accuracy is that on the 2,000 test images, half of which are at each ward")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="fewer train a worse model in less time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder), arguments.rounds))

"""The process of one client: asks a model whose answers it knows, and says in a line of JSON what it got.

It ends when its standard input does, so never outlives who started it. Some of its queries it gives up in the middle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.soak.oracle import BOUND, Oracle, question
from federated.machines.node import computing_cluster
from protocols import RemoteModel, connect
from protocols.errors import QuotaSpent
from protocols.workers.granting import Granted

TIMEOUT = 30.0
"""Seconds for a query, and for finding the model."""
PAUSE = 0.1
GIVEN_UP = 0.03
"""Which part of the queries is given up within `SOON` seconds."""
SOON = 0.15
LIMITED = 0.25
"""Which part of the queries goes to the model with a quota."""


class Watched(RemoteModel):
    """A remote model that says which masks it was given: by digests, that tell nothing of them."""

    def _check(self, granted: Granted, reveal: Any, most: int) -> None:
        super()._check(granted, reveal, most)
        say(masks=[hashlib.blake2b(row.tobytes(), digest_size=12).hexdigest() for row in np.asarray(granted.input_mask)])


def say(**what: Any) -> None:
    """Write a line for the soak."""
    print(json.dumps(what), flush=True)


async def ask(remote: RemoteModel, name: str, oracle: Oracle, given: argparse.Namespace, number: int, draw: random.Random) -> bool:
    """Ask once; return whether there is something left to ask for."""
    x = question(given.seed, given.client, number)
    within = draw.uniform(0, SOON) if draw.random() < GIVEN_UP else None
    started = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(within):
            found = await remote.query(x, timeout=TIMEOUT)
    except TimeoutError:
        say(given_up=name)
        return True
    except QuotaSpent:
        say(spent=name)
        return False
    error = float(np.abs(found - oracle.answer(x)).max())
    seconds = asyncio.get_running_loop().time() - started
    say(answered=name, number=number, error=error, seconds=seconds, **({} if error <= BOUND else {"wrong": found.tolist()}))
    return True


async def asks(given: argparse.Namespace, ended: asyncio.Event) -> None:
    """Ask until told to end; connect anew after each failure."""
    oracle, draw, number, spent = Oracle.load(given.folder / "oracle.npz"), random.Random(f"{given.seed} {given.client}"), 0, set[str]()
    cluster = computing_cluster(given.folder / "cluster.toml", keys=given.folder / "keys", name=given.name)
    while not ended.is_set():
        try:
            async with contextlib.AsyncExitStack() as stack:
                remotes = {}
                for model in given.models:
                    remotes[model] = await stack.enter_async_context(connect(cluster, model, owner="hospital", timeout=TIMEOUT))
                    remotes[model].__class__ = Watched
                say(connected=True)
                while not ended.is_set():
                    name = given.models[1] if draw.random() < LIMITED else given.models[0]
                    if name in spent and draw.random() < 0.9:  # what is spent stays spent: asked again now and then
                        name = given.models[0]
                    number += 1
                    if not await ask(remotes[name], name, oracle, given, number, draw):
                        spent.add(name)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(ended.wait(), PAUSE)
        except Exception as error:  # whatever the library raises is counted by its name
            say(failed=type(error).__name__, why=str(error)[:300])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.5)


async def run(given: argparse.Namespace) -> None:
    """Ask until standard input ends."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    try:
        await asks(given, ended)
    finally:
        asyncio.get_running_loop().remove_reader(sys.stdin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("models", nargs=2)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--client", type=int, required=True)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

"""The command: `python -m benchmarks.soak --minutes N [--seed S] [--clients C] [--json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

from rich.console import Console
from rich.table import Table

from benchmarks.soak import enclosure
from benchmarks.soak.run import Soak


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", type=Path, default=None, help="write all figures here")
    parser.add_argument("--folder", type=Path, default=None, help="keep cluster, folders and logs here; must not exist")
    parser.add_argument("--loopback", action="store_true", help="no namespaces, even where the system lets us make them")
    given = parser.parse_args()
    if not (0 < given.minutes <= 60 * 24 * 7 and 1 <= given.clients <= 64):
        parser.error("--minutes from 0 to a week, --clients from 1 to 64")
    return given


async def soak(given: argparse.Namespace, folder: Path, console: Console) -> Soak:
    """Run one, until it ends or is interrupted."""
    one = Soak(folder, given.minutes, given.seed, given.clients, lambda text: console.print(text, highlight=False))
    loop, task = asyncio.get_running_loop(), asyncio.create_task(one.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        one.found.interrupted = True
    return one


def within(given: argparse.Namespace, folder: Path) -> int:
    """Run a soak in this process; return the exit code."""
    console = Console(stderr=True)
    found = asyncio.run(soak(given, folder, console)).found
    figures = found.figures()
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))
    for name, seen in figures.items():
        if name != "bars":
            console.print(f"{name}: {seen}", highlight=False)
    table = Table("bar", "held", "seen")
    for name, (held, seen) in found.bars().items():
        table.add_row(name, "yes" if held else "NO", str(seen))
    console.print(table)
    return 0 if found.held else 1


def main() -> int:
    given = arguments()
    if enclosure.inside():
        return within(given, given.folder)
    made = given.folder is None
    if made:
        given.folder = Path(tempfile.mkdtemp(prefix="soak-"))
    else:
        given.folder.mkdir(parents=True)
    given.folder = given.folder.resolve()
    given.seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"seed {given.seed}", file=sys.stderr, flush=True)
    try:
        command = None if given.loopback else enclosure.unshared()
        if command is None:
            return within(given, given.folder)
        passed = [
            "--minutes",
            str(given.minutes),
            "--seed",
            str(given.seed),
            "--clients",
            str(given.clients),
            "--folder",
            str(given.folder),
        ]
        return enclosure.run_inside(command, passed + (["--json", str(given.json.resolve())] if given.json else []))
    finally:
        if made:
            shutil.rmtree(given.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())

"""The command: `python -m benchmarks.fuzz TARGET --runs N [--seed S] [--record] [--input FILE]`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz.mutation import Fault, Watch, search
from benchmarks.fuzz.recorded import record
from benchmarks.fuzz.targets import TARGETS


def guided(target: str, runs: int, seed: int, *, records: bool) -> int:
    """Run a target under atheris; return its exit code. What it raised at is kept in the folder that is named."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus = folder / "corpus"
    corpus.mkdir()
    for data in TARGETS[target].seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:32]).write_bytes(data)
    code = subprocess.run([sys.executable, "-m", "benchmarks.fuzz.guided", target, str(folder), str(runs), str(seed)]).returncode
    if records:
        print(f"{record(target, (path.read_bytes() for path in corpus.iterdir()))} inputs are recorded")
    left = [path for path in folder.iterdir() if path.is_file()]
    print(f"{target}: exit code {code}" + (f", inputs at fault: {', '.join(map(str, left))}" if left else ""))
    for path in corpus.iterdir():
        path.unlink()
    corpus.rmdir()
    if not left:
        folder.rmdir()
    return 1 if code else 0


def unguided(target: str, runs: int, seed: int) -> int:
    """Run a target with mutations that are not guided; return the exit code."""
    code = 0
    try:
        with TARGETS[target].ready() as run:
            watch = Watch(run)
            search(watch, TARGETS[target].seeds(), seed, runs=runs)
    except Fault as fault:
        with tempfile.NamedTemporaryFile(prefix=f"fuzz-{target}-", delete=False) as file:
            file.write(fault.data)
        print(f"{target}: {fault}\nthe input is in {file.name}")
        code = 1
    rate = watch.runs / watch.seconds if watch.seconds else 0.0
    print(
        f"{target}: {watch.runs} inputs, {watch.seconds:.1f} s of a processor ({rate:.0f} a second), slowest {watch.slowest * 1000:.1f} ms,"
        f" grown by {watch.grown / (1 << 20):.1f} MiB"
    )
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--record", action="store_true", help="add what reaches something new to the corpus; with atheris only")
    parser.add_argument("--unguided", action="store_true", help="without atheris, also where it is installed")
    parser.add_argument("--input", type=Path, default=None, help="run this input alone")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    if given.input is not None:
        with TARGETS[given.target].ready() as run:
            run(given.input.read_bytes())
        return 0
    seed = secrets.randbelow(1 << 31) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if importlib.util.find_spec("atheris") and not given.unguided:
        return guided(given.target, given.runs, seed, records=given.record)
    if given.record:
        parser.error("--record needs atheris, which tells what reaches something new: pip install --group fuzz")
    print("not guided by coverage" + ("" if given.unguided else ": atheris is not installed (pip install --group fuzz)"), flush=True)
    return unguided(given.target, given.runs, seed)


if __name__ == "__main__":
    sys.exit(main())

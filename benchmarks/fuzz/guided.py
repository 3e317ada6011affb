"""The same by atheris, guided by coverage. A process of its own: libFuzzer ends its process itself.

`python -m benchmarks.fuzz.guided TARGET FOLDER RUNS SEED`: inputs that reach something new are written into the folder.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import atheris

from benchmarks.fuzz.mutation import GROWTH, LONGEST, SLOWEST

KERNELS = Path(__file__).parents[2] / "protocols" / "mpc" / "kernels"


def main() -> None:
    name, folder, runs, seed = sys.argv[1:]
    for path in sorted(KERNELS.glob("[a-z]*.py")):  # first: numba compiles bytecode as it is, not what atheris makes of it
        importlib.import_module(f"protocols.mpc.kernels.{path.stem}")
    with atheris.instrument_imports(include=["actors", "protocols", "federated.machines", "federated.authority"]):
        from benchmarks.fuzz.targets import TARGETS
    from benchmarks.fuzz.mutation import Watch

    with TARGETS[name].ready() as run:
        watch = Watch(run)
        atheris.Setup(
            [
                sys.argv[0], f"-runs={runs}", f"-seed={seed}", f"-max_len={LONGEST}", "-len_control=50", f"-timeout={int(20 * SLOWEST)}",
                "-print_final_stats=1", f"-report_slow_units={int(SLOWEST)}", f"-artifact_prefix={folder}/",
                f"-rss_limit_mb={4096 + (GROWTH >> 20)}",
                f"{folder}/corpus",
            ],
            watch,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()

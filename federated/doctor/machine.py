"""This machine: its processor, the compiled kernels, and Keras."""

from __future__ import annotations

import importlib.util
import os
import platform
from importlib.metadata import version
from pathlib import Path

from federated.doctor.diagnosis import Diagnosis


def machine() -> list[Diagnosis]:
    """Look at this machine. Compiles the kernels if they are not: takes up to ten seconds then."""
    python = f"confide {version('confide')}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return [Diagnosis("installation", "ok", python), _processor(), _kernels(), _keras()]


def _processor() -> Diagnosis:
    from llvmlite import binding  # noqa: PLC0415  what compiles the kernels; heavy

    has = {name for name, there in binding.get_host_cpu_features().items() if there}
    wide = [name for name in ("avx512f", "avx2", "neon", "sve") if name in has]
    text = f"{binding.get_host_cpu_name()}, {os.cpu_count()} cores, {', '.join(wide) or 'no wide vectors'}"
    if not wide:
        return Diagnosis("processor", "warning", text, "the kernels run, several times slower than with AVX2 or NEON: use another machine")
    if "aes" not in has:
        return Diagnosis("processor", "warning", f"{text}, no AES", "randomness and TLS take several times as long: use another machine")
    return Diagnosis("processor", "ok", f"{text}, aes")


def _kernels() -> Diagnosis:
    from protocols.mpc import kernels  # noqa: PLC0415  compiles them

    if not kernels.COMPILED:
        return Diagnosis(
            "kernels", "warning", "in plain numpy, 10 to 100 times slower", "install numba in a version that supports this numpy"
        )
    stats = [one.stats for name in kernels.__all__ if hasattr(one := getattr(kernels, name), "stats")]
    folders = {str(one.cache_path) for one in stats if one.cache_path}
    where = ", ".join(sorted(folders))
    if len(folders) == 0 or any(not one.cache_path for one in stats):
        todo = "each process compiles for some ten seconds: give NUMBA_CACHE_DIR, a folder that its user can write"
        return Diagnosis("kernels", "warning", "no folder for compiled kernels can be written", todo)
    missed = sum(sum(one.cache_misses.values()) for one in stats)
    state = f"{missed} were compiled just now" if missed else "compiled for this version and this processor"
    text = f"{state}, in {where}"
    if missed and not all(os.access(Path(folder), os.W_OK) for folder in folders):
        return Diagnosis("kernels", "warning", f"{text}, which cannot be written", "run python -m protocols.mpc.kernels as who owns it")
    return Diagnosis("kernels", "ok", text)


def _keras() -> Diagnosis:
    missing = [name for name in ("keras", "tensorflow") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"no {' and no '.join(missing)}: workers and clients need none, owners of models do: pip install 'confide[keras]'"
        return Diagnosis("Keras", "ok", text)
    return Diagnosis("Keras", "ok", f"Keras {version('keras')}, TensorFlow {version('tensorflow')}")

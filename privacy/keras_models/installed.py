"""Whether Keras is here: an installation for workers and clients has none."""

from __future__ import annotations

import importlib.util


class KerasMissing(ImportError):
    """Something needs Keras, which is not installed on this machine."""


def require_keras(what: str) -> None:
    """Go on if Keras and TensorFlow are installed; import neither.

    Args:
        what: what needs it, as the subject of a sentence.

    Raises:
        KerasMissing: one of them is not installed; says how to.
    """
    missing = [name for name in ("keras", "tensorflow") if importlib.util.find_spec(name) is None]
    if missing:
        raise KerasMissing(f"{what} needs {' and '.join(missing)}, not installed here: pip install 'confide[keras]'")

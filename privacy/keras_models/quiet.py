"""Keras and TensorFlow without the lines that they write to standard error when they begin.

They are written before TensorFlow reads `TF_CPP_MIN_LOG_LEVEL`, by its C++: only the file descriptor can hold them back.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

STANDARD_ERROR = 2


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold back what this process writes to standard error as long as the block lasts; it is shown if the block fails, else thrown away.

    All threads are held back, and child processes that are started in the block: for imports and the like.
    """
    sys.stderr.flush()
    before = os.dup(STANDARD_ERROR)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), STANDARD_ERROR)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(before, STANDARD_ERROR)
            os.close(before)
            if failed:
                kept.seek(0)
                sys.stderr.write(kept.read().decode(errors="replace"))


def begin_keras() -> None:
    """Import Keras and have TensorFlow look for its devices, without their lines."""
    with held_back():
        import keras  # noqa: PLC0415  takes seconds

        if keras.backend.backend() == "tensorflow":
            import tensorflow  # noqa: PLC0415

            tensorflow.config.list_logical_devices()

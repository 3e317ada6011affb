"""Lowering beside an event loop: in a thread, so that connections, and whatever else the program does, go on meanwhile."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import numpy as np

from protocols import lowering
from protocols.errors import ModelError, TooLarge
from protocols.serving.hosting import MODEL_LIMIT


async def lowered_beside(model: Any, **settings: Any) -> lowering.Lowered:
    """Lower a model in a thread; see `lowering.lower` for the settings and errors.

    Keras keeps what it knows of a thread apart (dtype policy, scopes that are open): the thread is given the policy, and no scope.

    Raises:
        TooLarge: its kernels alone are more than can be shared; nothing was read.
        ModelError: its weights have changed meanwhile, so that what was read is no model.
    """
    _check_kernels(model)
    before = _digest(model)
    lowered = await asyncio.to_thread(_lowered, model, _policy(model), settings)
    if _digest(model) != before:
        raise ModelError(
            f"the weights of model {model.name!r} changed while it was read: parts of it are from before, others from after; train or "
            "load it before it is shared, or after `share` has returned"
        )
    return lowered


def _check_kernels(model: Any) -> None:
    kernels = [weight.shape for weight in getattr(model, "weights", ()) if len(weight.shape) > 1]
    size = 8 * sum(int(np.prod(shape)) for shape in kernels)
    if size > MODEL_LIMIT:
        raise TooLarge(
            f"model {model.name!r} has {size // 8:,} weights in its kernels, {size >> 20:,} MiB when they are shared; "
            f"{MODEL_LIMIT >> 20:,} MiB are allowed: share a smaller model, or the part of it that has to be secret"
        )


def _digest(model: Any) -> int:
    """Return a digest of all weights that are no counters, to tell whether they have changed."""
    digest = 0
    for weight in getattr(model, "weights", ()):
        if not str(weight.dtype).startswith(("int", "uint", "bool", "string")):
            digest = zlib.crc32(np.asarray(weight).tobytes(), digest)
    return digest


def _policy(model: Any) -> Any:
    """Return the dtype policy of this thread; None for what is no Keras model, which is refused later."""
    if not hasattr(model, "weights"):
        return None
    from keras import config  # noqa: PLC0415  only the owner needs Keras

    return config.dtype_policy()


def _lowered(model: Any, policy: Any, settings: dict[str, Any]) -> lowering.Lowered:
    if policy is None:
        return lowering.lower(model, **settings)
    from keras import config  # noqa: PLC0415  only the owner needs Keras

    own = config.dtype_policy()
    config.set_dtype_policy(policy)
    try:
        return lowering.lower(model, **settings)
    finally:
        config.set_dtype_policy(own)

"""Layers around layers, written out with Keras: what they compute is the graph that is read in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocols.lowering.refusals import refuse


def time_distributed(keras: Any, layer: Any, x: Any) -> Any:
    """The layer inside, step by step."""
    return keras.ops.stack([layer.layer(x[:, step]) for step in range(x.shape[1])], axis=1)


def bidirectional(keras: Any, layer: Any, x: Any) -> Any:
    """A recurrent layer forwards, another backwards, and both merged."""
    merges: dict[str, Callable[[Any, Any], Any]] = {
        "concat": lambda a, b: keras.ops.concatenate([a, b], axis=-1),
        "sum": lambda a, b: a + b,
        "ave": lambda a, b: (a + b) * 0.5,
        "mul": lambda a, b: a * b,
    }
    if layer.merge_mode not in merges or layer.return_state:
        raise refuse(layer, f"its merge_mode is {layer.merge_mode!r}, or it has return_state", f"one of {', '.join(merges)}, and no state")
    forward, backward = layer.forward_layer(x), layer.backward_layer(x)
    if layer.return_sequences:
        backward = keras.ops.flip(backward, axis=1)
    return merges[layer.merge_mode](forward, backward)


REWRITTEN: dict[str, Callable[..., Any]] = {
    "TimeDistributed": time_distributed,
    "Bidirectional": bidirectional,
}

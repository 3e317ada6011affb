"""Layers around layers, written out with Keras: what they compute is the graph that is read in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocols.lowering.nodes.refusals import refuse


def time_distributed(keras: Any, layer: Any, x: Any) -> Any:
    """Run the layer inside, step by step."""
    return keras.ops.stack([layer.layer(x[:, step]) for step in range(x.shape[1])], axis=1)


def bidirectional(keras: Any, layer: Any, x: Any, initial_state: Any = None) -> Any:
    """Run a recurrent layer forwards, another backwards, and merge; with `return_state` add the states of the first, then the second."""
    merges: dict[str | None, Callable[[Any, Any], Any]] = {
        "concat": lambda a, b: keras.ops.concatenate([a, b], axis=-1),
        "sum": lambda a, b: a + b,
        "ave": lambda a, b: (a + b) * 0.5,
        "mul": lambda a, b: a * b,
        None: lambda a, b: [a, b],
    }
    if layer.merge_mode not in merges:
        raise refuse(layer, f"its merge_mode is {layer.merge_mode!r}", "concat, sum, ave, mul or None")
    states = list(initial_state or ())
    if len(states) % 2:
        raise refuse(layer, f"its initial state has {len(states)} parts", "the states of both directions, as many each")
    half = len(states) // 2
    forward, *after = _run(layer.forward_layer, x, states[:half])
    backward, *before = _run(layer.backward_layer, x, states[half:])
    if layer.return_sequences:
        backward = keras.ops.flip(backward, axis=1)
    merged = merges[layer.merge_mode](forward, backward)
    return [merged, *after, *before] if layer.return_state else merged


def _run(layer: Any, x: Any, states: list[Any]) -> list[Any]:
    """Return the output of a recurrent layer, and its states if it gives them."""
    result = layer(x, initial_state=states) if states else layer(x)
    return list(result) if isinstance(result, list | tuple) else [result]


REWRITTEN: dict[str, Callable[..., Any]] = {
    "TimeDistributed": time_distributed,
    "Bidirectional": bidirectional,
}

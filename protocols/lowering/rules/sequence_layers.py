"""Rules of embeddings, attention and recurrent layers, unrolled over their steps; see `layers.py` for what a rule is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from protocols.curves.activations import CURVES
from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Real
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.rules.arithmetic import Operand, alike, times
from protocols.lowering.rules.layers import activated, lowers, weights
from protocols.lowering.rules.nonlinear_layers import sequence
from protocols.lowering.rules.operations import rows_of
from protocols.lowering.rules.truths import masked, truth_of


@lowers("Embedding")
def embedding(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Rows of a private table by private indices: compared with all indices, then a matrix product."""
    (table,) = weights(layer, "embeddings")
    return rows_of(b, layer, table, inputs[0])


@lowers("MultiHeadAttention")
def multi_head_attention(
    b: NetworkBuilder,
    layer: Any,
    inputs: Sequence[int],
    *,
    query_mask: Operand | None = None,
    value_mask: Operand | None = None,
    key_mask: Operand | None = None,
    attention_mask: Operand | None = None,
    use_causal_mask: bool = False,
) -> int:
    """softmax(Q K / sqrt(d)) V for each head (Vaswani et al., 2017, arXiv:1706.03762); inputs are query, value and, if given, key.

    Masks are public arrays, or private values of 0 and 1, such as those of an Embedding with mask_zero.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    query, value, key = (*inputs, inputs[1])[:3]
    (steps, _), (places, _) = sequence(b, layer, query), sequence(b, layer, value)
    heads, depth, width = layer.num_heads, layer.key_dim, layer.value_dim
    q = _headed(b, layer, query, "query", 1 / math.sqrt(depth))
    k = _headed(b, layer, key, "key")
    v = b.add(net.Permuted, layer, [_headed(b, layer, value, "value")], (heads, places, width), axes=(1, 0, 2))
    q = b.add(net.Permuted, layer, [q], (heads, steps, depth), axes=(1, 0, 2))
    k = b.add(net.Permuted, layer, [k], (heads, depth, places), axes=(1, 2, 0))
    scores = b.add(net.Matrices, layer, [q, k], (heads, steps, places))
    if internals.is_windowed_or_gated(layer):
        raise refuse(layer, "it has a sliding window or a gate", "attention_mask= with the same window, and Multiply")
    causal = np.tril(np.ones((steps, places))) if use_causal_mask else None
    scores = masked(b, layer, scores, [(query_mask, -1), (value_mask, -2), (key_mask, -2), (attention_mask, None), (causal, None)])
    chosen = b.add(net.Matrices, layer, [b.add(net.Softmax, layer, [scores], (heads, steps, places)), v], (heads, steps, width))
    moved = b.add(net.Permuted, layer, [chosen], (steps, heads, width), axes=(1, 0, 2))
    flat = b.add(net.Shaped, layer, [moved], (steps, heads * width))
    kernel, bias = weights(internals.output_projection(layer), "kernel", "bias")
    assert kernel is not None
    if kernel.ndim != 3:
        raise refuse(layer, f"its output_shape is {kernel.shape[2:]}", "an output of (steps, units)")
    return b.add(net.Product, layer, [flat], (steps, kernel.shape[2]), kernel=kernel.reshape(heads * width, -1), bias=bias)


@lowers("Attention", "AdditiveAttention")
def attention(
    b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Sequence[Operand | None] | None = None, use_causal_mask: bool = False
) -> int:
    """softmax(scores) V, inputs query, value and, if given, key; what the query's mask hides gives 0."""
    query, value, key = (*inputs, inputs[1])[:3]
    (steps, _), (places, width) = sequence(b, layer, query), sequence(b, layer, value)
    scores = (_additive if type(layer).__name__ == "AdditiveAttention" else _multiplied)(b, layer, query, key)
    of_query, of_value = (*(mask or ()), None, None)[:2]
    causal = np.tril(np.ones((steps, places))) if use_causal_mask else None
    scores = masked(b, layer, scores, [(of_value, -2), (causal, None)])
    chosen = b.add(net.Matrices, layer, [b.add(net.Softmax, layer, [scores], (steps, places)), value], (steps, width))
    if of_query is None:
        return chosen
    assert isinstance(of_query, int)
    return times(b, layer, chosen, b.add(net.Shaped, layer, [truth_of(b, layer, of_query)], (steps, 1)))


def _multiplied(b: NetworkBuilder, layer: Any, query: int, key: int) -> int:
    """scale Q K (Luong et al., 2015, arXiv:1508.04025)."""
    if layer.score_mode != "dot":
        raise refuse(layer, f"its score_mode is {layer.score_mode!r}", "score_mode='dot', or AdditiveAttention")
    (steps, depth), (places, _) = b.shape(query), b.shape(key)
    turned = b.add(net.Permuted, layer, [key], (depth, places), axes=(1, 0))
    scores = b.add(net.Matrices, layer, [query, turned], (steps, places))
    (scale,) = weights(layer, "scale")
    return scores if scale is None else times(b, layer, scores, np.broadcast_to(scale, (steps, places)))


def _additive(b: NetworkBuilder, layer: Any, query: int, key: int) -> int:
    """sum over the depth of scale tanh(q + k), for each step and place (Bahdanau et al., 2015, arXiv:1409.0473)."""
    (steps, depth), (places, _) = b.shape(query), b.shape(key)
    apart = [b.add(net.Shaped, layer, [x], shape) for x, shape in ((query, (steps, 1, depth)), (key, (1, places, depth)))]
    values, shape = alike(b, layer, apart)
    curved = b.add(net.Curved, layer, [b.add(net.SignedSum, layer, values, shape, signs=(1, 1))], shape, curve=CURVES["tanh"])
    (scale,) = weights(layer, "scale")
    kernel = np.ones((depth, 1)) if scale is None else scale.reshape(depth, 1)
    return b.add(net.Shaped, layer, [b.add(net.Product, layer, [curved], (steps, places, 1), kernel=kernel, bias=None)], (steps, places))


def _headed(b: NetworkBuilder, layer: Any, x: int, name: str, factor: float = 1.0) -> int:
    """Project x for all heads: (steps, heads, depth)."""
    kernel, bias = weights(getattr(layer, f"_{name}_dense"), "kernel", "bias")
    assert kernel is not None
    steps, units = b.shape(x)[0], kernel.shape[1] * kernel.shape[2]
    flat = None if bias is None else bias.reshape(-1) * factor
    z = b.add(net.Product, layer, [x], (steps, units), kernel=kernel.reshape(len(kernel), units) * factor, bias=flat)
    return b.add(net.Shaped, layer, [z], (steps, *kernel.shape[1:]))


class Steps:
    """The pieces of a recurrent layer, of `units` each, step by step."""

    def __init__(self, b: NetworkBuilder, layer: Any, x: int, units: int) -> None:
        self.b, self.layer, self.units = b, layer, units
        self._x = x

    def input(self, step: int) -> int:
        """Write what the inputs of one step give to all gates: (gates * units,)."""
        gates = self.b.shape(self._x)[1]
        return self.b.add(
            net.Shaped, self.layer, [self.b.add(net.Taken, self.layer, [self._x], (1, gates), axis=0, indices=(step,))], (gates,)
        )

    def gate(self, x: int, number: int, count: int = 1) -> int:
        """One gate of all."""
        places = tuple(range(number * self.units, (number + count) * self.units))
        return self.b.add(net.Taken, self.layer, [x], (len(places),), axis=0, indices=places)

    def recurrent(self, h: int, kernel: Real, bias: Real | None = None) -> int:
        """Write what the state gives to all gates."""
        return self.b.add(net.Product, self.layer, [h], (kernel.shape[1],), kernel=kernel, bias=bias)

    def shifted(self, x: int, shift: Real) -> int:
        """x + private numbers."""
        return self.b.add(net.ChannelAffine, self.layer, [x], self.b.shape(x), scale=np.ones(len(shift)), shift=shift)

    def scaled(self, x: int, scale: Real) -> int:
        """x times private numbers."""
        return self.b.add(net.ChannelAffine, self.layer, [x], self.b.shape(x), scale=scale, shift=np.zeros(len(scale)))

    def sum(self, *xs: int, signs: tuple[int, ...] | None = None) -> int:
        """Add values with signs."""
        return self.b.add(net.SignedSum, self.layer, xs, self.b.shape(xs[0]), signs=signs or (1,) * len(xs))

    def product(self, x: int, y: int) -> int:
        """Element for element."""
        return self.b.add(net.Multiplied, self.layer, [x, y], self.b.shape(x))

    def kept(self, after: tuple[int, ...], before: tuple[int, ...] | None, bit: int) -> tuple[int, ...]:
        """before + bit (after - before): each part of the state after a step if the bit is 1, before it if it is 0."""
        if before is None:
            return tuple(times(self.b, self.layer, new, bit) for new in after)
        changes = [self.sum(new, old, signs=(1, -1)) for new, old in zip(after, before, strict=True)]
        return tuple(self.sum(old, times(self.b, self.layer, change, bit)) for old, change in zip(before, changes, strict=True))

    def active(self, x: int) -> int:
        """Apply the layer's activation."""
        return activated(self.b, self.layer, x)

    def gated(self, x: int) -> int:
        """Apply the layer's recurrent activation."""
        return activated(self.b, _Gate(self.layer), x)


class _Gate:
    """The recurrent activation of a layer in the place of its activation, for `activated`."""

    def __init__(self, layer: Any) -> None:
        self.name, self.activation = layer.name, layer.recurrent_activation


Given = Sequence[Operand] | Operand | None
State = tuple[int, ...]
Step = Callable[[Steps, int, State | None], State]
"""What the input gives to the gates, and the state before (None: it is 0) -> the state after; its first part is the output."""


def _unrolled(
    b: NetworkBuilder,
    layer: Any,
    inputs: Sequence[int],
    bias: Real | None,
    step: Step,
    mask: Operand | None,
    initial: Given,
) -> int | list[int]:
    """Run `step` over the sequence, the state staying where the private mask is 0. Return the output, and the state if asked for."""
    if layer.stateful or isinstance(mask, np.ndarray) or (mask is not None and getattr(layer, "zero_output_for_mask", False)):
        raise refuse(layer, "it is stateful, or its mask is a constant or sets outputs to 0", "a layer that starts anew, or a private mask")
    mask = None if mask is None else truth_of(b, layer, mask)
    length, _ = sequence(b, layer, inputs[0])
    (kernel,) = weights(layer.cell, "kernel")
    assert kernel is not None
    x = b.add(net.Product, layer, inputs[:1], (length, kernel.shape[1]), kernel=kernel, bias=bias)
    steps = Steps(b, layer, x, layer.units)
    state, outputs = _started(b, layer, inputs[1:], initial), []
    for place in reversed(range(length)) if layer.go_backwards else range(length):
        after = step(steps, steps.input(place), state)
        state = after if mask is None else steps.kept(after, state, b.add(net.Taken, layer, [mask], (1,), axis=0, indices=(place,)))
        outputs.append(state[0])
    assert state is not None
    rows = [b.add(net.Shaped, layer, [h], (1, layer.units)) for h in outputs] if layer.return_sequences else []
    output = b.add(net.Joined, layer, rows, (length, layer.units), axis=0) if rows else state[0]
    return [output, *state] if layer.return_state else output


def _started(b: NetworkBuilder, layer: Any, others: Sequence[int], initial: Given) -> State | None:
    """Return the state before the first step, None for zeros. Keras counts a list of states among the inputs, a single one by name not."""
    named = initial if isinstance(initial, Sequence) else [initial]
    constants = [each for each in named if isinstance(each, np.ndarray)]
    if constants and (len(constants) < len(named) or any(each.any() for each in constants)):
        raise refuse(layer, "its initial state is a constant other than 0", "the state of another layer, or none")
    state = tuple(others) or tuple(each for each in named if isinstance(each, int))
    if state and len(state) != (2 if type(layer).__name__ == "LSTM" else 1):
        raise refuse(layer, f"its initial state has {len(state)} parts", "the whole state of another layer of its kind")
    if any(b.shape(each) != (layer.units,) for each in state):
        raise refuse(layer, f"its initial state has shapes {[b.shape(each) for each in state]}", f"one of ({layer.units},) for each part")
    return state or None


@lowers("SimpleRNN")
def simple_rnn(
    b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Operand | None = None, initial_state: Given = None
) -> int | list[int]:
    """h = activation(x W + h R + b)."""
    recurrent, bias = weights(layer.cell, "recurrent_kernel", "bias")
    assert recurrent is not None

    def step(s: Steps, x: int, state: State | None) -> State:
        return (s.active(x if state is None else s.sum(x, s.recurrent(state[0], recurrent))),)

    return _unrolled(b, layer, inputs, bias, step, mask, initial_state)


@lowers("LSTM")
def lstm(
    b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Operand | None = None, initial_state: Given = None
) -> int | list[int]:
    """c = f c + i g, h = o activation(c) with the gates i, f, g, o (Hochreiter and Schmidhuber, 1997)."""
    recurrent, bias = weights(layer.cell, "recurrent_kernel", "bias")
    assert recurrent is not None

    def step(s: Steps, x: int, state: State | None) -> State:
        z = x if state is None else s.sum(x, s.recurrent(state[0], recurrent))
        opened = s.gated(s.gate(z, 0, 2))  # i and f
        c = s.product(s.gate(opened, 0), s.active(s.gate(z, 2)))
        if state is not None:
            c = s.sum(c, s.product(s.gate(opened, 1), state[1]))
        return s.product(s.gated(s.gate(z, 3)), s.active(c)), c

    return _unrolled(b, layer, inputs, bias, step, mask, initial_state)


@lowers("GRU")
def gru(
    b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Operand | None = None, initial_state: Given = None
) -> int | list[int]:
    """h = g + z (h - g) with the gates z, r, and g = activation(x + r (h R + b)) (Cho et al., 2014), `reset_after` as in Keras."""
    recurrent, bias = weights(layer.cell, "recurrent_kernel", "bias")
    assert recurrent is not None
    if not layer.reset_after:
        raise refuse(layer, "reset_after is not set", "GRU(reset_after=True), the default")
    outer, inner = (None, np.zeros(recurrent.shape[1])) if bias is None else (bias[0], bias[1])

    def step(s: Steps, x: int, state: State | None) -> State:
        if state is None:  # the state is 0, h R + b is b
            opened = s.gated(s.shifted(s.gate(x, 0, 2), inner[: 2 * layer.units]))
            new = s.active(s.sum(s.gate(x, 2), s.scaled(s.gate(opened, 1), inner[2 * layer.units :])))
            return (s.sum(new, s.product(s.gate(opened, 0), new), signs=(1, -1)),)
        (h,) = state
        y = s.recurrent(h, recurrent, inner)
        opened = s.gated(s.sum(s.gate(x, 0, 2), s.gate(y, 0, 2)))
        new = s.active(s.sum(s.gate(x, 2), s.product(s.gate(opened, 1), s.gate(y, 2))))
        kept = s.product(s.gate(opened, 0), s.sum(new, h, signs=(1, -1)))
        return (s.sum(new, kept, signs=(1, -1)),)

    return _unrolled(b, layer, inputs, outer, step, mask, initial_state)

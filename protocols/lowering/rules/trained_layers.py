"""Rules of layers that do something else in a training than in a prediction; see `layers.py` for what a rule is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from protocols.lowering.nodes import network as net
from protocols.lowering.nodes.builder import NetworkBuilder
from protocols.lowering.nodes.network import Node
from protocols.lowering.nodes.refusals import refuse
from protocols.lowering.nodes.training import BatchNormalised, Dropped, Noisy, Penalised
from protocols.lowering.rules.layers import RULES, Rule
from protocols.lowering.rules.nonlinear_layers import learned

TRAINED: dict[str, Rule] = {}
"""Rules that take the place of those of predictions where a layer is called in a training."""


def trains(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for layers of these classes."""

    def register(rule: Rule) -> Rule:
        TRAINED.update(dict.fromkeys(names, rule))
        return rule

    return register


@trains("BatchNormalization")
def batch_normalization(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """By the statistics of the batch, unless it is frozen."""
    if not layer.trainable:
        frozen: int = RULES["BatchNormalization"](b, layer, inputs)
        return frozen
    shape = b.shape(inputs[0])
    if layer.axis not in (-1, len(shape)):
        raise refuse(layer, f"it normalises axis {layer.axis}", "axis=-1")
    settings = {"epsilon": float(layer.epsilon), "momentum": float(layer.momentum)}
    x = b.add(BatchNormalised, layer, inputs, shape, mean=layer.moving_mean, variance=layer.moving_variance, **settings)
    return learned(b, layer, x)


@trains("Dropout")
def dropout(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """One draw for each number, or for all along axes where its noise shape is 1."""
    given, shape = layer.noise_shape, b.shape(inputs[0])
    if given is not None and (len(given) != len(shape) + 1 or given[0] == 1):
        raise refuse(layer, f"its noise_shape is {given}", f"one of {len(shape) + 1} axes, with a draw for each example")
    repeated = tuple(axis for axis, n in enumerate(given[1:]) if n == 1) if given is not None else ()
    return dropped(b, layer, inputs[0], layer.rate, repeated)


@trains("SpatialDropout1D", "SpatialDropout2D")
def spatial_dropout(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """One draw for each channel."""
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise refuse(layer, "data_format is 'channels_first'", "data_format='channels_last'")
    return dropped(b, layer, inputs[0], layer.rate, tuple(range(len(b.shape(inputs[0])) - 1)))


@trains("GaussianDropout", "GaussianNoise")
def gaussian(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Noise that is multiplied, or added."""
    multiplied = type(layer).__name__ == "GaussianDropout"
    deviation = math.sqrt(layer.rate / (1 - layer.rate)) if multiplied else float(layer.stddev)
    if not deviation:
        return inputs[0]
    return b.add(Noisy, layer, inputs[:1], b.shape(inputs[0]), deviation=deviation, multiplied=multiplied)


@trains("AlphaDropout")
def alpha_dropout(b: NetworkBuilder, layer: Any, inputs: Sequence[int]) -> int:
    """Write a (x m + alpha' (1 - m)) + c = a (x - alpha') m + a alpha' + c for a draw m (Klambauer et al., 2017, arXiv:1706.02515)."""
    if layer.noise_shape is not None:
        raise refuse(layer, f"its noise_shape is {layer.noise_shape}", "AlphaDropout without one")
    rate, shape, low = float(layer.rate), b.shape(inputs[0]), -1.6732632423543772 * 1.0507009873554805
    if not rate:
        return inputs[0]
    scale = ((1 - rate) * (1 + rate * low**2)) ** -0.5
    moved = b.add(net.Rescale, layer, inputs[:1], shape, scale=1.0, offset=-low)
    kept = b.add(net.Rescale, layer, [dropped(b, layer, moved, rate, ())], shape, scale=scale * (1 - rate), offset=0.0)
    return b.add(net.Rescale, layer, [kept], shape, scale=1.0, offset=scale * low * (1 - rate))


@trains("LSTM", "GRU", "SimpleRNN")
def recurrent(b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Any = None, initial_state: Any = None) -> Any:
    """As in a prediction, with dropouts of its inputs and of its state: one draw for all steps.

    As in Keras the state, where it is dropped, is so for each gate by itself, and so are the inputs then.
    """
    rule = RULES[type(layer).__name__]
    if layer.recurrent_dropout:
        return rule(_DroppingStates(b, layer), layer, inputs, mask=mask, initial_state=initial_state)
    first = dropped(b, layer, inputs[0], layer.dropout, (0,))
    return rule(b, layer, [first, *inputs[1:]], mask=mask, initial_state=initial_state)


@trains("MultiHeadAttention")
def multi_head_attention(
    b: NetworkBuilder,
    layer: Any,
    inputs: Sequence[int],
    *,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    use_causal_mask: bool = False,
) -> int:
    """Write attention of several heads as in a prediction, with a dropout of what the softmax gives."""
    masks = {"query_mask": query_mask, "value_mask": value_mask, "key_mask": key_mask, "attention_mask": attention_mask}
    rule = RULES["MultiHeadAttention"]
    result: int = rule(_Dropping(b, layer, layer.dropout), layer, inputs, use_causal_mask=use_causal_mask, **masks)
    return result


@trains("Attention", "AdditiveAttention")
def attention(b: NetworkBuilder, layer: Any, inputs: Sequence[int], *, mask: Any = None, use_causal_mask: bool = False) -> int:
    """Write attention as in a prediction, with a dropout of what the softmax gives."""
    rule = RULES[type(layer).__name__]
    result: int = rule(_Dropping(b, layer, layer.dropout), layer, inputs, mask=mask, use_causal_mask=use_causal_mask)
    return result


class _Dropping(NetworkBuilder):
    """A builder that puts a dropout behind each softmax."""

    def __init__(self, b: NetworkBuilder, layer: Any, rate: float) -> None:
        self.nodes, self._layer, self._rate = b.nodes, layer, rate

    def add(self, node_class: type[Node], layer: Any, inputs: Sequence[int], shape: Sequence[int], **settings: Any) -> int:
        """As a builder does, and the dropout."""
        position = super().add(node_class, layer, inputs, shape, **settings)
        return dropped(self, self._layer, position, self._rate, ()) if node_class is net.Softmax else position


class _DroppingStates(NetworkBuilder):
    """A builder that puts a dropout before each product with the kernels of a recurrent layer, another one for each of its gates.

    Inputs are multiplied as (steps, features), and states as (units,).
    """

    def __init__(self, b: NetworkBuilder, layer: Any) -> None:
        self.nodes, self._layer = b.nodes, layer
        self._gates = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}[type(layer).__name__]
        self._draws = [(len(b.nodes), gate) for gate in range(self._gates)]

    def add(self, node_class: type[Node], layer: Any, inputs: Sequence[int], shape: Sequence[int], **settings: Any) -> int:
        """As a builder does; of a product each gate is that of what was dropped for it."""
        of_inputs = len(shape) == 2
        rate = float(self._layer.dropout if of_inputs else self._layer.recurrent_dropout)
        if node_class is not net.Product or not rate:
            return super().add(node_class, layer, inputs, shape, **settings)
        (x,), count, units = inputs, self._gates, shape[-1] // self._gates
        taken = self.shape(x)
        rows = [
            self.add(Dropped, layer, [x], taken, rate=rate, repeated=(0,) if of_inputs else (), draw=None if of_inputs else draw)
            for draw in self._draws
        ]
        if count == 1:
            return super().add(node_class, layer, rows, shape, **settings)
        steps = 1 if not of_inputs else shape[0]
        rows = [self.add(net.Shaped, layer, [row], (1, steps, taken[-1])) for row in rows]
        joined = self.add(net.Joined, layer, rows, (count, steps, taken[-1]), axis=0)
        products = super().add(node_class, layer, [joined], (count, steps, shape[-1]), **settings)
        apart = self.add(net.Shaped, layer, [products], (count, steps, count, units))
        turned = self.add(net.Permuted, layer, [apart], (count, count, steps, units), axes=(0, 2, 1, 3))
        pairs = self.add(net.Shaped, layer, [turned], (count * count, steps, units))
        own = tuple(gate * (count + 1) for gate in range(count))
        gates = self.add(net.Taken, layer, [pairs], (count, steps, units), axis=0, indices=own)
        return self.add(net.Shaped, layer, [self.add(net.Permuted, layer, [gates], (steps, count, units), axes=(1, 0, 2))], shape)


def dropped(b: NetworkBuilder, layer: Any, x: int, rate: float, repeated: tuple[int, ...]) -> int:
    """Write a dropout, if there is one."""
    return b.add(Dropped, layer, [x], b.shape(x), rate=float(rate), repeated=repeated) if rate else x


def penalised(keras: Any, b: NetworkBuilder, layer: Any, x: int) -> int:
    """Write the penalty that a layer adds to the loss for a value that it gives.

    Raises:
        UnsupportedLayer: it is none of Keras' L1, L2 and L1L2.
    """
    asked, kinds = layer.activity_regularizer, keras.regularizers
    if type(asked) not in (kinds.L1, kinds.L2, kinds.L1L2):
        raise refuse(layer, f"its activity_regularizer is {type(asked).__name__}", "L1, L2 or L1L2 of keras.regularizers")
    l1, l2 = (float(getattr(asked, name, 0.0)) for name in ("l1", "l2"))
    return b.add(Penalised, layer, [x], b.shape(x), l1=l1, l2=l2)

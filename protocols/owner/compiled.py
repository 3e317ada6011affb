"""A compiled Keras model becomes a plan: which networks, losses and optimizers can be trained on shares. Only the owner needs Keras."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from protocols.errors import ModelError, UnsupportedLayer
from protocols.lowering.nodes.network import Real
from protocols.owner.compiled_graph import VANISHED, following, network
from protocols.owner.compiled_loss import check_named, compiled_loss, endings, expects
from protocols.owner.compiled_optimizer import compiled_optimizer, weighted
from protocols.owner.fit.heads import CompiledHead, ends, heads
from protocols.owner.metrics import threshold
from protocols.owner.objectives.endings import Compared
from protocols.owner.objectives.penalties import constraints, penalties
from protocols.training.networks.distances import CategoricalHinge
from protocols.training.networks.losses import AS_GIVEN, AnyLoss, Head, JointLoss, Loss
from protocols.training.networks.window import WEIGHTS
from protocols.training.step import Plan

ANSWERED = frozenset(
    {"loss_weights", "metrics", "learning_rate schedule", "weight_decay", "loss_scale_factor", "dtype", "frozen weights", "integer weights"}
    | {"clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps", "use_ema", "LossScaleOptimizer"}
    | {"regularizer", "activity_regularizer", "constraint", "reduction sum", "seed", "several losses"}
)
"""What a step on shares does of all that a compiled model may ask for, beside what changes no number."""

_SAID_BETTER = frozenset({"optimizer of one's own", "reduction none", "reduction mean_with_sample_weight", "ignore_class"})
"""What is refused further on, by name and with a reason of its own."""


def plan(model: Any) -> Plan:
    """Return what `model.fit` would do, in public numbers.

    Raises:
        UnsupportedLayer: a layer that cannot be trained on shares.
        ModelError: a loss or an optimizer that cannot, or a model that is not compiled.
    """
    return planned(model)[0]


def weights(model: Any) -> list[Real]:
    """Return the numbers of the weights of a plan, in its order: those that are trained as they are now, and those that are not.

    Raises:
        ModelError: one that is trained is no number that fixed point holds. It is named.
    """
    _, kept = planned(model)
    found = {one.path: np.atleast_1d(np.asarray(one.numpy(), np.float64)) for one in model.trainable_variables}
    for path, numbers in found.items():
        if not (np.abs(numbers) <= 2.0**WEIGHTS).all():
            raise ModelError(f"weight {path!r} has numbers beyond +-{2**WEIGHTS:,}, or none at all: these cannot be trained on shares")
    return [*found.values(), *kept]


def check_parted(model: Any) -> None:
    """Refuse to compute steps in micro-batches where a layer needs the whole batch; what else mixes examples is not trained on shares.

    Raises:
        ModelError: it names the layer.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    for layer in internals.layers_within(model):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ModelError(
                f"layer {layer.name!r} (BatchNormalization) normalises by the statistics of the whole batch, so that a step cannot be"
                " computed in micro-batches: leave micro_batch_size out, or freeze the layer, or use a LayerNormalization or"
                " GroupNormalization"
            )


def ending(model: Any) -> tuple[str | None, ...]:
    """Return the activation at the end of each output if it belongs to its loss, and not to the nodes: softmax, or a name of `CURVES`."""
    return network(model, *map(_compared, heads(model))).endings


def places(model: Any) -> list[int]:
    """Where the weights that a training changes stand among all weights of a model, in the order of its plan."""
    order = {id(variable): place for place, variable in enumerate(model.weights)}
    return [order[id(variable)] for variable in (*model.trainable_variables, *following(model).values())]


def planned(model: Any) -> tuple[Plan, list[Real]]:
    """Return the plan, see `plan`, and the numbers that stay as they are.

    Raises:
        UnsupportedLayer: see `plan`.
        ModelError: see `plan`.
    """
    import keras  # noqa: PLC0415  only the owner needs Keras

    if getattr(model, "optimizer", None) is None or model.loss is None:
        raise ModelError(f"model {model.name!r} is not compiled: compile(optimizer=keras.optimizers.SGD(0.1), loss=...) says how to train")
    check_named(model, keras)
    _answer(model)
    _check_layers(model, keras)
    each = heads(model)
    found = network(model, *map(_compared, each))
    losses = [compiled_loss(head, keras, ending=ending) for head, ending in zip(each, found.endings, strict=True)]
    weight, optimizer = max(head.weight for head in each), compiled_optimizer(model, keras, found.variables)
    for head in each:
        weighted(model, optimizer, head.weight, weight)
    edges = [_edge(model, head, one.loss, ending=ending) for head, one, ending in zip(each, losses, found.endings, strict=True)]
    joint = len(each) > 1
    loss: AnyLoss = losses[0].loss
    if joint:
        made = zip(each, losses, edges, strict=True)
        loss = JointLoss(
            tuple(Head(head.name, math.prod(head.shape), one.loss, one.labels, head.weight / weight, edge) for head, one, edge in made)
        )
    parts = ends(model, "inputs")
    plan = Plan(
        found.layers,
        found.example,
        found.outputs,
        found.variables,
        loss,
        optimizer,
        weight=weight,
        penalties=penalties(model, found.variables),
        constraints=constraints(model, found.variables),
        threshold=0.0 if joint else edges[0],
        labels=AS_GIVEN if joint else losses[0].labels,
        summed=losses[0].summed,  # all alike: `_answer` refuses several reductions
        parts=tuple(map(math.prod, parts.shapes)) if parts.several else (),
    )
    return plan, list(found.kept.values())


def _compared(head: CompiledHead) -> Compared:
    return Compared(expects(head) not in ("labels", "one-hot rows", "labels 0 and 1"), endings(head))


def _edge(model: Any, head: CompiledHead, loss: Loss, *, ending: str | None) -> float:
    """Return the threshold of an output, see `metrics.threshold`.

    Raises:
        ModelError: a metric of it is not told; or its loss compares several numbers, and it is one.
    """
    outputs = math.prod(head.shape)
    edge = threshold(head, loss, outputs, ending=ending)
    if isinstance(loss, CategoricalHinge) and outputs == 1:
        raise ModelError(f"model {model.name!r} has one output, and a categorical hinge compares several")
    if loss == "crossentropy" and outputs == 1:
        raise ModelError(
            f"model {model.name!r} has one output, and a softmax over one output is always 1: nothing would be learnt. End in an output for"
            " each class, or use BinaryCrossentropy"
        )
    return edge


def _answer(model: Any) -> None:
    """Refuse a model that asks for what a step on shares does not do.

    Raises:
        ModelError: naming it.
    """
    from privacy.keras_models.asks import EVALUATION, HOW_IT_RUNS, refusal  # noqa: PLC0415  only the owner reads Keras models

    refused = refusal(model, ANSWERED | HOW_IT_RUNS | EVALUATION | _SAID_BETTER, step="training on shares")
    if refused is not None:
        raise ModelError(refused)


def _check_layers(model: Any, keras: Any) -> None:
    """Refuse layers that a training changes in a way that has no form on shares, wherever they stand.

    Raises:
        UnsupportedLayer: it names the layer, and what it has.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    if not model.trainable_variables:
        raise ModelError(f"model {model.name!r} has no trainable weights: all of it is frozen, or it has none")
    layers = internals.layers_within(model, itself=False)
    for layer in layers:
        name = f"layer {layer.name!r} ({type(layer).__name__})"
        if isinstance(layer, keras.layers.TimeDistributed) and following(layer):
            raise UnsupportedLayer(f"{name} normalises by its batch, step by step, which is not trained on shares; freeze what is inside")
        if getattr(layer, "data_format", "channels_last") not in ("channels_last", None):
            raise UnsupportedLayer(f"{name} has its channels first: on shares they come last")
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            raise UnsupportedLayer(f"{name} is quantized or adapted: a plain layer is needed")
    _unvanished(layers)


def _unvanished(layers: Sequence[Any]) -> None:
    """Refuse kernels that are not zero and would be: a network of zeros does not learn.

    Raises:
        ModelError: it names the layer.
    """
    for layer in layers:
        for kernel in (one for one in layer.trainable_variables if "kernel" in one.name):
            largest = float(abs(kernel.numpy()).max())
            if 0 < largest < VANISHED:
                raise ModelError(
                    f"the kernel of layer {layer.name!r} has weights up to {largest:.1e}, which vanish in fixed point: begin with weights"
                    f" above {VANISHED:.1e}, or with zeros"
                )

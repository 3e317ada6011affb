"""What a compiled model asks for beyond layers, loss and optimizer. Knows no step of training; each step says what it does of it.

`compile`, the class of a model and its layers can say more than a training step of one's own follows: weights of losses, losses that
layers add, a `train_step`, constraints, clipping and so on. `asks` lists all of that. A step names what it does, and refuses the rest by
`refusal`; what this file has never heard of (a new argument of `compile` or of optimizers, another method that a class replaces) is an ask
under its own name, and so is refused by every step that does not know it.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from privacy.keras_models import internals
from privacy.keras_models.added_losses import ADDED, added_losses

Model = Any  # keras.Model; Keras has no types

HOW_IT_RUNS: Final = frozenset({"run_eagerly", "jit_compile", "steps_per_execution"})
"""Asks for another way to the same numbers."""
METRICS: Final = frozenset({"metrics", "weighted_metrics", "compute_metrics", "get_metrics_result", "reset_metrics", "metrics_names"})
"""Asks for what is told of a training, which moves no weight. A `metrics` property of the class counts as `own metrics`."""
REDUCTIONS: Final = frozenset({"reduction sum", "reduction none", "reduction mean_with_sample_weight", "several reductions"})
"""Losses that are not the mean over a batch."""
EVALUATION: Final = frozenset({"test_step", "make_test_function", "evaluate", "test_on_batch"})
"""Methods of one's own that evaluate."""
FUNCTION: Final = frozenset({"call", "__call__", "compute_mask"})
"""Methods of one's own that compute the outputs."""
OPTIMIZER: Final = frozenset(
    {
        "learning_rate schedule",
        "weight_decay",
        "clipnorm",
        "clipvalue",
        "global_clipnorm",
        "use_ema",
        "gradient_accumulation_steps",
        "loss_scale_factor",
        "optimizer of one's own",
    }
)
"""Asks that Keras' own optimizers fulfil in `apply`."""

_HARMLESS: Final = frozenset(
    {"build", "build_from_config", "compile", "compile_from_config", "compute_output_shape", "compute_output_spec", "export"}
    | {"from_config", "get_build_config", "get_compile_config", "get_config", "get_layer", "load_own_variables", "load_weights"}
    | {"make_predict_function", "predict", "predict_on_batch", "predict_step", "quantize", "save", "save_own_variables"}
    | {"save_weights", "summary", "to_json"}
)
"""Methods whose replacement changes no training: what is saved, printed, predicted, or said to `compile`."""
_LIBRARIES: Final = frozenset({"keras", "tensorflow", "builtins"})
_MEANINGS: Final = {
    "loss_weights": "each loss counts so many times",
    "metrics": "these are told beside the loss",
    "weighted_metrics": "these are told, with the weights of the examples",
    "steps_per_execution": "so many steps run in one call",
    "run_eagerly": "each step runs as plain Python",
    "jit_compile": "XLA compiles the step",
    "train_step": "a step of its own takes the place of Keras'",
    "compute_loss": "a loss of its own takes the place of the compiled one",
    "metrics of one's own": "the class says which metrics there are",
    "weight_decay": "weights decay beside each update",
    "clipnorm": "the gradient of each weight is clipped by its norm",
    "global_clipnorm": "all gradients are clipped by their common norm",
    "clipvalue": "each element of a gradient is clipped",
    "use_ema": "the average of the weights takes their place in the end",
    "gradient_accumulation_steps": "so many gradients make one update",
    "loss_scale_factor": "the loss is scaled up, and gradients down",
}


@dataclass(frozen=True)
class Ask:
    """Something that a compiled model asks of whoever trains it.

    Args:
        name: by which steps know it.
        said: where.
        meaning: in plain English.
    """

    name: str
    said: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name} ({self.said}: {self.meaning})"


def asks(model: Model, inputs: Any = None) -> Iterator[Ask]:
    """Yield all that a model asks for beyond layers, loss and optimizer; what `compile` says only if it is compiled.

    Args:
        model: a `keras.Model`.
        inputs: a nest of specifications of its inputs (shape, dtype), for a model that has no symbolic ones; without both, what layers
            add to the loss is not looked for.
    """
    yield from _of_class(model)
    yield from _of_compile(model)
    yield from _of_losses(model)
    yield from _of_optimizer(getattr(model, "optimizer", None))
    yield from _of_layers(model)
    for name, layer, meaning in added_losses(model, inputs):
        yield Ask(name, f"layer {layer!r}", meaning)


def refusal(model: Model, answered: Collection[str], *, step: str, inputs: Any = None) -> str | None:
    """Say why a step cannot train a model, naming each ask that it does not answer; None if it answers all.

    Args:
        model: a `keras.Model`.
        answered: the names of what the step does.
        step: its name, for the text.
        inputs: as for `asks`.
    """
    left = unanswered(model, answered, inputs)
    if not left:
        return None
    many = f"; {step} does none of them: leave them out" if len(left) > 1 else f"; {step} does not do that: leave it out"
    return f"model {model.name!r} asks for {', for '.join(map(str, left))}{many}, or train in another way"


def unanswered(model: Model, answered: Collection[str], inputs: Any = None) -> tuple[Ask, ...]:
    """List what a model asks for and `answered` does not name."""
    if set(ADDED) <= set(answered):  # Keras' own way: nobody has to look
        parts = (
            _of_class(model),
            _of_compile(model),
            _of_losses(model),
            _of_optimizer(getattr(model, "optimizer", None)),
            _of_layers(model),
        )
        return tuple(one for part in parts for one in part if one.name not in answered)
    return tuple(one for one in asks(model, inputs) if one.name not in answered)


def lost(model: Model, copy: Model) -> tuple[str, ...]:
    """List what a model says and a copy that was built from its configuration does not: what was set beside the constructors.

    Args:
        model: compiled.
        copy: built from the configuration of the model, compiled, its optimizer built.
    """
    if len(model.weights) != len(copy.weights):
        return (f"{len(model.weights)} weights (and its copy {len(copy.weights)})",)
    missing = {one.name for one in _of_class(model)} - {one.name for one in _of_class(copy)}
    for one, before, after in zip(model.weights, _sayings(model), _sayings(copy), strict=True):
        missing.update(f"{name} of {one.path}" for name, a, b in zip(_OF_A_WEIGHT, before, after, strict=True) if a != b)
    return tuple(sorted(missing))


_OF_A_WEIGHT: Final = ("trainable", "regularizer", "constraint", "overwrite_with_gradient", "exclude_from_weight_decay")


def _sayings(model: Model) -> list[tuple[object, ...]]:
    """List what is said of each weight, in the order of `_OF_A_WEIGHT`. A layer may be frozen whose variables are not."""
    trained = {id(variable) for variable in model.trainable_variables}
    decaying = bool(getattr(model.optimizer, "weight_decay", None))
    return [
        (
            id(weight) in trained,
            type(weight.regularizer).__name__,
            type(weight.constraint).__name__,
            getattr(weight, "overwrite_with_gradient", False),
            decaying and internals.decays(model.optimizer, weight),
        )
        for weight in model.weights
    ]


def _of_class(model: Model) -> Iterator[Ask]:
    """Yield the methods of `keras.Model` that the class of the model, or the model itself, replaces."""
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    known = {name for name in dir(keras.Model) if not name.startswith("__") or name == "__call__"} - _HARMLESS
    own: dict[str, str] = {}
    for cls in type(model).__mro__:
        if cls.__module__.partition(".")[0] in _LIBRARIES:
            continue
        for name, value in vars(cls).items():
            if name in known and (callable(value) or hasattr(value, "__get__")):
                own.setdefault(name, cls.__qualname__)
    for name, value in vars(model).items():
        bound = type(getattr(value, "__self__", None)).__module__.partition(".")[0]
        if name in known and name != "loss" and inspect.isroutine(value) and bound != "privacy":
            own.setdefault(name, f"model {model.name!r}")
    for name, where in own.items():
        named = "metrics of one's own" if name == "metrics" else name
        yield Ask(named, f"{where}.{name}", _MEANINGS.get(named, f"a {name} of its own takes the place of Keras'"))


def _of_compile(model: Model) -> Iterator[Ask]:
    """Yield the arguments of `compile` that are not as they are by default."""
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    parameters = inspect.signature(keras.Model.compile).parameters
    for name, value in internals.compile_arguments(model).items():
        default = parameters[name].default if name in parameters else None
        if name not in ("optimizer", "loss") and _is_said(value, default):
            shown = value if isinstance(value, (bool, int, float)) or name == "loss_weights" else "..."
            yield Ask(name, f"compile({name}={shown})", _MEANINGS.get(name, "Keras follows it"))


def _is_said(value: Any, default: Any) -> bool:
    """Whether the value of an argument is another than what is there without it. An array always is, and 0.0 is a number."""
    if value is None or value is False or (isinstance(value, (list, tuple, dict)) and not value):
        return False
    return not isinstance(value, (bool, int, float, str)) or value != default


def _of_losses(model: Model) -> Iterator[Ask]:
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    losses = [keras.losses.get(one) for one in keras.tree.flatten(getattr(model, "loss", None)) if one is not None]
    if getattr(model, "compiled", False) and not losses:
        yield Ask("no loss", "compile(loss=None)", "the model is trained by the losses that it adds itself")
    if len(losses) > 1:
        yield Ask("several losses", f"compile(loss={len(losses)} losses)", "the sum of the losses of several outputs is trained")
    kinds = reductions(model)
    for kind in sorted(kinds - {"mean"}):
        yield Ask(f"reduction {kind}", f"loss(reduction={kind!r})", "it says how the losses of a batch become one number")
    if len(kinds) > 1:
        yield Ask("several reductions", f"compile(loss={len(losses)} losses)", f"they are reduced by {', '.join(sorted(kinds))}")
    ignoring = [one for one in losses if getattr(one, "ignore_class", None) is not None]
    if ignoring:
        ignored = ignoring[0].ignore_class
        yield Ask("ignore_class", f"loss(ignore_class={ignored})", "labels of that class do not count, in the mean neither")


def reductions(model: Model) -> frozenset[str]:
    """Give how the losses of a compiled model reduce a batch: "mean", "sum", "none" or "mean_with_sample_weight", of each output."""
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    losses = [keras.losses.get(one) for one in keras.tree.flatten(model.loss) if one is not None]
    given = [getattr(one, "reduction", "mean") for one in losses]
    return frozenset({"sum_over_batch_size": "mean", None: "none"}.get(one, str(one)) for one in given)


def _of_optimizer(optimizer: Any) -> Iterator[Ask]:
    """Yield the settings that all optimizers of Keras share and that are not as they are by default."""
    if optimizer is None:
        return
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    kind = type(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        yield Ask("LossScaleOptimizer", "compile(optimizer=)", "the loss is scaled, and steps whose gradients overflow are left out")
        yield from _of_optimizer(optimizer.inner_optimizer)
        return
    if kind.__module__.partition(".")[0] not in _LIBRARIES:
        yield Ask("optimizer of one's own", kind.__qualname__, "its class is none of Keras'")
    if callable(internals.learning_rate(optimizer)):
        yield Ask("learning_rate schedule", f"{kind.__name__}(learning_rate=)", "the learning rate changes from step to step")
    settings = optimizer.get_config()
    shared = [inspect.signature(one.__init__).parameters for one in keras.optimizers.Optimizer.__mro__ if "__init__" in vars(one)]
    for name, parameter in {name: one for parameters in shared for name, one in parameters.items()}.items():
        value = settings.get(name)
        details = name in ("self", "learning_rate", "name", "kwargs", "ema_momentum", "ema_overwrite_frequency")
        if not details and value and value != parameter.default:
            yield Ask(name, f"{kind.__name__}({name}={value})", _MEANINGS.get(name, "Keras' optimizers follow it"))


def _of_layers(model: Model) -> Iterator[Ask]:
    """Yield what weights and layers say, each kind once, with the first place that says it."""
    import keras  # noqa: PLC0415  takes seconds, and only those who have a model need it

    found: dict[str, Ask] = {}

    def say(name: str, where: str, meaning: str) -> None:
        found.setdefault(name, Ask(name, where, meaning))

    trained = {id(variable) for variable in model.trainable_variables}
    for variable in model.weights:
        where = f"weight {variable.path!r}"
        if id(variable) in trained:
            if variable.regularizer is not None:
                say("regularizer", where, "a penalty on it is added to the loss")
            if variable.constraint is not None:
                say("constraint", where, "it is projected after each update")
            if getattr(variable, "overwrite_with_gradient", False):
                say("overwrite_with_gradient", where, "its gradient takes its place")
        elif "float" in str(variable.dtype):
            say("frozen weights", where, "it has no gradient")
        if "float" not in str(variable.dtype):
            say("integer weights", where, f"it is {variable.dtype}, and no sum of it means anything")
    for layer in internals.layers_within(model):
        where = f"layer {layer.name!r}"
        if isinstance(layer, keras.layers.ActivityRegularization) or getattr(layer, "activity_regularizer", None) is not None:
            say("activity_regularizer", where, "a penalty on its outputs is added to the loss")
        if getattr(layer, "compute_dtype", "float32") in ("float16", "bfloat16", "float64"):
            say("dtype", where, f"it computes in {layer.compute_dtype}")
        if isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator):
            say("seed", where, "it draws at random in training")
    yield from found.values()

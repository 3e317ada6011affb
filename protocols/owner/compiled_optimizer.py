"""The optimizer of a compiled Keras model: which ones can be used on shares, and the learning rates of its schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from protocols.errors import ModelError
from protocols.training.networks.layers import Variable
from protocols.training.networks.losses import EXACT, JointLoss
from protocols.training.networks.optimizers import (
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    Adaptive,
    Clip,
    GradientDescent,
    Lion,
    Nadam,
    Optimizer,
    RMSprop,
    rates,
)
from protocols.training.step import Plan


def compiled_optimizer(model: Any, keras: Any, variables: Sequence[Variable]) -> Optimizer:
    """Return the optimizer that `model` is compiled with; of a schedule only the first rate, see `scheduled`.

    Args:
        model: compiled.
        keras: the module.
        variables: those of the plan, of which the first are the trainable ones of the model.

    Raises:
        ModelError: it cannot be used on shares.
    """
    optimizer = inner(model.optimizer)
    kind, settings = type(optimizer), optimizer.get_config()
    makers = {getattr(keras.optimizers, name): maker for name, maker in _MAKERS.items()}
    if kind not in makers:
        raise ModelError(
            f"the optimizer {kind.__name__} cannot be trained on shares; {', '.join(sorted(_MAKERS))} of keras.optimizers can be"
        )
    _check_rate(optimizer, keras)
    _check_anew(optimizer)
    decay = float(settings["weight_decay"] or 0.0)
    common: dict[str, Any] = {
        "rate": float(optimizer.learning_rate),
        "decay": decay,
        "exempt": _exempt(optimizer, model, variables) if decay else (),
        "clip": _clip(settings, kind.__name__),
        "gathered": int(settings.get("gradient_accumulation_steps") or 1),
    } | _averages(settings, kind.__name__)
    made = makers[kind](settings, common)
    return made if _has_schedule(model) else _checked(made)


def inner(optimizer: Any) -> Any:
    """Return what a `LossScaleOptimizer` wraps: it scales losses for float16, and in fixed point nothing has to be scaled."""
    import keras  # noqa: PLC0415  only the owner needs Keras

    return optimizer.inner_optimizer if type(optimizer) is keras.optimizers.LossScaleOptimizer else optimizer


def _clip(settings: dict[str, Any], kind: str) -> Clip | None:
    for setting, by in (("clipnorm", "norm"), ("global_clipnorm", "global norm"), ("clipvalue", "value")):
        if settings.get(setting):
            try:
                return Clip(by, float(settings[setting]))  # type: ignore[arg-type]
            except ModelError as error:
                raise ModelError(f"{kind} with {setting}={settings[setting]} cannot be trained on shares: {error}") from None
    return None


def _averages(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    if not settings.get("use_ema"):
        return {}
    stays, often = float(settings["ema_momentum"]), int(settings.get("ema_overwrite_frequency") or 0)
    if not 0 <= stays <= 1 - LEAST_OF_AVERAGES:
        raise ModelError(
            f"{kind} with ema_momentum={stays:g} cannot be trained on shares: it must lie between 0 and {1 - LEAST_OF_AVERAGES:g}"
        )
    return {"average": stays, "overwriting": often}


def _has_schedule(model: Any) -> bool:
    """Whether the learning rate changes: the first one may be 0, or vanish beside others."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return callable(internals.learning_rate(inner(model.optimizer)))


def _check_rate(optimizer: Any, keras: Any) -> None:
    """Refuse a learning rate that is a function of nothing: Keras calls it once a step, and what it gives then is not known before.

    Raises:
        ModelError: it is.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    rate = internals.learning_rate(optimizer)
    if callable(rate) and not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        raise ModelError(
            f"the learning rate of {type(optimizer).__name__} is a function that is called in each step: on shares it is a number, or a"
            " keras.optimizers.schedules.LearningRateSchedule, whose rates are known before"
        )


def _check_anew(optimizer: Any) -> None:
    """Refuse an optimizer that has made steps in the clear and goes on from what it has kept: on shares it begins anew.

    Raises:
        ModelError: it has.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    made = int(optimizer.iterations)
    plain = type(optimizer).__name__ == "SGD" and not float(optimizer.momentum) and not callable(internals.learning_rate(optimizer))
    if made and not plain:
        raise ModelError(
            f"{type(optimizer).__name__} has made {made} steps in the clear, and on shares it begins anew, without its moments and at the"
            " first rate of a schedule: compile the model again with a new optimizer if that is meant"
        )


def _exempt(optimizer: Any, model: Any, variables: Sequence[Variable]) -> tuple[str, ...]:
    """Return the names of weights that `exclude_from_weight_decay` was told of."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    both = zip(model.trainable_variables, variables, strict=False)  # those that stay come last
    return tuple(known.name for variable, known in both if not internals.decays(optimizer, variable))


def _descent(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    return GradientDescent(momentum=float(settings["momentum"]), nesterov=bool(settings["nesterov"]), **common)


def _betas(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    first, second = float(settings["beta_1"]), float(settings["beta_2"])
    if not (0 <= first < 1 and first**2 < second < 1):
        raise ModelError(f"{kind} with beta_1={first}, beta_2={second} cannot be trained on shares: 0 <= beta_1^2 < beta_2 < 1 is needed")
    if settings.get("epsilon", 0.0) > LARGEST_EPSILON:
        raise ModelError(
            f"{kind} with epsilon={settings['epsilon']:g} cannot be trained on shares: there it is about {LARGEST_EPSILON:g};"
            f" use at most that, like Keras' 1e-7"
        )
    return {"beta_1": first, "beta_2": second}


def _adam(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    return Adam(amsgrad=bool(settings["amsgrad"]), **_betas(settings, "Adam"), **common)


def _nadam(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    return Nadam(**_betas(settings, "Nadam"), **common)


def _adamax(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    return Adamax(**_betas(settings, "Adamax"), **common)


def _lion(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    first, second = float(settings["beta_1"]), float(settings["beta_2"])
    if not (0 <= first <= 1 - LEAST_OF_LION and 0 <= second <= 1 - LEAST_OF_LION):
        raise ModelError(
            f"Lion with beta_1={first}, beta_2={second} cannot be trained on shares: both must lie between 0 and {1 - LEAST_OF_LION:g}"
        )
    return Lion(beta_1=first, beta_2=second, **common)


def _rmsprop(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    _check_share("RMSprop", "rho", float(settings["rho"]))
    _check_share("RMSprop", "momentum", float(settings["momentum"]))
    return RMSprop(
        rho=float(settings["rho"]),
        momentum=float(settings["momentum"]),
        epsilon=float(settings["epsilon"]),
        centered=bool(settings["centered"]),
        **common,
    )


def _adagrad(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    return Adagrad(initial=float(settings["initial_accumulator_value"]), epsilon=float(settings["epsilon"]), **common)


def _adadelta(settings: dict[str, Any], common: dict[str, Any]) -> Optimizer:
    _check_share("Adadelta", "rho", float(settings["rho"]))
    return Adadelta(rho=float(settings["rho"]), epsilon=float(settings["epsilon"]), **common)


def _check_share(kind: str, setting: str, share: float) -> None:
    if not 0 <= share < 1:
        raise ModelError(f"{kind} with {setting}={share:g} cannot be trained on shares: a number from 0 up to 1 is needed")


_MAKERS: dict[str, Callable[[dict[str, Any], dict[str, Any]], Optimizer]] = {
    "SGD": _descent,
    "Adam": _adam,
    "AdamW": _adam,
    "Nadam": _nadam,
    "Adamax": _adamax,
    "Lion": _lion,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Adadelta": _adadelta,
}

LEAST_OF_AVERAGES = 2.0**-12
"""How much of a weight must count in its average, at least."""

LEAST_OF_LION = 2.0**-9
"""How much of a gradient must count, at least, for the sign of a mean to be told."""

LARGEST_EPSILON = 1e-6
"""What is divided by on shares is never below about this."""


def _checked(optimizer: Optimizer) -> Optimizer:
    rates(optimizer)
    return optimizer


LEAST_OF_ADAM = 0.01
"""Weight of the loss below which the epsilon of Adam would no longer be small beside gradients."""


def weighted(model: Any, optimizer: Optimizer, weight: float, most: float) -> None:
    """Refuse an optimizer that cannot go with a loss that counts `weight` times, beside others that count `most` times.

    Adam divides by the gradient's size: its steps stay the same. Of a schedule the rates are looked at when all are known, see `scheduled`.

    Raises:
        ModelError: steps would vanish in fixed point, or be too large.
    """
    if isinstance(optimizer, Adaptive):
        kind, least = type(optimizer).__name__, LEAST_OF_ADAM * max(1.0, most)
        if weight < least:
            raise ModelError(f"loss_weights={weight:g} cannot be trained on shares with {kind}: at least {least:g} is needed")
    elif not _has_schedule(model):
        _check_weighted(optimizer, weight)


def _check_weighted(optimizer: Optimizer, weight: float) -> None:
    """Refuse rates that vanish, or are too large, because a loss counts so many times."""
    if weight == 1.0 or isinstance(optimizer, Adaptive):
        return
    found = [rate * weight for rate in rates(optimizer)]
    try:
        rates(msgspec.structs.replace(optimizer, rate=found[0], schedule=tuple(found) if optimizer.schedule else ()))
    except ModelError as error:
        raise ModelError(f"loss_weights={weight:g} times the learning rate: {error}") from None


def scheduled(model: Any, optimizer: Optimizer, start: int, steps: int, *weights: float) -> Optimizer:
    """`optimizer` with the learning rates that the model's own has now, for steps up to `start` + `steps`, evaluated here in the clear.

    Args:
        model: compiled, its optimizer with a number or a `LearningRateSchedule` for its learning rate.
        optimizer: what it was before.
        start: how many steps have been made.
        steps: how many will be made.
        weights: how many times the loss counts, of several outputs the loss of each.

    Raises:
        ModelError: a learning rate is no number from 0, or too large, or all of them vanish in fixed point, at whatever step that would be.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    rate = internals.learning_rate(inner(model.optimizer))
    if callable(rate):
        found = tuple(float(rate(step)) for step in range(start + steps))
        now = _checked(msgspec.structs.replace(optimizer, rate=found[0], schedule=found))
    else:
        now = _checked(msgspec.structs.replace(optimizer, rate=float(inner(model.optimizer).learning_rate), schedule=()))
    for weight in weights:
        _check_weighted(now, weight)
    return now


def unrated(plan: Plan) -> Plan:
    """Return `plan` without what may change while it is trained: the learning rate, and what is told."""
    optimizer = msgspec.structs.replace(plan.optimizer, rate=1.0, schedule=())
    loss = plan.loss
    if isinstance(loss, JointLoss):
        loss = JointLoss(tuple(msgspec.structs.replace(head, threshold=0.0) for head in loss.heads))
    return msgspec.structs.replace(plan, loss=loss, optimizer=optimizer, value=False, threshold=0.0, sums=EXACT)


def goes_on(model: Any, optimizer: Optimizer) -> bool:
    """Say whether an optimizer keeps something from step to step that a new one in its place would begin anew: moments, or a schedule."""
    return bool(optimizer.states({"": ()})) or _has_schedule(model)

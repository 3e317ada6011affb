"""The optimizer of a compiled Keras model: which ones can be used on shares, and the learning rates of its schedule."""

from __future__ import annotations

from typing import Any

import msgspec

from protocols.errors import ModelError
from protocols.training.networks.losses import EXACT
from protocols.training.networks.optimizers import Adam, GradientDescent, Optimizer, rates
from protocols.training.step import Plan

_REFUSED = {
    "clipnorm": "the norm of a gradient would have to be known, or compared and divided on shares",
    "global_clipnorm": "the norm of a gradient would have to be known, or compared and divided on shares",
    "clipvalue": "each gradient would be compared twice in each step",
    "use_ema": "the average is not kept on shares",
    "gradient_accumulation_steps": "use a larger batch_size instead, which costs less",
}


def compiled_optimizer(model: Any, keras: Any) -> Optimizer:
    """The optimizer that `model` is compiled with; of a schedule only the first rate, see `scheduled`.

    Raises:
        ModelError: it cannot be used on shares.
    """
    optimizer = model.optimizer
    kind, settings = type(optimizer), optimizer.get_config()
    if kind not in (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW):
        raise ModelError(f"the optimizer {kind.__name__} cannot be trained on shares; SGD, Adam and AdamW of keras.optimizers can be")
    for setting, reason in _REFUSED.items():
        if settings.get(setting):
            raise ModelError(f"{kind.__name__} with {setting}={settings[setting]} cannot be trained on shares: {reason}; leave it out")
    _check_rate(optimizer, keras)
    _check_anew(optimizer)
    decay = float(settings["weight_decay"] or 0.0)
    biases_exempt = bool(decay) and _biases_are_spared(model)
    rate = float(optimizer.learning_rate)
    if kind is keras.optimizers.SGD:
        made: Optimizer = GradientDescent(rate, float(settings["momentum"]), bool(settings["nesterov"]), decay, biases_exempt)
    else:
        made = _adam(settings, rate, decay, biases_exempt)
    return made if _has_schedule(model) else _checked(made)


def _has_schedule(model: Any) -> bool:
    """Whether the learning rate changes: the first one may be 0, or vanish beside others."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    return callable(internals.learning_rate(model.optimizer))


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


def _biases_are_spared(model: Any) -> bool:
    """Whether `exclude_from_weight_decay` was told of the biases; all of them or none."""
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    def decays(variable: Any) -> bool:
        return internals.decays(model.optimizer, variable)

    biases = {decays(v) for v in model.trainable_variables if v.name == "bias"}
    if not all(decays(v) for v in model.trainable_variables if v.name != "bias") or len(biases) > 1:
        raise ModelError("the optimizer excludes some weights from weight_decay: on shares all weights decay, or all but the biases")
    return biases == {False}


def _adam(settings: dict[str, Any], rate: float, decay: float, biases_exempt: bool) -> Adam:
    first, second = float(settings["beta_1"]), float(settings["beta_2"])
    if not (0 <= first < 1 and first**2 < second < 1):
        raise ModelError(f"Adam with beta_1={first}, beta_2={second} cannot be trained on shares: 0 <= beta_1^2 < beta_2 < 1 is needed")
    if settings["epsilon"] > LARGEST_EPSILON:
        raise ModelError(
            f"Adam with epsilon={settings['epsilon']:g} cannot be trained on shares: there it is about {LARGEST_EPSILON:g};"
            f" use at most that, like Keras' 1e-7"
        )
    return Adam(rate, first, second, bool(settings["amsgrad"]), decay, biases_exempt)


LARGEST_EPSILON = 1e-6
"""What is divided by on shares is never below about this."""


def _checked(optimizer: Optimizer) -> Optimizer:
    rates(optimizer)
    return optimizer


LEAST_OF_ADAM = 0.01
"""Weight of the loss below which the epsilon of Adam would no longer be small beside gradients."""


def weighted(model: Any, optimizer: Optimizer, weight: float) -> Optimizer:
    """`optimizer`, if it can go with a loss that counts `weight` times. Adam divides by the gradient's size: its steps stay the same.

    Of a schedule the rates are looked at when all are known, see `scheduled`.

    Raises:
        ModelError: steps would vanish in fixed point, or be too large.
    """
    if isinstance(optimizer, Adam):
        if weight < LEAST_OF_ADAM:
            raise ModelError(f"loss_weights={weight:g} cannot be trained on shares with Adam: at least {LEAST_OF_ADAM:g} is needed")
    elif not _has_schedule(model):
        _check_weighted(optimizer, weight)
    return optimizer


def _check_weighted(optimizer: Optimizer, weight: float) -> None:
    """Refuse rates that vanish, or are too large, because a loss counts so many times."""
    if weight == 1.0 or isinstance(optimizer, Adam):
        return
    found = [rate * weight for rate in rates(optimizer)]
    try:
        rates(msgspec.structs.replace(optimizer, rate=found[0], schedule=tuple(found) if optimizer.schedule else ()))
    except ModelError as error:
        raise ModelError(f"loss_weights={weight:g} times the learning rate: {error}") from None


def scheduled(model: Any, optimizer: Optimizer, start: int, steps: int, weight: float = 1.0) -> Optimizer:
    """`optimizer` with the learning rates that the model's own has now, for steps up to `start` + `steps`, evaluated here in the clear.

    Args:
        model: compiled, its optimizer with a number or a `LearningRateSchedule` for its learning rate.
        optimizer: what it was before.
        start: how many steps have been made.
        steps: how many will be made.
        weight: how many times the loss counts.

    Raises:
        ModelError: a learning rate is no number from 0, or too large, or all of them vanish in fixed point, at whatever step that would be.
    """
    from privacy.keras_models import internals  # noqa: PLC0415  only the owner reads Keras models

    rate = internals.learning_rate(model.optimizer)
    if callable(rate):
        found = tuple(float(rate(step)) for step in range(start + steps))
        now = _checked(msgspec.structs.replace(optimizer, rate=found[0], schedule=found))
    else:
        now = _checked(msgspec.structs.replace(optimizer, rate=float(model.optimizer.learning_rate), schedule=()))
    _check_weighted(now, weight)
    return now


def unrated(plan: Plan) -> Plan:
    """Return `plan` without what may change while it is trained: the learning rate, and what is told."""
    optimizer = msgspec.structs.replace(plan.optimizer, rate=1.0, schedule=())
    return msgspec.structs.replace(plan, optimizer=optimizer, value=False, threshold=0.0, sums=EXACT)


def goes_on(model: Any, optimizer: Optimizer) -> bool:
    """Say whether an optimizer keeps something from step to step that a new one in its place would begin anew: moments, or a schedule."""
    return bool(optimizer.states({"": ()})) or _has_schedule(model)

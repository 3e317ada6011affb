"""The optimizer of a compiled Keras model: which ones can be used on shares."""

from __future__ import annotations

from typing import Any

from protocols.errors import ModelError
from protocols.training.optimizers import GradientDescent, factor


def compiled_optimizer(model: Any, keras: Any) -> GradientDescent:
    """The optimizer that `model` is compiled with.

    Raises:
        ModelError: it cannot be used on shares.
    """
    optimizer = model.optimizer
    if type(optimizer) is not keras.optimizers.SGD:
        raise ModelError(f"the optimizer {type(optimizer).__name__} cannot be trained on shares; keras.optimizers.SGD can be")
    settings = optimizer.get_config()
    for setting in (
        "nesterov",
        "weight_decay",
        "clipnorm",
        "global_clipnorm",
        "clipvalue",
        "use_ema",
        "gradient_accumulation_steps",
    ):
        if settings.get(setting):
            raise ModelError(
                f"SGD with {setting}={settings[setting]} cannot be trained on shares; SGD with a constant learning rate and momentum can be"
            )
    if not isinstance(settings["learning_rate"], float | int):
        raise ModelError("SGD with a learning-rate schedule cannot be trained on shares; a constant learning rate can be")
    found = GradientDescent(float(optimizer.learning_rate), float(settings["momentum"]))
    factor(found, 1.0)
    return found

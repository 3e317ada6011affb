"""The training of an owner with Keras, as methods of local training use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from federated.errors import UpdateHeldBack
from federated.methods.course import Fitted, Optimizing
from federated.records.data import Data
from federated.tasks.update import Setting, Task, Weights
from privacy.keras_models import internals

if TYPE_CHECKING:
    import keras


class Pull:
    """What is added to the gradients of a model before its optimizer has them: a constant, and a pull towards an anchor.

    Args:
        model: compiled, whose optimizer is given other gradients from now on.

    Raises:
        UpdateHeldBack: it has a `LossScaleOptimizer`.
    """

    def __init__(self, model: keras.Model) -> None:
        import keras  # noqa: PLC0415  is loaded already: there is a model

        if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
            raise UpdateHeldBack("methods of training change gradients, and those of a LossScaleOptimizer are scaled: compile without it")
        variables = model.trainable_variables
        self._linear, self._anchor = ([keras.Variable(one, trainable=False) for one in variables] for _ in range(2))
        self._mu = keras.Variable(0.0, trainable=False)
        apply = model.optimizer.apply

        def pulled(gradients: Any, trainable_variables: Any = None) -> Any:
            found = [
                keras.ops.convert_to_tensor(g) + keras.ops.cast(c, g.dtype) + keras.ops.cast(self._mu * (w - a), g.dtype)
                for g, w, c, a in zip(gradients, variables, self._linear, self._anchor, strict=True)
            ]
            return apply(found, trainable_variables)

        model.optimizer.apply = pulled

    def set(self, linear: Weights | None, anchor: Weights, proximal: float) -> None:
        """Say what is added from now on.

        Args:
            linear: for each trained weight; None: nothing.
            anchor: trained weights.
            proximal: mu.
        """
        for variable, value in zip(self._linear, linear or [np.zeros(one.shape) for one in anchor], strict=True):
            variable.assign(value)
        for variable, value in zip(self._anchor, anchor, strict=True):
            variable.assign(value)
        self._mu.assign(proximal)


class KerasCourse:
    """See `federated.methods.course.Course`.

    Args:
        model: compiled.
        pull: on its gradients.
        task: what the owner is asked.
        data: to train on.
        trained: of each weight, whether it is trained.
        state: what the owner remembers.
        passes: sets weights, makes the passes over the data, and returns the logs of the last one.

    Attributes:
        logs: of the last passes from the global weights.
    """

    def __init__(
        self,
        model: keras.Model,
        pull: Pull,
        task: Task,
        data: Data,
        trained: tuple[bool, ...],
        state: dict[str, Any],
        passes: Callable[[Weights], dict[str, Any]],
    ) -> None:
        self._model, self._pull, self._data, self._passes = model, pull, data, passes
        self.weights, self.trained, self.sent, self.state = task.weights, trained, task.travelling, state
        self.config: Mapping[str, Setting] = task.config
        self.arrays: Mapping[str, Weights] = task.arrays
        self.logs: dict[str, Any] | None = None
        self._rate = task.training.learning_rate
        owners = {id(variable): layer for layer in internals.layers_within(model) for variable in layer.weights}
        layers = [owners.get(id(variable)) for variable in model.weights]
        self.layers = tuple((layer.name, type(layer).__name__) if layer is not None else ("", "") for layer in layers)

    def fit(self, start: Weights, *, linear: Weights | None = None, proximal: float = 0.0) -> Fitted:
        """See `Course.fit`."""
        anchor = [array for array, moves in zip(self.weights, self.trained, strict=True) if moves]
        self._pull.set(linear, anchor, proximal)
        logs = self._passes(start)
        self.logs = self.logs or logs
        return Fitted(self._model.get_weights(), int(self._model.optimizer.iterations.numpy()))

    def loss(self, weights: Weights) -> float:
        """See `Course.loss`."""
        self._model.set_weights(weights)
        return float(self._model.evaluate(**self._data.given, verbose=0, return_dict=True)["loss"])

    def descent(self) -> Optimizing | None:
        """See `Course.descent`."""
        import keras  # noqa: PLC0415  is loaded already: there is a model

        optimizer = self._model.optimizer
        config = optimizer.get_config()
        changed = ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "gradient_accumulation_steps", "nesterov")
        rate = config.get("learning_rate") if self._rate is None else self._rate
        if type(optimizer) is not keras.optimizers.SGD or any(config.get(name) for name in changed) or not isinstance(rate, (int, float)):
            return None
        return Optimizing(float(rate), float(config["momentum"]))

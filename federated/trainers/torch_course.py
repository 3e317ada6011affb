"""The training of an owner with PyTorch, as methods of local training use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from federated.errors import UpdateHeldBack
from federated.methods.course import Fitted, Optimizing
from federated.models.weights import is_kept
from federated.tasks.update import Setting, Weights

if TYPE_CHECKING:
    import torch

Pull = Callable[["torch.nn.Module"], None]
"""Changes the gradients of a module before its optimizer has them."""


def frozen(module: torch.nn.Module) -> list[bool]:
    """Of what is in the `state_dict`, whether it is a parameter that requires no gradient."""
    still = {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    return [name in still for name in module.state_dict()]


class TorchCourse:
    """See `federated.methods.course.Course`. Floats of a module that are not frozen count as trained; only parameters have gradients.

    Args:
        module: whose training it is.
        weights: the global ones.
        config: what the trainer was told and given.
        state: what the owner remembers.
        passes: sets weights, makes the passes over the data with a pull on the gradients, and returns how many steps they took.
        loss: the loss of weights.
        optimizer: a new optimizer of the module, as it begins.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        weights: Weights,
        config: Mapping[str, Any],
        state: dict[str, Any],
        *,
        passes: Callable[[Weights, Pull], int],
        loss: Callable[[Weights], float],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._module, self._passes, self.loss, self._optimizer = module, passes, loss, optimizer
        self.weights, self.state = weights, state
        self.trained = tuple(not (is_kept(array.dtype) or still) for array, still in zip(weights, frozen(module), strict=True))
        self.sent = self.trained
        self.config: Mapping[str, Setting] = {name: value for name, value in config.items() if not isinstance(value, list)}
        self.arrays: Mapping[str, Weights] = {name: value for name, value in config.items() if isinstance(value, list)}
        kinds = {name: type(one).__name__ for name, one in module.named_modules()}
        owners = [name.rpartition(".")[0] for name in module.state_dict()]
        self.layers = tuple((owner, kinds.get(owner, "")) for owner in owners)

    def fit(self, start: Weights, *, linear: Weights | None = None, proximal: float = 0.0) -> Fitted:
        """See `Course.fit`."""
        import torch  # noqa: PLC0415  not everybody has it

        names = list(self._module.state_dict())
        given = dict(zip([name for name, moves in zip(names, self.trained, strict=True) if moves], linear or [], strict=bool(linear)))
        anchors = dict(zip(names, self.weights, strict=True))
        if proximal and self._buffers():
            raise UpdateHeldBack("this method pulls all that is averaged, and the module has statistics without a gradient: use another")

        def pull(module: torch.nn.Module) -> None:
            for name, parameter in module.named_parameters():
                if parameter.grad is None:
                    continue
                if linear:
                    parameter.grad += torch.as_tensor(given[name], dtype=parameter.dtype)
                if proximal:
                    parameter.grad += proximal * (parameter.detach() - torch.as_tensor(anchors[name], dtype=parameter.dtype))

        steps = self._passes(start, pull)
        return Fitted([value.detach().numpy().copy() for value in self._module.state_dict().values()], steps)

    def _buffers(self) -> bool:
        """Whether it has floats that are no parameters, or parameters without gradients."""
        parameters = {name for name, one in self._module.named_parameters() if one.requires_grad}
        return any(moves and name not in parameters for name, moves in zip(self._module.state_dict(), self.trained, strict=True))

    def descent(self) -> Optimizing | None:
        """See `Course.descent`."""
        import torch  # noqa: PLC0415  not everybody has it

        groups = self._optimizer.param_groups
        if type(self._optimizer) is not torch.optim.SGD or len(groups) != 1:
            return None
        group = groups[0]
        if any(group.get(name) for name in ("weight_decay", "dampening", "nesterov", "maximize")):
            return None
        return Optimizing(float(group["lr"]), float(group["momentum"]))

"""The secure operations: each is one class that says all about it, and is found because its file is here.

`AnyOp` is any of them, as messages need it: by the name of its class.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Union

from protocols.mpc.engine.operation import Operation

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _operations(kind: type[Operation]) -> list[type[Operation]]:
    """Return the operations that are a kind of `kind`, in the order of their names."""
    below = [one for child in kind.__subclasses__() for one in _operations(child)]
    return sorted([*below, *([] if kind.abstract else [kind])], key=lambda one: one.__name__)


if TYPE_CHECKING:
    AnyOp = Operation
else:
    AnyOp = Union[tuple(_operations(Operation))]  # noqa: UP007  made at run time

__all__ = ["AnyOp"]

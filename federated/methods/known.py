"""All methods of local training, by the name that tasks call them."""

from __future__ import annotations

from typing import Final

from federated.errors import UpdateHeldBack
from federated.methods.clustered import Clustered
from federated.methods.course import Method
from federated.methods.dynamic import Dynamic
from federated.methods.fair import Fair
from federated.methods.normalised import StepsNormalised
from federated.methods.personal import Beside, Layers
from federated.methods.scaffold import Scaffold

_ALL: Final[tuple[Method, ...]] = (Scaffold(), Dynamic(), StepsNormalised(), Fair(), Beside(), Layers(), Clustered())
METHODS: Final[dict[str, Method]] = {one.name: one for one in _ALL}


def method_of(name: str) -> Method | None:
    """Return the method that a task names; None if it names none.

    Raises:
        UpdateHeldBack: there is none of that name.
    """
    if name and name not in METHODS:
        raise UpdateHeldBack(f"this owner knows no method of training of the name it was asked for; it knows {', '.join(METHODS)}")
    return METHODS.get(name)

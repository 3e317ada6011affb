"""A server's shares of the weights of models, as their owners have to do with them: placed, kept as they are, opened, forgotten."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from actors import caller, message
from protocols.authority.membership import OWNER, Membership
from protocols.authority.presence import Presence
from protocols.datasets.use import Stretch
from protocols.errors import CheckpointError, InputError, UnknownModel
from protocols.mpc.parties.exchange import Ring
from protocols.storage.holdings import Holdings, Model
from protocols.training.terms import AnyPlan
from protocols.workers.supplied import Supplied

SLOTS = 8
"""How often the weights of one model are kept at once, at most."""
_KEPT = "kept "
"""Beside the weights in a checkpoint: those that were kept."""


class HeldModels(Supplied):
    """The part of a training server that has models while nothing runs.

    Args:
        cluster: whose server it is.
        holdings: of this worker.
        patience: see `Supplied`.
    """

    def __init__(self, cluster: Membership, holdings: Holdings, patience: float) -> None:
        super().__init__(patience, "expand")
        self._cluster, self._holdings = cluster, holdings
        self._models = self._holdings.models

    def _claim(self, presence: Presence, handle: bytes, digest: bytes, stretches: list[Stretch] | None = None) -> None:
        self._holdings.claim_while_present(self._background, self.system, presence, handle, digest, stretches)

    @message(reentrant=True, by=OWNER)
    async def load(self, handle: bytes, digest: bytes, plan: AnyPlan, shares: list[npt.NDArray[np.uint64]], presence: Presence) -> None:
        """Hold this server's shares of the weights of a model, in the order of `Plan.shapes`. `digest` is that of the right to it here."""
        shapes = plan.shapes
        if [share.shape for share in shares] != list(shapes.values()):
            raise InputError(f"weights of shapes {[share.shape for share in shares]} arrived, the plan has {list(shapes.values())}")
        states = {name: np.zeros(shape, np.uint64) for name, shape in plan.states.items()}
        self._claim(presence, handle, digest)
        self._models[handle] = Model(plan, dict(zip(shapes, shares, strict=True)) | states)

    @message(reentrant=True, by=OWNER)
    async def weights(self, handle: bytes, right: bytes) -> list[npt.NDArray[np.uint64]]:
        """Return this server's shares of the weights of a model, for who has placed it.

        Raises:
            NotGranted: the owners of the data on which it was trained open weights to others only.
        """
        model = self._model(handle, right)
        model.use.check_reveal(caller().common_name)
        return [model.shares[name] for name in model.plan.shapes]

    @message(reentrant=True, by=OWNER)
    async def keep(self, handle: bytes, right: bytes, slot: int) -> None:
        """Keep the weights of a model as they are, to `revert` to them, in place of what the slot has kept before.

        Raises:
            InputError: there is no such slot.
        """
        model = self._model(handle, right)
        if not 0 <= slot < SLOTS:
            raise InputError(f"slot {slot}: weights are kept in the slots 0 to {SLOTS - 1}")
        model.kept[slot] = {name: model.shares[name] for name in model.plan.shapes}

    @message(reentrant=True, by=OWNER)
    async def revert(self, handle: bytes, right: bytes, slot: int) -> None:
        """Go back to weights that were kept; what an optimizer keeps stays as it is.

        Raises:
            UnknownModel: none are kept in that slot.
        """
        model = self._model(handle, right)
        if slot not in model.kept:
            raise UnknownModel("no weights are kept for this callback: the server was started anew, or they never were")
        model.shares = model.shares | model.kept[slot]

    def _model(self, handle: bytes, right: bytes) -> Model:
        """Return a model, for who has placed it."""
        self._holdings.check(handle, right, "model")
        if handle not in self._models:
            raise UnknownModel("this server has no such model; its owner may be gone, or the server was started anew")
        return self._models[handle]

    @message(reentrant=True, by=OWNER)
    async def forget(self, handle: bytes, right: bytes) -> None:
        """Forget a model's shares, or a dataset's, for who has placed them."""
        if handle in self._holdings.claims:
            self._holdings.check(handle, right, "model or array")
            self._holdings.forget(handle)


def kept_arrays(model: Model) -> dict[str, Ring]:
    """Return the weights that are kept, by names for a checkpoint."""
    return {f"{_KEPT}{slot} {name}": share for slot, shares in model.kept.items() for name, share in shares.items()}


def kept_apart(arrays: dict[str, Ring], plan: AnyPlan) -> dict[int, dict[str, Ring]]:
    """Take the weights that were kept out of the arrays of a checkpoint.

    Raises:
        CheckpointError: they have other names or shapes than those of the plan.
    """
    kept: dict[int, dict[str, Ring]] = {}
    for name in [name for name in arrays if name.startswith(_KEPT)]:
        slot, _, weight = name.removeprefix(_KEPT).partition(" ")
        kept.setdefault(int(slot), {})[weight] = arrays.pop(name)
    if any({name: array.shape for name, array in shares.items()} != plan.shapes for shares in kept.values()):
        raise CheckpointError("the weights that were kept for callbacks have other names or shapes than the model's")
    return kept

"""What a worker holds for owners: in memory as long as they are there, and in a vault, if it has one, for longer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_

import msgspec
import numpy as np
import numpy.typing as npt

from actors import Surroundings
from protocols.authority.presence import Presence, check_presence, while_present
from protocols.authority.rights import Claim
from protocols.concurrency import Background
from protocols.datasets.masked import MaskedDataset
from protocols.datasets.replicated import Replicated
from protocols.datasets.use import Stretch, Use, check_steps, refined
from protocols.errors import InputError, KeepsNothing, NameTaken, NotGranted, UnknownModel
from protocols.mpc.parties.exchange import Ring
from protocols.storage.kept_models import KeptModels
from protocols.storage.vault import Vault
from protocols.training.step import Plan
from protocols.training.terms import AnyPlan


@dataclass
class Model:
    """A server's shares of the weights and of the optimizer's state of one model, by name; of the sums of an epoch.

    `use` is what the owners of the data that it was trained on allow; `kept` are earlier weights, by the slot in which they are kept.
    """

    plan: AnyPlan
    shares: dict[str, Ring] = field(repr=False)
    sums: dict[str, Ring] = field(default_factory=dict, repr=False)
    use: Use = field(default_factory=Use)
    kept: dict[int, dict[str, Ring]] = field(default_factory=dict, repr=False)


class Holdings:
    """The actors of one worker share it.

    Attributes:
        datasets: of a server, by handle.
        masks: of the crypto provider: lambda, both halves added, by handle.
        models: of a server, by handle.
        served: of a server, by handle: shares of weights that are ready to be served.
        claims: whose each of these is, by handle.
        stretches: what the owners of datasets that were deposited allow, by handle; one without was placed by who trains on it.
        folded: of a server, by handle: of what runs have made, whether it is bounded (`training/private/norms.py`).

    Args:
        vault: None: this worker keeps nothing when owners are gone.
    """

    def __init__(self, vault: Vault | None = None) -> None:
        self.datasets: dict[bytes, MaskedDataset | Replicated] = {}
        self.masks: dict[bytes, Ring] = {}
        self.models: dict[bytes, Model] = {}
        self.served: dict[bytes, list[Ring]] = {}
        self.claims: dict[bytes, Claim] = {}
        self.stretches: dict[bytes, list[Stretch]] = {}
        self.folded: dict[bytes, bool] = {}
        self._watched: dict[bytes, asyncio.Task[None]] = {}
        self._vault = vault

    def claim(self, handle: bytes, digest: bytes) -> Claim:
        """Write down that who sent the message that is being handled places something under a handle here; return that.

        Raises:
            NameTaken: there is something.
            NotOwner: this is no digest of a right.
        """
        if handle in self.claims:
            raise NameTaken("something is held under this handle already; place it under a new one")
        claim = self.claims[handle] = Claim.of_caller(digest)
        return claim

    def claim_while_present(
        self,
        background: Background,
        system: Surroundings,
        presence: Presence,
        handle: bytes,
        digest: bytes,
        stretches: list[Stretch] | None = None,
    ) -> None:
        """Do the same until who sent the message is gone: then what is held for that claim is forgotten, and for no other.

        Raises:
            NameTaken, NotOwner: see `claim`.
            MessageRejected: see `check_presence`. Nothing was claimed.
        """
        check_presence(system, presence)
        claim = self.claim(handle, digest)
        if stretches is not None:
            self.stretches[handle] = stretches
        self._watched[handle] = while_present(background, system, presence, lambda: self._forget_for(handle, claim))

    def _forget_for(self, handle: bytes, claim: Claim) -> None:
        if self.claims.get(handle) is claim:
            self.forget(handle)

    def check(self, handle: bytes, right: bytes, what: str) -> None:
        """Refuse whoever has not placed what is held under a handle.

        Raises:
            UnknownModel: there is nothing.
            NotOwner: it is somebody else's.
        """
        if handle not in self.claims:
            raise UnknownModel(f"this worker holds no such {what}; its owner may be gone, or the worker was started anew")
        self.claims[handle].check(right, what)

    def use_of(self, *handles: bytes) -> Use:
        """Return what the owners of all these arrays allow."""
        return reduce(and_, (stretch.use for handle in handles for stretch in self.stretches.get(handle, [])), Use())

    def allowed(self, handles: Iterable[bytes], examples: int, use: Use) -> list[Stretch]:
        """Return what is allowed of what was made of arrays: what is of all of them, and told to those only whom `use` names, too."""
        known = refined([self.stretches.get(handle, []) for handle in handles])
        if use.reveal_to is None:
            return known
        return [
            msgspec.structs.replace(one, use=Use(min_batch=one.use.min_batch, reveal_to=(one.use & use).reveal_to))
            for one in known or [Stretch(examples, Use())]
        ]

    def check_steps(self, handles: Iterable[bytes], steps: Sequence[npt.NDArray[np.int64]], *, weighted: bool = False) -> None:
        """Refuse steps with fewer examples than the owners of these arrays allow; examples with weights may be fewer than they seem.

        Raises:
            NotGranted: see `protocols.datasets.use.check_steps`; or examples have weights, and an owner asks for more than one in a step.
        """
        for handle in handles:
            stretches = self.stretches.get(handle, [])
            check_steps(stretches, steps)
            if weighted and any(stretch.use.min_batch > 1 for stretch in stretches):
                raise NotGranted(
                    "an owner of the data allows steps with several examples only, and examples have weights, or are parted or weighed by"
                    " what is fitted, which may leave one of them: fit without sample_weight and class_weight, and no trees, clusters, or"
                    " Poisson or gamma regression"
                )

    def check_bounded(self, handles: Iterable[bytes], plan: AnyPlan) -> None:
        """Refuse a private training on features that may be larger than it takes them to be: then an example could add more than C.

        Raises:
            InputError: a run has made them, and they are not folded, or not taken for that.
        """
        private = plan.private if isinstance(plan, Plan) else None
        made = [self.folded[handle] for handle in handles if handle in self.folded]
        if private is not None and not (all(made) and private.features >= bool(made)):
            raise InputError("features that a run has made are larger than this private training takes them to be: nothing is protected so")

    def check_own(self, handles: Iterable[bytes]) -> None:
        """Refuse answers to single examples of arrays that others have left with the workers.

        Raises:
            NotGranted: one of these arrays was deposited: its owner allows training.
        """
        if any(self.stretches.get(handle) for handle in handles):
            raise NotGranted("the owner of the data allows to train on them; predictions for single examples are made of one's own arrays")

    def forget(self, handle: bytes) -> None:
        """Let go of what is held under a handle."""
        for table in (self.datasets, self.masks, self.models, self.served, self.claims, self.stretches, self.folded):
            table.pop(handle, None)
        watched = self._watched.pop(handle, None)
        if watched is not None:
            watched.cancel()

    def hold(self, handle: bytes, array: Replicated) -> None:
        """Hold a dataset at one of three equals, for its part as a server and for that as the helper."""
        self.datasets[handle], self.masks[handle] = array, array.mask()

    @property
    def vault(self) -> Vault:
        """Where shares are kept.

        Raises:
            KeepsNothing: this worker has no folder.
        """
        if self._vault is None:
            raise KeepsNothing("this worker keeps nothing: start it with a folder for shares, confide worker HOST:PORT --data FOLDER")
        return self._vault

    @property
    def keeps(self) -> bool:
        """Whether this worker has a folder."""
        return self._vault is not None

    @property
    def kept(self) -> KeptModels:
        """The models in the folder.

        Raises:
            KeepsNothing: this worker has none.
        """
        return KeptModels(self.vault)

    def close(self) -> None:
        """Let go of the folder."""
        if self._vault is not None:
            self._vault.close()

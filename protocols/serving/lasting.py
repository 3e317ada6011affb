"""Models that outlive their owner's process and their workers', at one part of one worker: what is kept of each, and what it has counted.

What is counted is on the disk before an answer or a ticket leaves: a crash may lose a unit that nobody was answered for, and gives none
anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from functools import partial

import msgspec

from protocols.authority.membership import Membership
from protocols.authority.rights import Claim
from protocols.errors import NameTaken, ServingError, TooLarge, UnknownModel, VaultError
from protocols.link.threads import Threads
from protocols.mpc.parties.exchange import Ring
from protocols.noisy_answers import Guarantee
from protocols.serving.budget import Budget
from protocols.serving.quota import Quota
from protocols.serving.ticket import IDENTIFIER_BYTES
from protocols.storage.counts import Counted
from protocols.storage.holdings import Holdings
from protocols.storage.kept_models import MODEL, FoundModel, KeptModel
from protocols.storage.vault import NAME, Label

MOST = 256
"""How many models one part of a worker keeps: each has an open file."""

log = logging.getLogger(__name__)


class Lasting:
    """One model that stays.

    Args:
        found: what is kept of it.
        threads: one thread, in which it is written.

    Attributes:
        label, about: see `KeptModel`.
        claim: whose it is.
        requests, examples: that were counted, see `Counted`.
        terms: what the owner has allowed last; empty: nothing yet.
        quota, budget: at a server, over all of its sessions; the budget at the provider, too.
        waits: why it is not served now, for its owner; empty: it is.
        told: the same for clients, who are told nothing of folders.
    """

    def __init__(self, found: FoundModel, threads: Threads) -> None:
        self.label, self.about, counted = found.label, found.about, found.counted
        self.claim = Claim(self.about.digest, self.about.holder)
        self.requests, self.examples, self.terms = counted.requests, counted.examples, counted.terms
        self.quota = Quota(self.label.name, self.requests, self.examples)
        promise = self.promise
        self.budget = None if promise is None else Budget(self.label.name, promise.answers, counted.spent)
        self.waits = self.told = "its workers were not asked to come together yet"
        self._spent, self._changed = dict(counted.spent), set[str]()
        self._counts, self._threads = found.counts, threads
        self._writing, self._number, self._written = asyncio.Lock(), 0, 0
        self._ended = self._failing = False

    @property
    def promise(self) -> Guarantee | None:
        """What is promised where answers are noisy."""
        return msgspec.msgpack.decode(self.about.promise, type=Guarantee) if self.about.promise else None

    def take_over(self, budget: Budget | None) -> None:
        """Go on with the budget of a model that was shared and now stays. `written` has to follow."""
        self.budget = budget
        for client, answers in (budget.spent if budget is not None else {}).items():
            self.count(client=client, answers=answers)

    def count(self, requests: int = 0, examples: int = 0, *, client: str = "", answers: int = 0) -> None:
        """Count something; below 0 it is given back. `written` has to follow before anything leaves."""
        self.requests, self.examples, self._number = self.requests + requests, self.examples + examples, self._number + 1
        if answers:
            self._spent[client] = self._spent.get(client, 0) + answers
            self._changed.add(client)

    def count_begun(self, client: str = "", answers: int = 0) -> None:
        """Count at a server what its quota counts: all that has begun, less what failed. `written` has to follow."""
        requests, examples = self.quota.begun
        self.count(requests - self.requests, examples - self.examples, client=client, answers=answers)

    def allow(self, terms: bytes) -> None:
        """Note what the owner allows. `written` has to follow before it is told that it is so."""
        self.terms, self._number = terms, self._number + 1

    async def written(self) -> None:
        """Return when everything that was counted is on the disk. Who comes while it is written waits, and all of them are written at once.

        Raises:
            ServingError: it cannot be written; what was counted stays counted.
            UnknownModel: the model was removed meanwhile, and nothing of it is written any more.
        """
        wanted = self._number
        async with self._writing:
            if self._written >= wanted:
                return
            if self._ended:
                raise UnknownModel(f"model {self.label.name!r} has been stopped")
            number, changed = self._number, self._changed
            now = Counted(self.requests, self.examples, self.terms, {client: self._spent[client] for client in changed})
            self._changed = set()
            try:
                await self._threads.run(partial(self._counts.write, now))
            except BaseException as error:
                self._changed |= changed
                if not isinstance(error, VaultError):
                    raise
                self._failing = True
                log.error("nothing of the model %r is given away: %s", self.label.name, error)
                raise ServingError(
                    f"a worker of model {self.label.name!r} cannot write down what it counts, and so gives nothing away: is its disk full?"
                ) from None
            self._written, self._failing = number, False

    async def writable(self) -> None:
        """Return if what is counted can be written, as far as is known: what could not be is written first.

        So a full disk costs the requests of nobody who asks again: nothing begins that could not be answered.

        Raises:
            ServingError, UnknownModel: see `written`.
        """
        if self._failing:
            await self.written()

    async def close(self) -> None:
        """Let go of the file, when what is under way is written."""
        self._ended = True
        await self._threads.run(self._counts.close)


class LastingModels:
    """Those of one actor.

    Args:
        holdings: of the worker.
        parties: whose parts are meant: 0 and 1 of a server, 2 of who deals.

    Attributes:
        damaged: by name, what is here and cannot be used, and why.
    """

    def __init__(self, holdings: Holdings, parties: Collection[int]) -> None:
        self._holdings, self._parties = holdings, frozenset(parties)
        self._models: dict[str, Lasting] = {}
        self._writing = Threads("counts", 1)
        self.damaged: dict[str, str] = {}

    def load(self) -> None:
        """Find what is here from before."""
        if not self._holdings.keeps:
            return
        found, self.damaged = self._holdings.kept.found(self._parties)
        self._models = {one.label.name: Lasting(one, self._writing) for one in found}
        for name, why in self.damaged.items():
            log.error("the model %r cannot be served: %s", name, why)

    async def close(self) -> None:
        """Let go of all files, when everything that was counted is written: what was interrupted is given back."""
        for one in self._models.values():
            with contextlib.suppress(ServingError):
                await one.written()
            await one.close()
        self._writing.close()

    @property
    def all(self) -> Mapping[str, Lasting]:
        """Those that can be used, by name."""
        return self._models

    def get(self, name: str) -> Lasting | None:
        """Return a model that stays; None: there is none."""
        return self._models.get(name)

    def check_free(self, name: str) -> None:
        """Refuse a name that is that of a model that stays, served now or not.

        Raises:
            NameTaken: it is.
        """
        if name in self._models or name in self.damaged:
            raise NameTaken(f"a model named {name!r} is kept here for its owner; choose another name, or have it stopped first")

    def check_possible(self, name: str) -> None:
        """Refuse what cannot be kept here.

        Raises:
            KeepsNothing: this worker has no folder.
            ServingError: a name that a folder cannot have.
            NameTaken: one of that name is kept here.
            TooLarge: too many are.
        """
        _ = self._holdings.vault
        if NAME.fullmatch(name) is None:
            raise ServingError(f"{name!r} is no name for a model that stays: 1 to 100 letters, digits, '.', '_' and '-', the first no '.'")
        self.check_free(name)
        if len(self._models) + len(self.damaged) >= MOST:
            raise TooLarge(f"{MOST} models are kept here: stop one first")

    async def keep(
        self,
        name: str,
        identifier: bytes,
        *,
        party: int,
        equals: bool,
        claim: Claim,
        program: bytes,
        promise: Guarantee | None,
        cluster: Membership,
        arrays: Mapping[str, Ring],
        length: int = 0,
    ) -> Lasting:
        """Write a model down: from now on it stays.

        Args:
            name: of the model.
            identifier: 16 bytes, the same at all three workers.
            party: see `KeptModel`, as the others.
            equals: whether the three workers are equals.
            claim: whose it is.
            program: its fingerprint.
            promise: where answers are noisy.
            cluster: of this worker.
            arrays: what is secret of it.
            length: see `KeptModel`.

        Raises:
            ServingError: the identifier is none, or see `check_possible`.
            VaultError: it cannot be written.
        """
        self.check_possible(name)
        if len(identifier) != IDENTIFIER_BYTES:
            raise ServingError(f"an identifier of {len(identifier)} bytes was given; {IDENTIFIER_BYTES} are needed")
        told = b"" if promise is None else msgspec.msgpack.encode(promise)
        first, second, third = (cluster.address(place) for place in range(3))
        label = Label(MODEL, name, 1, identifier)
        about = KeptModel(party, equals, claim.digest, claim.holder, program, told, (first, second, third), length)
        counts = await asyncio.to_thread(self._holdings.kept.keep, label, about, arrays)
        made = self._models[name] = Lasting(FoundModel(label, about, counts, Counted()), self._writing)
        return made

    async def arrays(self, model: Lasting) -> dict[str, Ring]:
        """Return what is secret of a model.

        Raises:
            VaultError: its file is damaged.
        """
        try:
            return await asyncio.to_thread(self._holdings.kept.arrays, model.label)
        except VaultError as error:
            log.error("the model %r cannot be served: %s", model.label.name, error)
            raise

    def owned(self, name: str, right: bytes) -> Lasting | None:
        """Return a model that stays, for its owner; None: there is none.

        Raises:
            NotOwner: it is somebody else's.
        """
        found = self._models.get(name)
        if found is not None:
            found.claim.check(right, f"the model {name!r}")
        return found

    def kept(self, name: str, right: bytes) -> Lasting:
        """Return a model that stays, for its owner.

        Raises:
            UnknownModel: there is none.
            NotOwner: it is somebody else's.
        """
        found = self.owned(name, right)
        if found is None:
            raise UnknownModel(f"no model named {name!r} is kept here; it may have been stopped, or its files are damaged")
        return found

    async def remove(self, name: str, right: bytes) -> bool:
        """Let go of a model for good, for its owner, also of one that is damaged but for its header; False: there is none.

        Raises:
            NotOwner: it is somebody else's.
            VaultError: its header is damaged, so that nobody knows whose it is.
        """
        found = self.owned(name, right)
        if found is None and name not in self.damaged:
            return False
        if found is None:
            about = self._holdings.kept.of(name)
            Claim(about.digest, about.holder).check(right, f"the model {name!r}")
            del self.damaged[name]
        else:
            del self._models[name]
            await found.close()
        await self._writing.run(partial(self._holdings.kept.remove, name))
        return True

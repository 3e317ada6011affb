"""What an owner agrees to: what leaves it for a task, what that costs, and what its policy says. Whatever is not known here is refused.

`released` turns settings into what leaves the owner. The trainer does what it says, and a ledger is charged what it says, so that no order
of settings can make the two differ. It knows no network and no Keras.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from os import PathLike
from typing import Any

from actors import Caller, NotAllowed
from actors.address import Address
from actors.observing.figures import Figure, count, state
from federated.consent.release import COARSEST, LONGEST_RUN, MOST_ROUNDS, TaskRelease, Work, _unknown, private_steps, reach, released
from federated.consent.served import Served
from federated.errors import DataError, SettingError, UpdateHeldBack
from federated.models import blueprint
from federated.models.weights import check_sent
from federated.records.data import Data
from federated.tasks.base import TaskBase
from federated.tasks.update import TAKEN, Blueprint, Bound, Task, Update
from privacy import BudgetSpent, Ledger
from protocols.authority.certified import certified

MOST_ARRAYS = 1 << 16
"""Of one name, that an owner gives beside its update."""
MOST_FAILURES = 3
"""Trainings that may fail at an owner with a ledger: that one fails may tell a bit about a record, which no ledger is charged for."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What an owner agrees to. With none of these it trains what the one whom it serves asks for.

    It serves, whatever the policy: its own process; processes of the same user of this machine, over `ws://` on loopback; and the
    aggregator that it has connected to itself. Nobody else, but for `aggregator` and `plaintext`. A certificate in which the authority has
    written another role than that of an aggregator is served nothing.

    Against one that sends weights of its own making, `min_batch` and `min_examples` bound little: a layer can be made to single records
    out. Pinned `models` make that harder, and only noise bounds it.

    Args:
        aggregator: common name of the certificate of the one that it serves; "": nobody by certificate.
        plaintext: serve whoever connects without TLS, and so has shown nothing: for networks where everybody may have what it tells.
        models: what it trains: digests of `blueprint_digest`, or compiled models; empty: any.
        min_batch: the fewest examples that a step may be over; a remainder that is smaller joins the batch before.
        min_examples: the fewest that it may have itself.
        noise: z, the least noise: the multiplier of DP-SGD; or on an update clipped to S, a standard deviation of at least z S, of this
            owner's alone, or in secure aggregation of the cohort's together. 0: none is needed.
        rounds: in which it trains, in all; None: any number. It evaluates in as many.
        rounds_a_day: the same within 24 hours.
        metrics: whether metrics of its training and evaluation, which have no noise, may leave it; not where `noise` is asked for.
        largest: weights that a model may have; they are counted before there is memory for them.
        servers: urls of the workers that may be the two servers of `SharedAggregation`; None: those that the aggregator names, who could
            name two of its own and see each update.
        record: a file in which it keeps what it has served, so that a restart begins nothing anew; None: it is kept in memory.

    Raises:
        SettingError: a setting is out of its range.

    Example:
        >>> DataOwner((x, y), policy=Policy(aggregator="hub", models=[build_model()], min_batch=32, rounds_a_day=20))
    """

    aggregator: str = ""
    plaintext: bool = False
    models: Collection[Any] = ()
    min_batch: int = 1
    min_examples: int = 1
    noise: float = 0.0
    rounds: int | None = None
    rounds_a_day: int | None = None
    metrics: bool = True
    largest: int = blueprint.LARGEST
    servers: Collection[str] | None = None
    record: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, least in (("min_batch", 1), ("min_examples", 1), ("noise", 0.0), ("largest", 1)):
            if not least <= getattr(self, name) < math.inf:
                raise SettingError(f"{name}={getattr(self, name)}: it has to be at least {least}, and finite")
        for name in ("rounds", "rounds_a_day"):
            if getattr(self, name) is not None and not getattr(self, name) >= 1:
                raise SettingError(f"{name}={getattr(self, name)}: it has to be at least 1, or None")
        if isinstance(self.models, str):
            raise SettingError(f"models={self.models!r}: a list of digests or models is expected")
        if self.servers is not None:
            object.__setattr__(self, "servers", frozenset(self.servers))
        digests = (one if isinstance(one, str) else blueprint.blueprint_digest(one) for one in self.models)
        object.__setattr__(self, "models", frozenset(digests))

    def check_caller(self, caller: Caller, aggregators: Collection[str] = ()) -> None:
        """Refuse to serve somebody.

        Args:
            caller: who asks.
            aggregators: addresses of those that this owner has joined. Whom it dials otherwise, such as the servers of a sum, it does not.

        Raises:
            NotAllowed: it is not the one that this owner serves.
        """
        known = caller.certificate is not None
        joined = caller.dialed and caller.url in aggregators and not (known and self.aggregator and caller.common_name != self.aggregator)
        joined = joined and (known or caller.same_user or not Address.parse(caller.url).loopback)  # anybody can take a port
        named = known and bool(self.aggregator) and caller.common_name == self.aggregator
        said = certified(caller.certificate)
        if (joined or named) and said is not None and said.role != "aggregator":
            raise NotAllowed(f"this owner serves an aggregator: your certificate, that of {caller.common_name!r}, is for the role {said}")
        if caller.local or caller.same_user or joined or named or (self.plaintext and not known):
            return
        if not self.aggregator:
            raise NotAllowed(f"this owner serves no aggregator by certificate: give it Policy(aggregator=...); you are {caller}")
        raise NotAllowed(f"this owner serves the holder of the certificate of {self.aggregator!r}; you are {caller}")

    def check_servers(self, *servers: str) -> None:
        """Refuse to hand the halves of an update to servers that it does not agree to.

        Args:
            *servers: the addresses of the two actors.

        Raises:
            UpdateHeldBack: they are one, or others than those of the policy.
        """
        if len(set(servers)) < 2:
            raise UpdateHeldBack("this owner was asked to give both halves of its update to one server, which would see it")
        if self.servers is not None and not {server.rpartition("/")[0] for server in servers} <= set(self.servers):
            raise _forbids("servers of a sum other than those it was given the addresses of")

    def check_own_trainer(self) -> None:
        """Refuse limits that nobody would hold a trainer of the owner's own to.

        Raises:
            SettingError: it has some.
        """
        if self.min_batch > 1:
            raise SettingError(
                f"min_batch={self.min_batch} with trainer=: nobody but the trainer sees its batches: leave min_batch out, and have it "
                "make batches that are large enough"
            )

    def check(self, task: Task, release: TaskRelease, examples: int | None, *, hidden: bool) -> None:
        """Refuse a task that it does not agree to.

        Args:
            task: what the owner is asked.
            release: what would leave it.
            examples: that it has; None: that is for its own trainer to say, when it has trained.
            hidden: whether nobody sees the update alone, and the noise of a sum is checked when its terms are known.

        Raises:
            UpdateHeldBack: it does not.
        """
        self.check_model(task)
        if examples is not None:
            self._check_examples(release, examples)
        if self.noise and not (release.noisy and self._is_enough(release, _values(task), hidden=hidden)):
            raise _forbids(f"updates with less noise of its own than {self.noise:g} times their bound")

    def _check_examples(self, release: TaskRelease, examples: int) -> None:
        batch = private_steps(release.training, examples)[0] if release.work is Work.DPSGD else release.training.batch_size or examples
        if min(batch, examples) < self.min_batch or examples < self.min_examples:
            raise _forbids(f"steps over fewer than {self.min_batch} examples, or fewer than {self.min_examples} of its own")

    def _is_enough(self, release: TaskRelease, values: int, *, hidden: bool) -> bool:
        if release.work is Work.DPSGD or release.bound is None:
            return release.training.noise_multiplier >= self.noise
        return hidden or release.bound.stddev >= self.noise * reach(release.bound, values)

    def check_model(self, task: Task) -> None:
        """Refuse a model that it does not agree to.

        Raises:
            UpdateHeldBack: it does not.
        """
        beside = sum(array.size for arrays in (task.kept, *task.arrays.values()) for array in arrays)
        self._check_model(task.blueprint, _values(task) + beside)

    def check_base(self, base: TaskBase) -> None:
        """Refuse to keep what belongs to a model that it does not agree to.

        Raises:
            UpdateHeldBack: it does not.
        """
        self._check_model(base.blueprint, sum(array.size for array in base.kept))

    def _check_model(self, plan: Blueprint | None, values: int) -> None:
        if self.models and (plan is None or blueprint.digest(plan) not in self.models):
            raise _forbids("models other than those it was given digests of")
        if values > self.largest:
            raise _forbids(f"models of more than {self.largest:,} weights")

    def check_share(self, bound: Bound | None, values: int, cohort: int) -> None:
        """Refuse to have an update summed with too few others to have enough noise together.

        Raises:
            UpdateHeldBack: s^2 n' < (z S)^2, for n' owners that each add noise of the standard deviation s.
        """
        if self.noise and bound is not None and bound.stddev**2 * cohort < (self.noise * reach(bound, values)) ** 2:
            raise _forbids(f"sums over {cohort} owners with less noise of theirs than {self.noise:g} times the bound of an update")


def _forbids(what: str) -> UpdateHeldBack:
    return UpdateHeldBack(f"this owner's policy forbids {what}")


def _values(task: Task) -> int:
    """Values in an update."""
    return sum(array.size for array in task.summed)


class Admission:
    """An owner's consent, task by task: its policy, its ledger, and the record of what it has served.

    Args:
        policy: what it agrees to.
        ledger: of what was let out about its data; asked and told before each round. None: no limit.
        hidden_only: updates leave it by secure aggregation only.
    """

    def __init__(self, policy: Policy, ledger: Ledger | None, *, hidden_only: bool = False) -> None:
        self.policy, self._ledger, self._hidden_only = policy, ledger, hidden_only
        self.served = Served(policy.record)
        self._failures = 0
        self._spent: tuple[object, float] | None = None

    def figures(self) -> list[Figure]:
        """Return what an owner shows of its consent in metrics. Composing what a ledger holds takes a while: call it in a thread."""
        found = [
            count("services", "tasks that were served, by kind", number, kind=kind) for kind, number in sorted(self.served.counts.items())
        ]
        found.append(count("training_failures", "trainings that were agreed to and have failed", self._failures))
        ledger = self._ledger
        if ledger is not None:
            events = ledger.events
            if self._spent is None or self._spent[0] != events:
                self._spent = events, ledger.epsilon()
            labels = {"data": ledger.data, "unit": ledger.unit}
            meaning = "epsilon of all that was ever released about a data set, by its ledger"
            found.append(state("ledger_epsilon_spent", meaning, self._spent[1], **labels))
            found.append(state("ledger_epsilon_budget", "epsilon that a ledger allows in all", ledger.max_epsilon, **labels))
        return found

    @property
    def tells_metrics(self) -> bool:
        """Whether metrics leave the owner: never past a ledger, or a policy that asks for noise, since they have none."""
        return self.policy.metrics and self._ledger is None and not self.policy.noise

    def admit(self, task: Task, data: Data | None, *, hidden: bool) -> None:
        """Agree to train, and pay for it before there is an update. It takes a while: call it in a thread.

        Args:
            task: what is asked.
            data: of the owner; None: its own trainer has it.
            hidden: see `Policy.check`.

        Raises:
            UpdateHeldBack: it does not agree, or the budget is spent.
            DataError: the data is empty, without end, or too short.
        """
        _check_task(task)
        if self._ledger is not None and self._failures >= MOST_FAILURES:
            raise UpdateHeldBack(
                f"this owner keeps a ledger, and training has failed {MOST_FAILURES} times here, which may tell of its data: it trains no "
                "more until it is started again; see its log"
            )
        if self._hidden_only and not hidden:
            raise UpdateHeldBack("this owner has a roster: its updates leave it by secure aggregation with it, and in no other way")
        release, examples = released(task.training), None if data is None else data.count()
        coarse = release.bound is not None and release.bound.step * math.sqrt(_values(task)) / 2 > COARSEST * release.bound.clip_norm
        if coarse:
            raise _unknown("a coarse step", f"rounding may change the norm of an update by {COARSEST:g} of its clip norm: lower step")
        if data is not None and data.arrays is None and release.work is Work.DPSGD:
            raise DataError("DP-SGD samples single examples, and this owner has batches: give arrays (x, y)")
        self.policy.check(task, release, examples, hidden=hidden)
        if data is not None and data.arrays is None and data.least_batch() < self.policy.min_batch:
            raise _forbids(f"steps over fewer than {self.policy.min_batch} examples, and its data set has such a batch: drop the remainder")
        self._count("training", task)
        self._spend(release, examples, _values(task))

    def _spend(self, release: TaskRelease, examples: int | None, values: int) -> None:
        if self._ledger is None:
            return
        private = release.work is Work.DPSGD
        spent = None if private and examples is None else release.event(self._ledger.unit, examples=examples or 0, values=values)
        if spent is None:
            raise UpdateHeldBack(
                f"this owner keeps a ledger with the unit {self._ledger.unit!r}, and lets nothing out without noise of its own: "
                f"DPSGD is that for 'example', LocalGaussian for 'owner'"
            )
        try:
            self._ledger.spend(*spent, purpose="a federated round")
        except BudgetSpent:
            raise UpdateHeldBack("the privacy budget of this owner is spent") from None

    def failed(self) -> None:
        """Take in that training failed that was agreed to."""
        self._failures += 1

    def admit_base(self, base: TaskBase) -> None:
        """Agree to keep what is the same in all rounds of a run. It takes a while: call it in a thread.

        Raises:
            UpdateHeldBack: the policy forbids the model, or its weights are none.
        """
        self.policy.check_base(base)
        check_sent(base.kept)

    def admit_evaluation(self, task: Task) -> None:
        """Agree to evaluate.

        Raises:
            UpdateHeldBack: it does not: metrics have no noise, so no ledger can pay for them.
        """
        _check_task(task)
        if not self.tells_metrics:
            raise UpdateHeldBack("this owner tells no metrics: they have no noise, and it keeps a ledger, or its policy forbids that")
        self.policy.check_model(task)
        self._count("evaluation", task)

    def _count(self, what: str, task: Task) -> None:
        self.served.count(what, task.run, task.round, in_all=self.policy.rounds, a_day=self.policy.rounds_a_day)

    def outgoing(self, update: Update) -> Update:
        """Return the update as it may leave the owner."""
        if self.tells_metrics:
            return update
        return dataclasses.replace(update, metrics={}, states=update.states[:0], evaluates=False)


def _check_task(task: Task) -> None:
    if not (0 <= task.round < MOST_ROUNDS and len(task.run) <= LONGEST_RUN):
        raise UpdateHeldBack(f"a round has a number below {MOST_ROUNDS}, and a run a name of {LONGEST_RUN} characters at most")
    check_sent(task.weights)
    check_sent([array for arrays in task.arrays.values() for array in arrays])
    _check_extra(task)


def _check_extra(task: Task) -> None:
    forms = [form for one in task.extra for form in one.forms]
    names = [one.name for one in task.extra]
    if len(set(names)) < len(names) or not all(len(one.forms) <= MOST_ARRAYS and one.name not in TAKEN for one in task.extra):
        raise _unknown("what it gives beside its update", "it has to have other names, and each once")
    if not all(dtype in ("<f4", "<f8") and len(shape) <= 32 and all(size >= 0 for size in shape) for dtype, shape in forms):
        raise _unknown("what it gives beside its update", "arrays of float32 or float64, of a known shape, are possible")
    if task.extra and task.training.noise_multiplier:
        raise _unknown("arrays beside an update of DP-SGD", "they would have no noise: leave one of both out")

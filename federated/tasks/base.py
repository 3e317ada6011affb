"""What all tasks of a run have in common: the blueprint and the weights that no round changes. It travels once, and by its digest then."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from federated.errors import BaseMissing, UpdateHeldBack
from federated.tasks.update import Array, Blueprint, Task, Weights, base_digest

R = TypeVar("R")

AT_ONCE = 2
"""Bases that an owner keeps; of more the oldest is forgotten, and asked for again."""
MOST_WEIGHTS = 1 << 16
"""Arrays that a model may have."""
MOST_WANTED = 64
"""Bases that an owner has asked for, and not been sent yet: of more the oldest is forgotten."""


@dataclass(frozen=True, repr=False)
class TaskBase:
    """What all tasks of a run have in common.

    Args:
        blueprint: of the model, see `Task`.
        kept: the weights that no round changes, in their order: frozen ones, and integers.
    """

    blueprint: Blueprint | None
    kept: list[Array]

    @cached_property
    def digest(self) -> bytes:
        """Computed from what is in it."""
        return base_digest(self.blueprint, self.kept)


class Bases:
    """The bases that one owner has. It takes in what it has asked for, and nothing else."""

    def __init__(self) -> None:
        self._had: dict[bytes, TaskBase] = {}
        self._wanted: deque[bytes] = deque(maxlen=MOST_WANTED)

    def whole(self, task: Task) -> Task:
        """Return a task that has arrived with all that belongs to it.

        Raises:
            BaseMissing: this owner does not have its base (any more).
            UpdateHeldBack: the task and its base do not fit together.
        """
        count = len(task.sent)
        if not task.base:
            if count not in (0, len(task.weights)) or len(task.moved) not in (0, len(task.weights)):
                raise UpdateHeldBack(f"the task has {len(task.weights)} weights, and says of another number which of them change")
            _check_sent(task)
            return task
        if task.blueprint is not None or count > MOST_WEIGHTS or sum(task.sent) != len(task.weights) or len(task.moved) not in (0, count):
            raise UpdateHeldBack("the task leaves out what its base has, and does not say rightly which of its weights these are")
        if len(task.base) != hashlib.sha256().digest_size:
            raise UpdateHeldBack("the task names its model by what is no SHA-256 digest")
        base = self._had.get(task.base)
        if base is None:
            if task.base not in self._wanted:
                self._wanted.append(task.base)
            raise BaseMissing("this owner does not have the model that the task names by its digest: send it first")
        if len(base.kept) != count - len(task.weights):
            raise UpdateHeldBack(f"the task leaves out {count - len(task.weights)} weights, and its base has {len(base.kept)}")
        changing, kept = iter(task.weights), iter(base.kept)
        weights = [next(changing) if travels else next(kept) for travels in task.sent]
        whole = dataclasses.replace(task, blueprint=base.blueprint, weights=weights)
        _check_sent(whole)
        return whole

    def check_wanted(self, base: TaskBase) -> None:
        """Refuse a base that was not asked for. It is hashed here; nobody's word is taken for its digest.

        Raises:
            UpdateHeldBack: no task has named it, or it is not what the task has named.
        """
        if base.digest not in self._wanted and base.digest not in self._had:
            raise UpdateHeldBack("a model was sent that is not the one that a task has named by its digest: it is not taken")

    def keep(self, base: TaskBase) -> None:
        """Keep one that was asked for; of tasks that are under way together several may ask.

        Raises:
            UpdateHeldBack: as above.
        """
        self.check_wanted(base)
        if base.digest in self._had:
            return
        self._wanted.remove(base.digest)
        self._had[base.digest] = base
        while len(self._had) > AT_ONCE:
            del self._had[next(iter(self._had))]


def _check_sent(task: Task) -> None:
    """Refuse updates with integers, which have no mean, and updates without what is trained.

    Raises:
        UpdateHeldBack: it asks for them.
    """
    for array, travels, moves in zip(task.weights, task.travelling, task.moved or task.travelling, strict=True):
        if (travels and array.dtype.kind != "f") or (moves and not travels):
            raise UpdateHeldBack("the task wants integers in updates, or leaves weights out of them that it says are trained")


class BaseDigest:
    """The digest of the base of a run, at the aggregator: computed anew when somebody has changed what no round changes."""

    def __init__(self) -> None:
        self._known: tuple[Weights, bytes] | None = None

    def of(self, blueprint: Blueprint | None, kept: Weights) -> bytes:
        """Return the digest.

        Args:
            blueprint: the same each time.
            kept: weights that nobody changes in place.
        """
        if self._known is None or not all(_same(*pair) for pair in zip(self._known[0], kept, strict=True)):
            self._known = kept, base_digest(blueprint, kept)
        return self._known[1]


def _same(a: Array, b: Array) -> bool:
    """Whether the bytes of two arrays of one form are the same."""
    return a is b or np.array_equal(_bytes(a), _bytes(b))


def _bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


async def supplied(task: Task, work: Callable[[Task], Awaitable[R]], give: Callable[[TaskBase], Awaitable[None]]) -> R:
    """Have an owner that is elsewhere work by a task; give it the base of the task, once, if it says that it does not have it.

    If it does not have it again then, because it works for more runs at once than it keeps bases, it is sent the whole task.

    Args:
        task: a whole one.
        work: is sent a task.
        give: is sent a base.

    Raises:
        BaseMissing: it says so of the whole task.
    """
    if not task.base:
        return await work(task)
    try:
        return await work(task.light)
    except BaseMissing:
        await give(TaskBase(task.blueprint, task.kept))
    with contextlib.suppress(BaseMissing):
        return await work(task.light)
    return await work(dataclasses.replace(task, base=b""))

"""Runs a trainer of the user's own: in a thread, one task after the other, and looks at what it gives before anybody gets it."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from federated.consent.release import Work, released
from federated.errors import DataError, SettingError, UpdateHeldBack
from federated.models.weights import is_kept
from federated.tasks.bounding import bounded, only
from federated.tasks.failures import in_own_words
from federated.tasks.update import Array, Evaluation, Extra, Task, Update, Weights
from federated.trainers.memory import TrainerMemory
from federated.trainers.trained import OwnTrainer, Trained
from privacy import GaussianNoise

R = TypeVar("R")
Factory = Callable[..., Any]
"""Makes a trainer of an owner's data; and of its evaluation data, as a second argument, if it has any."""


def check_factory(trainer: Any) -> None:
    """Refuse what makes no trainer. It is not called.

    Raises:
        SettingError: it cannot be called.
    """
    if not callable(trainer):
        raise SettingError(
            f"trainer is a {type(trainer).__name__}: a class, or a function, is expected, that is called with the owner's data and gives "
            "an object with train(weights, config, state)"
        )


class TrainerRunner:
    """A trainer of one owner.

    The trainer is made when it is first needed, and anew after it has failed. It cannot be interrupted: when the caller is cancelled, it
    trains to its end, and nothing becomes of that; so an own trainer should not train for longer than rounds last.

    Args:
        factory: makes it.
        data: of the owner, whatever the trainer takes.
        evaluation: the same; None: there is none.
        thread: to run in.
        memory: a folder for what it remembers; None: that is kept as long as this object lives.
        least: the fewest examples that an update may be over.
    """

    def __init__(
        self,
        factory: Factory,
        data: Any,
        evaluation: Any = None,
        *,
        thread: ThreadPoolExecutor,
        memory: str | os.PathLike[str] | None = None,
        least: int = 1,
    ) -> None:
        check_factory(factory)
        self._factory, self._given = factory, (data,) if evaluation is None else (data, evaluation)
        self._memory, self._least, self._thread = TrainerMemory(memory), least, thread
        self._trainer: OwnTrainer | None = None
        self._noise = GaussianNoise()

    async def train(self, task: Task, *, tells: bool = True, stream: int = 0) -> Update:
        """Train, and keep what the trainer remembers before the update leaves.

        Args:
            task: what to do.
            tells: whether metrics, and whether it evaluates, leave the owner.
            stream: tells apart owners that share a seed.

        Raises:
            UpdateHeldBack: the trainer does not do what is asked, or gave something that is no update.
            OwnerFailed: it failed.
        """
        return await self._run("training", lambda: self._trained(task, tells, stream))

    async def evaluate(self, task: Task) -> Evaluation:
        """Evaluate the weights of the task; over 0 examples if the trainer evaluates nothing.

        Raises:
            UpdateHeldBack, OwnerFailed: as above.
        """
        return await self._run("evaluation", lambda: self._evaluated(task))

    async def _run(self, what: str, work: Callable[[], R]) -> R:
        return await in_own_words(what, asyncio.get_running_loop().run_in_executor(self._thread, work))

    def _made(self) -> OwnTrainer:
        if self._trainer is None:
            trainer = self._factory(*self._given)
            if not isinstance(trainer, OwnTrainer) or not callable(trainer.train):
                raise UpdateHeldBack("what trainer= makes of the owner's data has no train(weights, config, state)")
            self._trainer = trainer
        return self._trainer

    def _trained(self, task: Task, tells: bool, stream: int) -> Update:
        release, trainer = released(task.training), self._made()
        _check_followed(task, release.work, trainer)
        state = self._memory.before(task.lineage, task.round)
        given = self._call(lambda: trainer.train(_copies(task.weights), _config(task, stream), state))
        if not isinstance(given, Trained):
            raise UpdateHeldBack(f"a trainer's train() gave a {type(given).__name__}: a federated.Trained is expected")
        whole = _delta(given.delta, task.weights, "a trainer's delta", task.travelling)
        delta = [*only(whole, task.travelling), *_beside(given.extra, task)]
        examples = _count(given.examples, "train()", least=max(1, self._least))
        metrics = _numbers(given.metrics, "train()") if tells else {}
        self._memory.keep(task.lineage, task.round, state)
        update = Update(task.round, delta, 1 if task.training.alike else examples, metrics, tells and _evaluates(trainer))
        if release.bound is not None:
            update = bounded(update, release.bound, self._noise, task.bounded)
        for array in update.delta:
            array.flags.writeable = False  # it leaves without being copied
        return update

    def _evaluated(self, task: Task) -> Evaluation:
        trainer = self._made()
        if not _evaluates(trainer):
            return Evaluation(task.round, 0, {})
        state = self._memory.before(task.lineage, task.round + 1)
        given = self._call(lambda: trainer.evaluate(_copies(task.weights), _config(task, 0), state))  # type: ignore[attr-defined]
        if not isinstance(given, tuple) or len(given) != 2:
            raise UpdateHeldBack(f"a trainer's evaluate() gave a {type(given).__name__}: a tuple (metrics, examples) is expected")
        return Evaluation(task.round, _count(given[1], "evaluate()", least=0), _numbers(given[0], "evaluate()"))

    def _call(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except BaseException:
            self._trainer = None  # whatever half of it is there would be in the next round's way
            raise


def _evaluates(trainer: OwnTrainer) -> bool:
    return callable(getattr(trainer, "evaluate", None))


def _check_followed(task: Task, work: Work, trainer: OwnTrainer) -> None:
    """Refuse what an own trainer would have to do something about, and says nothing of.

    Raises:
        UpdateHeldBack: naming it.
    """
    follows = frozenset(getattr(trainer, "follows", ()))
    asked = [
        ("gradient", work is Work.GRADIENT, "gives the gradient of the loss instead of training"),
        ("noise_multiplier", work is Work.DPSGD, "trains by DP-SGD"),
        ("proximal", task.training.proximal > 0, "stays near the global weights by a proximal term"),
        (task.training.method, bool(task.training.method), f"trains as {task.training.method!r:.100} says"),
    ]
    for name, wanted, what in asked:
        possible = name not in ("gradient", "noise_multiplier")
        if wanted and not (possible and name in follows):
            can = f", or say follows = ({name!r:.100},) if it does" if possible else ""
            raise UpdateHeldBack(f"this owner has a trainer of its own, and was asked for one that {what}: use another strategy{can}")


def _copies(weights: Weights) -> list[Array]:
    return [np.array(array) for array in weights]


def _config(task: Task, stream: int) -> dict[str, Any]:
    """Return what is asked of a trainer; what the strategy says and gives has other names: `Strategy.config`, `Strategy.arrays`."""
    training = task.training
    seed = int(np.random.default_rng([training.seed, task.round, stream]).integers(1 << 31))
    plain: dict[str, Any] = {
        "round": task.round,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "learning_rate": training.learning_rate,
        "seed": seed,
    }
    if training.proximal:
        plain["proximal"] = training.proximal
    if training.method:
        plain["method"] = training.method
    return {**task.config, **{name: _copies(arrays) for name, arrays in task.arrays.items()}, **plain}


def _beside(given: Any, task: Task) -> list[Array]:
    """Return what a trainer gives beside its update, in the order in which it was asked for.

    Raises:
        UpdateHeldBack: it is something else than was asked for.
    """
    asked = ", ".join(one.name for one in task.extra) or "nothing"
    if not hasattr(given, "keys") or set(given) != {one.name for one in task.extra}:
        raise UpdateHeldBack(f"a trainer's extra is not what the strategy asks for, which is {asked:.200}: give Trained(..., extra=...)")
    return [array for one in task.extra for array in _beside_one(given, one)]


def _beside_one(given: Any, one: Extra) -> list[Array]:
    return _delta(given[one.name], one.templates, f"{one.name:.100} of a trainer's extra", [True] * len(one.forms))


def _delta(given: Any, weights: Weights, said: str, travelling: Sequence[bool]) -> list[Array]:
    """Return the arrays of an update in the dtypes of the weights.

    Raises:
        UpdateHeldBack: they are of another number, shape, or kind, or what no round changes has changed. No value is shown.
    """
    if not isinstance(given, Sequence) or len(given) != len(weights):
        count = len(given) if isinstance(given, Sequence) else f"a {type(given).__name__}, not a list"
        raise UpdateHeldBack(f"{said} has {count} of {len(weights)} arrays: one for each is expected")
    made = []
    for i, (one, before) in enumerate(zip(given, weights, strict=True)):
        try:
            array = np.asarray(one)
        except Exception:
            raise UpdateHeldBack(f"array {i} of {said} is a {type(one).__name__} that makes no array of numbers") from None
        if array.shape != before.shape or array.dtype.kind not in "fiu":
            raise UpdateHeldBack(f"array {i} of {said} is {array.dtype} {array.shape}; {before.dtype} {before.shape} expected")
        if not travelling[i] and array.any():
            what = "integers" if is_kept(before.dtype) else "a frozen array"
            raise UpdateHeldBack(f"array {i} of {said} changes {what}, which stay as they are: zeros are expected")
        with np.errstate(over="ignore"):
            array = np.array(array, before.dtype)
        if not np.isfinite(array).all():
            raise UpdateHeldBack(f"array {i} of {said} is not finite in {before.dtype}: train with a lower learning rate")
        made.append(array)
    return made


def _count(given: Any, where: str, *, least: int) -> int:
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 0:
        raise UpdateHeldBack(f"a trainer's {where} says that it was over {type(given).__name__} examples: a whole number is expected")
    if given < least:
        raise DataError(f"a trainer's {where} was over fewer than {least} examples, the fewest that this owner agrees to")
    return int(given)


def _numbers(given: Any, where: str) -> dict[str, float]:
    """Metrics as floats; the loss first.

    Raises:
        UpdateHeldBack: they are no numbers by name. No value is shown.
    """
    if not hasattr(given, "items"):
        raise UpdateHeldBack(f"a trainer's {where} gave a {type(given).__name__} as metrics: a dict of numbers by name is expected")
    found: dict[str, float] = {}
    for name, value in given.items():
        try:
            number = float(value)
        except Exception:
            raise UpdateHeldBack(f"a metric of a trainer's {where} is a {type(value).__name__}: a number is expected") from None
        if not isinstance(name, str) or not math.isfinite(number):
            raise UpdateHeldBack(f"a metric of a trainer's {where} has no text as its name, or is not finite")
        found[name] = number
    return dict(sorted(found.items(), key=lambda item: item[0] != "loss"))

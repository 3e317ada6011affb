"""Which owners, strategies and aggregations go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from actors.address import parse_actor
from actors.errors import BadAddress
from federated.aggregation.aggregation import Aggregation
from federated.errors import SettingError
from federated.models.making import check_function
from federated.owners.owner import ChangingOwners, Owner
from federated.schedules.continued import accumulated
from federated.strategies.fedbuff import FedBuff
from federated.strategies.sampling import asked as asked_of
from federated.strategies.strategy import Strategy, check
from federated.tasks.update import Task
from privacy import DPSGD, ClippedGaussian, DistributedGaussian, PrivacyEngine


def sampled(owners: int, strategy: Strategy) -> int:
    """How many owners are asked in a round; in an asynchronous one, from how many it takes updates."""
    return owners if isinstance(strategy, FedBuff) else asked_of(owners, strategy.fraction)


def check_owners(owners: Sequence[str] | Sequence[Owner], strategy: Strategy) -> None:
    """Refuse owners that are none, or the same, or too few for the strategy, and addresses that are none.

    Raises:
        SettingError: they are.
    """
    if isinstance(owners, ChangingOwners) and not len(owners):
        return  # they are yet to come, and each round sees whether they are enough
    names = [] if isinstance(owners, str) else [_name(owner) for owner in owners]
    if not names or len(set(names)) < len(names):
        raise SettingError(f"owners={owners!r}: a list of at least one owner is needed, and each once")
    asked = sampled(len(names), strategy)
    if asked < strategy.least_updates:
        raise SettingError(
            f"{type(strategy).__name__} needs {strategy.least_updates} updates a round, and {asked} of {len(names)} owners are asked: "
            f"add owners, or change the settings of {type(strategy).__name__}"
        )


def _name(owner: Any) -> str:
    if isinstance(owner, str):
        try:
            parse_actor(owner)
        except BadAddress as error:
            raise SettingError(f"owners: {error}: give that of a DataOwner, like 'wss://host:port/name'") from None
        return owner
    name = getattr(owner, "name", None)
    if not isinstance(name, str):
        raise SettingError(f"owners: a {type(owner).__name__} is no owner: give addresses, simulated_owners(...) or joining_owners(...)")
    return name


def settle(owners: object, strategy: Strategy, privacy: ClippedGaussian | DPSGD | None) -> None:
    """Have owners that come and go stay as they are, where their number counts.

    Raises:
        SettingError: there is none yet.
    """
    if not isinstance(owners, ChangingOwners):
        return
    why = ""
    if isinstance(privacy, ClippedGaussian):
        why = f"this federation has {type(privacy).__name__}, for which the number of owners is public and fixed"
    elif isinstance(strategy, FedBuff):
        why = "this federation has FedBuff, which asks the owners that it began with"
    if why and isinstance(owners, Sequence) and not owners:
        raise SettingError(f"no owner is named, and {why}: name them")
    if why:
        owners.settle(why)


def check_model(model: Any, privacy: object, evaluation: object) -> None:
    """Refuse what makes no model; and for a model that is a list of arrays, what only Keras could do.

    Raises:
        SettingError: it is no function without arguments; or DP-SGD inside of owners, or an evaluation at the aggregator, of arrays.
    """
    if not isinstance(model, (list, tuple)):
        check_function(model)
        return
    if isinstance(privacy, DPSGD):
        raise SettingError(
            "DPSGD trains Keras models inside of owners, and this model is a list of arrays: use CentralGaussian, LocalGaussian or "
            "DistributedGaussian, which bound and hide whole updates; or have the owners' trainers do DP-SGD themselves"
        )
    if evaluation is not None:
        raise SettingError("evaluation= needs a Keras model, and this model is a list of arrays: evaluate federation.weights yourself")


def check_no_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse callbacks where there is no Keras model.

    Raises:
        SettingError: there are some.
    """
    if callbacks:
        raise SettingError("callbacks= are Keras' and need its model, and this federation has arrays: use 'async for' and rounds(n)")


def check_run(quorum: float, deadline: float | None, seed: int, *, resumes: bool) -> None:
    """Refuse settings of a run that are out of range, and to resume a run that is nowhere.

    Raises:
        SettingError: naming the setting.
    """
    check("quorum", quorum, 0.0 < quorum <= 1.0, "in (0, 1]")
    check("deadline", deadline, deadline is None or 0.0 < deadline < math.inf, "above 0 seconds, or None")
    check("seed", seed, seed >= 0, "at least 0")
    if resumes:
        raise SettingError("resume=True needs the folder of the run: give folder=")


def check_private(strategy: Strategy, aggregation: Aggregation, privacy: ClippedGaussian | DPSGD | None) -> None:
    """Refuse a strategy whose releases cannot be accounted for, and an aggregation that shows what has little noise.

    Raises:
        SettingError: it needs single updates, or takes owners at any time; or updates are not hidden that have a part of the noise only.
    """
    if isinstance(privacy, DistributedGaussian) and not aggregation.hides_updates:
        raise SettingError(
            f"DistributedGaussian with {type(aggregation).__name__}, which sees single updates: each has only a part of the noise: use "
            f"SecureAggregation or SharedAggregation, or LocalGaussian"
        )
    if isinstance(privacy, DPSGD):
        if isinstance(strategy, FedBuff) or strategy.local_training().gradient:
            raise SettingError(f"{type(strategy).__name__} with DPSGD: owners train by DP-SGD in rounds: use FedAvg or another strategy")
        if type(strategy).extra is not Strategy.extra:
            name = type(strategy).__name__
            raise SettingError(
                f"{name} with DPSGD: what owners give beside updates by {name}.extra would have no noise: use FedAvg or another strategy"
            )
        return
    if privacy is not None and not strategy.bounds:
        raise SettingError(
            f"{type(strategy).__name__} with {type(privacy).__name__}: owners give parts of a quotient, which would be clipped, and "
            "get noise, as if they were more of an update: use FedAvg or another strategy"
        )
    if privacy is not None and type(strategy).plan is not Strategy.plan:
        raise SettingError(
            f"{type(strategy).__name__} with {type(privacy).__name__}: owners have to be sampled as the privacy says, and "
            f"{type(strategy).__name__}.plan chooses them: leave plan out"
        )
    if privacy is not None and (strategy.single_updates or isinstance(strategy, FedBuff)):
        raise SettingError(
            f"{type(strategy).__name__} with {type(privacy).__name__}: noise is added to the sum over owners that were sampled for a "
            f"round, and {type(strategy).__name__} makes no such sum: use FedAvg or another strategy of means"
        )


def check_trained_privately(model: Any, privacy: ClippedGaussian | DPSGD, *, epochs: int = 1) -> None:
    """Refuse a model that DP-SGD cannot train, and one with state that cannot have noise: variances would be below 0, counters no counts.

    Args:
        model: compiled.
        privacy: the mechanism.
        epochs: that an owner makes in a round.

    Raises:
        SettingError: naming each layer, why, and what to use instead; or DP-SGD would make no step in a round, whatever the data.
    """
    if isinstance(privacy, DPSGD):
        batches, each = epochs * math.ceil(1 / privacy.sampling_rate), accumulated(model.optimizer)
        if batches < each:
            raise SettingError(
                f"DPSGD(sampling_rate={privacy.sampling_rate:g}) and local_epochs={epochs} make {batches} batches in a round, and the "
                f"optimizer needs gradient_accumulation_steps={each} of them for a step: none would be made; lower that, or raise these"
            )
    from privacy.models.validation import changing  # noqa: PLC0415  imports TensorFlow

    found = (PrivacyEngine().validate(model) if isinstance(privacy, DPSGD) else ()) or changing(model)
    if found:
        raise SettingError(f"{type(privacy).__name__} cannot train this model:\n" + "\n".join(f"  {one}" for one in found))


def check_plan(strategy: Strategy, aggregation: Aggregation, planned: Mapping[str, Task]) -> None:
    """Refuse a plan that cannot be followed.

    Raises:
        SettingError: owners are asked different things, and their updates are hidden in one sum; or there are too few of them.
    """
    if aggregation.hides_updates and len({task.digest for task in planned.values()}) > 1:
        raise SettingError(
            f"{type(strategy).__name__}.plan asks owners different things, and {type(aggregation).__name__} sums what they send without "
            "anybody seeing whose it is: ask all the same, or use PlainMean"
        )
    if len(planned) < strategy.least_updates:
        raise SettingError(f"{type(strategy).__name__}.plan asks {len(planned)} owners, and needs {strategy.least_updates} updates a round")


def check_together(strategy: Strategy, aggregation: Aggregation) -> None:
    """Refuse a strategy that needs what the aggregation hides.

    Raises:
        SettingError: it does.
    """
    if strategy.single_updates and aggregation.hides_updates:
        raise SettingError(
            f"{type(strategy).__name__} compares the updates of single owners, which {type(aggregation).__name__} hides from everybody: "
            f"use PlainMean, or a strategy that needs the mean only"
        )
    if isinstance(strategy, FedBuff) and not aggregation.asynchronous:
        raise SettingError(
            f"FedBuff takes updates of owners who were asked at different times, and {type(aggregation).__name__} needs all of them at "
            f"once: use PlainMean or SharedAggregation, or a strategy with rounds"
        )

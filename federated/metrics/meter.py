"""At the aggregator: which states of metrics owners are asked for, and the metrics of all their data together, from sums of states.

A metric whose states add (see `addition`) is computed once, by Keras, from the sum of the states of all batches of all owners. The value of
another one cannot be had from what owners tell: it is the mean of the owners' values, weighted by examples, and is named so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

from federated.metrics import compiled
from federated.metrics.addition import adding, is_mean
from federated.metrics.layout import LARGEST_STATES, StateLayout
from federated.metrics.limits import LOSS, Limit, hits, labels_of_an_example, limits
from federated.metrics.stand_in import StandIn, outputs, stand_in
from federated.tasks.update import Array, Blueprint

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

MEAN = "_mean_of_owners"
"""What the name of a value ends with that is a mean of owners' values, and not the metric of all their data."""


class Meter:
    """The metrics of a model, without the model.

    Args:
        model: compiled.
        plan: its blueprint.

    Attributes:
        layout: of the states that owners are asked for; empty if the model's class keeps or tells metrics in a way of its own, or they
            take labels of a form that cannot be told from its outputs: then owners are asked for values.
    """

    def __init__(self, model: keras.Model, plan: Blueprint) -> None:
        self.layout = StateLayout()
        self._means = {"loss"} | _names_of_means(plan)
        self._stand_in: StandIn | None = None
        if not compiled.tells_as_keras(model):
            return
        most = labels_of_an_example(model)
        plain = _quotients(model, plan, most)
        if plain:  # nothing to find out, and nothing for Keras to compute
            self.layout = _layout([*plain], [*plain.values()], [(name,) for name in plain])
            return
        self._stand_in = stand_in(model, plan)
        if self._stand_in is None:
            return
        metrics, names = self._stand_in.metrics, self._stand_in.names()
        adds = adding(self._stand_in)
        sizes = [compiled.size(metric) if add else 0 for metric, add in zip(metrics, adds, strict=True)]
        if sum(sizes) > LARGEST_STATES:
            log.warning("the states of the metrics have %d values, %d can be summed: their values are averaged", sum(sizes), LARGEST_STATES)
            return
        own = compiled.of_layers(model, without=names)
        weighted = bool(_given(plan).get("weighted_metrics"))
        known = [limits(metric, inf if weighted else most) if asked else [] for metric, asked in zip(metrics, sizes, strict=True)]
        if names and names[0] == "loss" and known[0]:
            known[0] = LOSS
        self._means |= {name for name, metric in zip(names, metrics, strict=True) if is_mean(metric)}
        self.layout = _layout([*names, *own], [*known, *[[] for _ in own]], [*_told(names, metrics), *[(name,) for name in own]])

    def results(self, states: Array, means: Mapping[str, float]) -> dict[str, float]:
        """Name -> value; the loss first.

        Args:
            states: the sum over owners; empty if none told any.
            means: of what owners told as values.
        """
        found = self._computed(states) if states.size else {}
        for name, value in means.items():
            exact = not self._is_own(name) if states.size else name in self._means or (bool(self.layout.names) and not self._is_own(name))
            found[name if exact and name not in found else f"{name}{MEAN}"] = value
        return dict(sorted(found.items(), key=lambda item: item[0] != "loss"))

    def _is_own(self, name: str) -> bool:
        """Whether a value is that of a metric of the model, or one of several values of one."""
        return any(name == known or name.startswith(f"{known}_") for known in self.layout.names)

    def _computed(self, states: Array) -> dict[str, float]:
        if self._stand_in is None:
            totals, counts = states.reshape(-1, 2).T
            return {name: float(t / n) if n else 0.0 for name, t, n in zip(self.layout.names, totals, counts, strict=True)}
        found, at = {}, 0
        for name, asked, metric in zip(self.layout.names, self.layout.sizes, self._stand_in.metrics, strict=False):
            if asked:
                compiled.write(metric, states[at : at + asked])
                found[name] = metric.result()
                at += asked
        return compiled.numbers(found)


def _quotients(model: keras.Model, plan: Blueprint, most: float) -> dict[str, list[Limit]]:
    """Return the metrics of a model with one output, if each is a total over a count: the loss, and accuracies; else none."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    given = _given(plan)
    metrics = keras.tree.flatten(given.get("metrics") or [])
    if given.get("weighted_metrics") or not (isinstance(given.get("loss"), str) or callable(given.get("loss"))):
        return {}
    if len(keras.tree.flatten(outputs(model))) != 1 or compiled.of_layers(model, without=["loss"]):
        return {}
    names = ("loss", *(metric if isinstance(metric, str) else getattr(metric, "name", "") for metric in metrics))
    known = all(metric in ("accuracy", "acc") or is_mean(metric) for metric in metrics)
    if not known or len(set(names)) < len(names):
        return {}
    each = [hits(most) if isinstance(metric, str) else limits(metric, most) for metric in metrics]
    return dict(zip(names, [LOSS, *each], strict=True))


def _layout(names: list[str], each: list[list[Limit]], values: list[tuple[str, ...]]) -> StateLayout:
    flat = [one for some in each for one in some]
    known = tuple(values) if all(values) else ()
    return StateLayout(
        tuple(names),
        tuple(len(some) for some in each),
        tuple(one.count for one in flat),
        tuple(one.most for one in flat),
        tuple(one.share for one in flat),
        known,
    )


def _told(names: list[str], metrics: list[Any]) -> list[tuple[str, ...]]:
    """For each metric the names of its values, see `compiled.numbers`; none for one whose value cannot be had."""
    found: list[tuple[str, ...]] = []
    for name, metric in zip(names, metrics, strict=True):
        try:
            found.append(tuple(compiled.numbers({name: metric.result()})))
        except Exception:  # of somebody else's class, without examples
            log.debug("no value of a metric without examples", exc_info=True)
            found.append(())
    return found


def _names_of_means(plan: Blueprint) -> set[str]:
    """Names of metrics in a compilation that are means over examples, whatever the labels are."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    flat = keras.tree.flatten(_given(plan).get("metrics") or [])
    return {one for one in flat if isinstance(one, str) and _is_named_mean(one)} | {one.name for one in flat if is_mean(one)}


def _given(plan: Blueprint) -> dict[str, Any]:
    """Return what was given to `compile`, but for the optimizer."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    compilation = json.loads(plan.compilation)
    wanted = {name: compilation[name] for name in ("loss", "metrics", "weighted_metrics") if compilation.get(name) is not None}
    given: dict[str, Any] = keras.saving.deserialize_keras_object(wanted)
    return given


def _is_named_mean(name: str) -> bool:
    """Whether `compile` makes the mean of a function of it."""
    import keras  # noqa: PLC0415  is loaded already: there is a model

    if name in ("accuracy", "acc", "crossentropy", "ce"):
        return True
    found = keras.metrics.get(name)
    return is_mean(found) or not isinstance(found, keras.metrics.Metric)

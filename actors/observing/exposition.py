"""Figures as text for Prometheus, made by its client library. Import it when somebody asks for them: that takes a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from actors.observing.counts import BOUNDS, Durations
from actors.observing.figures import Figure

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Moment(Collector):
    """The figures of one moment."""

    def __init__(self, figures: Iterable[Figure], durations: Mapping[str, Durations]) -> None:
        self._figures, self._durations = figures, durations

    def collect(self) -> Iterator[Metric]:
        """Yield one family for each name."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for figure in self._figures:
            names, values = [name for name, _ in figure.labels], [value for _, value in figure.labels]
            family = families.get(figure.name)
            if family is None:
                kind = CounterMetricFamily if figure.grows else GaugeMetricFamily
                family = families[figure.name] = kind(figure.name, figure.meaning, labels=names)
            family.add_metric(values, figure.value)
        yield from families.values()
        took = HistogramMetricFamily("confide_message_seconds", "from the arrival of a message to its answer", labels=["message"])
        for label, durations in sorted(self._durations.items()):
            edges = [*map(str, BOUNDS), "+Inf"]
            took.add_metric([label], list(zip(edges, accumulate(durations.below), strict=True)), durations.seconds)
        yield took


def exposed(figures: Iterable[Figure], durations: Mapping[str, Durations]) -> bytes:
    """Return figures, durations, and what the operating system says of this process (memory, descriptors, processor time) as text."""
    registry = CollectorRegistry()
    registry.register(_Moment(figures, durations))
    ProcessCollector(registry=registry)
    return generate_latest(registry)

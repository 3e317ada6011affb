"""Spans of OpenTelemetry: what took how long within what. Without a tracer they cost a look at a variable, and nothing is imported."""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from actors.errors import ActorError
from actors.guard.words import name_of
from actors.observing.notes import NOTES, Fact, tidy

_tracer: Any = None


class Span:
    """A block that nobody traces."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def note(self, **facts: Fact) -> None:
        """Add facts to it."""


_NOBODY = Span()


class _Traced(Span):
    """A block that is traced. Of an error it says the class, since its text may quote what nobody must see."""

    def __init__(self, name: str, facts: dict[str, Fact]) -> None:
        self._name, self._facts = name, tidy(facts)

    def __enter__(self) -> Self:
        notes, api = NOTES.get(), importlib.import_module("opentelemetry.trace")
        parent = None
        if notes is not None and notes.span is not None and not api.get_current_span().get_span_context().is_valid:
            parent = api.set_span_in_context(notes.span)
        self._scope = _tracer.start_as_current_span(
            self._name, context=parent, attributes=_named(self._facts), record_exception=False, set_status_on_exception=False
        )
        self._span = self._scope.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", name_of(kind))
        self._scope.__exit__(None, None, None)

    def note(self, **facts: Fact) -> None:
        self._span.set_attributes(_named(tidy(facts)))


def _named(facts: dict[str, Fact]) -> dict[str, Fact]:
    return {f"confide.{name}": fact for name, fact in facts.items()}


def span(name: str, /, **facts: Fact) -> Span:
    """Return a span of this name for a block, within that of the message that is being handled.

    Example:
        >>> with span("dealing", model=name, examples=128) as dealing:
        ...     dealing.note(bytes=size)
    """
    return _NOBODY if _tracer is None else _Traced(name, facts)


def past_span(name: str, seconds: float, /, **facts: Fact) -> None:
    """Trace what has taken so many seconds, and ends now."""
    if _tracer is not None:
        now = time.time_ns()
        _tracer.start_span(name, start_time=now - round(seconds * 1e9), attributes=_named(tidy(facts))).end(now)


def of_message(label: str) -> Any:
    """Return a new span for a message that has arrived; None if nobody traces."""
    return None if _tracer is None else _tracer.start_span(label, record_exception=False, set_status_on_exception=False)


def end_of_message(one: Any, outcome: str, facts: dict[str, Fact]) -> None:
    """End the span of a message."""
    one.set_attributes({"confide.outcome": outcome, **_named(facts)})
    one.end()


def trace_with(tracer: Any) -> None:
    """Make spans by a tracer (`opentelemetry.trace.get_tracer("confide")`) from now on; None: make none.

    Example:
        >>> trace_with(opentelemetry.trace.get_tracer("confide"))
    """
    global _tracer
    _tracer = tracer


def trace_by_environment() -> Callable[[], None]:
    """Send spans by OTLP, as the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`, ...); return what sends the last ones and ends it.

    Raises:
        ActorError: OpenTelemetry is not installed.
    """
    try:
        sdk, export = importlib.import_module("opentelemetry.sdk.trace"), importlib.import_module("opentelemetry.sdk.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError as error:
        raise ActorError(f"traces need OpenTelemetry, and {error.name} is not installed: pip install 'confide[otel]'") from None
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))
    trace_with(provider.get_tracer("confide"))

    def end() -> None:
        trace_with(None)
        with contextlib.suppress(Exception):  # nobody may be there who takes them
            provider.shutdown()

    return end

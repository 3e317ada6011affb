"""Privacy events as text, so that they can be kept: nothing but the events of `dp-accounting` can come back."""

from __future__ import annotations

import json
from typing import Any

import attr

from privacy.errors import LedgerUnusable


def to_text(event: Any) -> str:
    """JSON of a `dp_accounting.DpEvent`, the same for equal events."""
    return json.dumps(_plain(event), sort_keys=True)


def from_text(text: str) -> Any:
    """Return the event of such a text.

    Raises:
        LedgerUnusable: it is not the text of an event.
    """
    try:
        return _event(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LedgerUnusable(f"{text[:200]!r} is no event: {error}") from error


def _plain(value: Any) -> Any:
    if attr.has(type(value)):
        fields = {field.name: _plain(getattr(value, field.name)) for field in attr.fields(type(value))}
        return {"event": type(value).__name__, **{f".{name}": one for name, one in fields.items()}}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return float(value)  # a number of numpy's


def _event(value: Any) -> Any:
    from dp_accounting import dp_event  # noqa: PLC0415  takes a second

    if isinstance(value, list):
        return [_event(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind = getattr(dp_event, value["event"])
    if not (isinstance(kind, type) and issubclass(kind, dp_event.DpEvent)):
        raise TypeError(f"{value['event']} is none of dp-accounting's events")
    return kind(**{name[1:]: _event(one) for name, one in value.items() if name != "event"})

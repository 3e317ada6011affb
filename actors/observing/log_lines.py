"""Log lines: one line an event, escaped, as text for people or as JSON for programs; and the events themselves, with their fields."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

from actors.guard.words import shown, trace
from actors.observing.notes import Fact, tidy

Form: TypeAlias = Literal["json", "text"]
FORMS: tuple[Form, ...] = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")
LINE_LIMIT = 16_000
"""Characters of the text of one line."""


def event(log: logging.Logger, level: int, name: str, /, **fields: Fact) -> None:
    """Log that something happened.

    Args:
        log: where.
        level: of `logging`.
        name: of the event: one of few, chosen by the program.
        **fields: names and counts; see `notes.noted` for what must not be in them.
    """
    if log.isEnabledFor(level):
        fields = tidy(fields)
        log.log(level, "%s", " ".join([name, *(f"{key}={_word(fact)}" for key, fact in fields.items())]), extra=_extra(name, fields))


def _extra(name: str, fields: dict[str, Fact]) -> dict[str, object]:
    return {"event": name, "fields": fields}


def _word(fact: Fact) -> str:
    """Return a fact as it stands in text: quoted where it could be taken for several."""
    if isinstance(fact, float):
        return f"{fact:.6g}"
    text = str(fact)
    return text if text and not any(character in text for character in ' "=') else json.dumps(text)


class TextLines(logging.Formatter):
    """Time, level, logger and text, in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return shown(f"{_at(record)} {record.levelname} {record.name}: {_text(record)}", LINE_LIMIT)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, event, text, and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {"time": _at(record), "level": record.levelname.lower(), "logger": record.name}
        line["event"] = str(getattr(record, "event", "message"))
        line["text"] = shown(_text(record), LINE_LIMIT)
        return json.dumps({**getattr(record, "fields", {}), **line})


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text = f"{text}: {trace(record.exc_info[1])}"
    return text


class _Lines(logging.StreamHandler[TextIO]):
    """Writes lines; who reads them may have gone."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (as in logging)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def log_lines(form: Form, level: str, stream: TextIO | None = None) -> logging.Handler:
    """Have this process write its log, all of it, in one form from one level on; return the handler.

    Args:
        form: of the lines.
        level: the least that is written, one of `LEVELS`.
        stream: to write to; None: standard error.
    """
    handler = _Lines(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler

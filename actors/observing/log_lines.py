"""Log lines: one line an event, escaped, as text for people or as JSON for programs; and the events themselves, with their fields."""

from __future__ import annotations

import json
import logging
import os
import select
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

import msgspec

from actors.guard.words import shown, trace
from actors.observing.notes import Fact, tidy

Form: TypeAlias = Literal["json", "text"]
FORMS: tuple[Form, ...] = ("json", "text")
LEVELS = ("debug", "info", "warning", "error")
LINE_LIMIT = 16_000
"""Characters of the text of one line."""
STANDARD_ERROR = 2


def event(log: logging.Logger, level: int, name: str, /, **fields: Fact) -> None:
    """Log that something happened.

    Args:
        log: where.
        level: of `logging`.
        name: of the event: one of few, chosen by the program.
        **fields: names and counts; see `notes.noted` for what must not be in them.
    """
    if log.isEnabledFor(level):
        tidy_event(log, level, name, tidy(fields))


def tidy_event(log: logging.Logger, level: int, name: str, fields: dict[str, Fact]) -> None:
    """Log an event that is wanted, with fields that are fit to be shown. It does not look up where it is called from: that is slow."""
    record = logging.LogRecord(log.name, level, "", 0, _Words(name, fields), (), None)
    record.event, record.fields = name, fields
    log.handle(record)


class _Words:
    """The text of an event, which is put together if somebody wants it as text."""

    def __init__(self, name: str, fields: dict[str, Fact]) -> None:
        self._name, self._fields = name, fields

    def __str__(self) -> str:
        return " ".join([self._name, *(f"{key}={_word(fact)}" for key, fact in self._fields.items())])


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
    """One JSON object a line: time, level, logger, event, the fields of the event; and the text, if that says more."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {**getattr(record, "fields", {}), "time": _at(record), "level": record.levelname.lower(), "logger": record.name}
        line["event"] = str(getattr(record, "event", "message"))
        if not isinstance(record.msg, _Words):  # all that it says is in the fields
            line["text"] = shown(_text(record), LINE_LIMIT)
        return msgspec.json.encode(line).decode()


def _at(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    if record.exc_info and record.exc_info[1] is not None:
        text = f"{text}: {trace(record.exc_info[1])}"
    return text


class _Lines(logging.Handler):
    """Writes lines, and never waits for whoever should read them: what finds no room is lost, and how much is said as soon as there is.

    Args:
        stream: to write to; None: standard error.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream
        self._lost, self._torn = 0, False

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            if self._stream is not None:
                self._stream.write(f"{self.format(record)}\n")
                return
            lost = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d lines were lost: nobody has read them", (self._lost,), None)
            if self._lost and self._written(lost):
                self._lost = 0
            if self._lost or not self._written(record):
                self._lost += 1
        except OSError:
            self._lost += 1  # who read them has gone
        except Exception:
            self.handleError(record)

    def _written(self, record: logging.LogRecord) -> bool:
        """Write a line where there is room for it, piece by piece: a pipe that is writable takes `PIPE_BUF` bytes at once."""
        line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        if self._torn:
            line = b"\n" + line
        for start in range(0, len(line), select.PIPE_BUF):
            if not select.select([], [STANDARD_ERROR], [], 0)[1]:
                return False
            os.write(STANDARD_ERROR, line[start : start + select.PIPE_BUF])
            self._torn = True
        self._torn = False
        return True


def log_lines(form: Form, level: str, stream: TextIO | None = None) -> logging.Handler:
    """Have this process write its log, all of it, in one form from one level on; return the handler.

    Args:
        form: of the lines.
        level: the least that is written, one of `LEVELS`.
        stream: to write to; None: standard error.
    """
    handler = _Lines(stream)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler

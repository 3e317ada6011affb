"""What others said, as it is shown; and how much of it gets into a log."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.guard import limited_log
from actors.guard.limited_log import BURST, EVERY, LimitedLog
from actors.guard.words import TEXT_LIMIT, checked_name, shown, trace

log = logging.getLogger("test")


@given(st.text(), st.integers(0, 50))
def test_what_is_shown_is_one_printable_line_of_bounded_length(text, most):
    assert shown(text, most).isprintable()
    assert len(shown(text, most)) <= most
    if text.isprintable():
        assert shown(text, most) == text[:most]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b0m", "\\x9b0m"),
        ("\ud800", "\\ud800"),
        ("Zürich", "Zürich"),
    ],
)
def test_what_a_terminal_obeys_is_written_as_an_escape(text, expected):
    assert shown(text) == expected


def test_names():
    assert checked_name("package.module.Class") == "package.module.Class"
    for name in ("", ".", "a.", "with space", "a\n", "x" * 101, "é"):
        assert checked_name(name) == "Exception"


def test_the_trace_of_an_error_has_its_causes_and_no_line_of_a_stranger():
    def inner():
        raise KeyError("\n2026-11-29 INFO all is well")

    try:
        try:
            inner()
        except KeyError as cause:
            raise ValueError("first\nsecond\x1b[31m" + "A" * 10 * TEXT_LIMIT) from cause
    except ValueError as error:
        text = trace(error)
    assert "in inner" in text
    assert "ValueError: first\\nsecond\\x1b[31m" in text
    assert not any(line.startswith("2026") for line in text.splitlines())
    assert len(text) < 3 * TEXT_LIMIT


def test_a_chain_of_causes_that_is_a_circle_is_cut():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert trace(first).count("caused by") == 4


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_some_lines_at_once_and_then_one_a_minute(caplog, clock):
    lines = LimitedLog(clock)
    for _ in range(1000):
        lines.write(log, logging.WARNING, "refused", "%s was refused", "somebody")
    assert caplog.messages == ["somebody was refused"] * BURST
    clock.now += EVERY
    for _ in range(1000):
        lines.write(log, logging.WARNING, "refused", "%s was refused", "somebody")
    assert caplog.messages[BURST:] == [f"somebody was refused ({1000 - BURST} lines like this were left out)"]
    lines.write(log, logging.WARNING, "another kind", "this is another kind")
    assert caplog.messages[-1] == "this is another kind"
    clock.now += 1000 * EVERY
    for _ in range(1000):
        lines.write(log, logging.WARNING, "refused", "%s was refused", "somebody")
    assert len(caplog.messages) == 2 * BURST + 2


def test_kinds_do_not_pile_up(caplog, clock, monkeypatch):
    monkeypatch.setattr(limited_log, "KINDS", 5)
    lines = LimitedLog(clock)
    for number in range(1000):
        lines.write(log, logging.WARNING, f"kind {number}", "text")
    assert len(lines._lines) <= 6
    assert len(caplog.messages) == 5 + BURST

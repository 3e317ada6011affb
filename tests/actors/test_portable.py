"""Errors as they cross from one process to another."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from actors import ActorError, ChildFailed, ConnectionLost, OneWayFailed, RemoteError, errors, portable_error
from actors.guard.words import NAME_LIMIT, TEXT_LIMIT
from actors.messages.portable import KEPT_THERE, Failure, from_wire, to_wire

CANARY = "patient 4711"
CONTROL = "\n2026-11-29 INFO all is well\x1b[31m\x85\u2028\u202e\r\x00"


def crossed(error):
    try:
        raise error
    except BaseException as raised:
        data = msgspec.msgpack.encode(to_wire(raised))
    assert b"in crossed" not in data
    assert __file__.encode() not in data
    return from_wire(msgspec.msgpack.decode(data, type=Failure), "Class.message at ws://host:1")


class Quoting(Exception):
    """An error whose attributes, text and name of its kind say too much."""

    def __str__(self):
        return CANARY


FOREIGN = [
    ValueError(CANARY),
    KeyError(CANARY),
    OSError(2, "No such file", f"/home/{CANARY}"),
    UnicodeDecodeError("utf-8", CANARY.encode(), 0, 1, "bad"),
    ExceptionGroup(CANARY, [ValueError(CANARY)]),
    Quoting(),
    type(CANARY, (Exception,), {})(),
    type("x" * 200, (ValueError,), {})(CANARY),
    type("Inner", (ActorError,), {})(CANARY),
    ChildFailed(f"python -m x: ended; its last lines: {CANARY}"),
    OneWayFailed(f"ValueError: {CANARY}"),
    MemoryError(CANARY),
    SystemExit(CANARY),
]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: type(error).__name__[:20])
def test_nothing_of_a_foreign_error_but_its_class_crosses(error):
    data = msgspec.msgpack.encode(to_wire(error))
    assert CANARY.encode() not in data
    back = crossed(error)
    assert type(back) is RemoteError
    assert back.class_name in (type(error).__name__, "Exception")
    assert str(back) == f"{back.class_name}: {KEPT_THERE}"
    assert back.__notes__ == ["raised by Class.message at ws://host:1"]


def test_nothing_of_the_cause_of_a_portable_error_crosses():
    error = NeedsOne("own words")
    error.__cause__ = error.__context__ = ValueError(CANARY)
    error.add_note(CANARY)
    assert CANARY.encode() not in msgspec.msgpack.encode(to_wire(error))


@portable_error
class NeedsOne(Exception):
    pass


def test_every_error_of_this_package_keeps_its_class():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ActorError)]
    assert len(classes) > 25
    for cls in classes:
        back = crossed(cls("what", "when", "why") if cls is ConnectionLost else cls("text"))
        assert type(back) is (RemoteError if cls in (ChildFailed, OneWayFailed) else cls)


def test_every_error_of_this_package_is_drawn():
    drawn = {line.split("+--")[1].split()[0] for line in errors.__doc__.splitlines() if "+--" in line} | {"ActorError"}
    assert drawn == {name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, ActorError)}


@portable_error
class NeedsTwo(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Private(Exception):
    pass


def test_a_class_that_its_arguments_do_not_make_again():
    back = crossed(NeedsTwo("a", "b"))
    assert isinstance(back, RemoteError)
    assert str(back).endswith("NeedsTwo: a and b")


def test_a_remote_error_passes_through():
    back = crossed(crossed(Private("inner")))
    assert type(back) is RemoteError
    assert back.class_name == "Private"


def test_a_subclass_of_a_portable_class_is_not_portable():
    class More(NeedsOne):
        pass

    assert type(crossed(More(CANARY))) is RemoteError
    assert type(crossed(NeedsOne("own words"))) is NeedsOne


def test_no_value_but_plain_ones_is_shown():
    failure = to_wire(NeedsOne(np.array([77777]), b"77777", 1 << 80))
    assert "77777" not in failure.text
    assert failure.arguments == ["<ndarray>", "<bytes>", "<a large int>"]


def test_what_cannot_be_encoded_or_is_too_long():
    back = crossed(NeedsOne("\ud800" + "x" * 10 * TEXT_LIMIT, *range(100)))
    assert isinstance(back, NeedsOne)
    assert len(back.args[0]) == TEXT_LIMIT
    assert len(back.args) == 16


@pytest.mark.parametrize("name", ["builtins.SystemExit", "builtins.eval", "os.system", "builtins.ValueError", "actors.errors.RemoteError"])
def test_a_class_that_is_never_made(name):
    assert type(from_wire(Failure(name, ["text"], "text"), "here")) is RemoteError


@pytest.mark.parametrize("name", ["", "a b", "x" * (NAME_LIMIT + 1), CONTROL, "é", "a..b", "1a", "/home/me/x.py"])
def test_a_name_that_no_class_can_have_is_not_shown(name):
    assert from_wire(Failure(name, [], ""), "here").class_name == "Exception"


def test_what_a_hostile_side_says_is_shown_in_one_harmless_line():
    said = CONTROL + "A" * 10 * TEXT_LIMIT
    known = from_wire(Failure("actors.errors.ActorStopped", [said, said], said), "here")
    odd = from_wire(Failure("actors.errors.ConnectionLost", [said] * 9, said), "here")
    unknown = from_wire(Failure("no.such.Class", [said], f'File "/home/me/x.py", line 1 {said}'), "here")
    for error in (known, odd, unknown):
        for text in (str(error), *map(str, error.args)):
            assert all(character not in text for character in CONTROL if not character.isprintable())
            assert len(text) < 3 * TEXT_LIMIT
    assert "/home/me" not in str(unknown)


def test_what_an_earlier_version_sends_is_read_without_its_traceback():
    data = msgspec.msgpack.encode(["actors.errors.ActorStopped", ["it has ended"], "it has ended", 'File "/home/me/x.py", line 1'])
    back = from_wire(msgspec.msgpack.decode(data, type=Failure), "here")
    assert str(back) == "it has ended"
    assert back.__notes__ == ["raised by here"]


@pytest.mark.parametrize("bad", [3, int, KeyboardInterrupt])
def test_only_exceptions_can_be_portable(bad):
    with pytest.raises(TypeError, match="not a class of exceptions"):
        portable_error(bad)

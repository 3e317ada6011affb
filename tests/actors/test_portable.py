"""Errors as they cross from one process to another."""

from __future__ import annotations

import builtins

import msgspec
import numpy as np
import pytest

from actors import ActorError, ConnectionLost, RemoteError, errors, portable_error
from actors.portable import TEXT_LIMIT, TRACEBACK_LIMIT, Failure, from_wire, to_wire


def crossed(error):
    try:
        raise error
    except BaseException as raised:
        data = msgspec.msgpack.encode(to_wire(raised))
    return from_wire(msgspec.msgpack.decode(data, type=Failure), "Class.message at ws://host:1")


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("k"), OSError(2, "gone"), TimeoutError(), ZeroDivisionError("x", 1, 2.5, None)]
)
def test_builtin_errors(error):
    back = crossed(error)
    assert type(back) is type(error)
    assert back.args == error.args
    assert "Class.message at ws://host:1" in back.__notes__[0]
    assert "in crossed" in back.__notes__[0]


def test_every_error_of_this_package_keeps_its_class():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, ActorError)]
    assert len(classes) > 25
    for cls in classes:
        assert type(crossed(cls("what", "when", "why") if cls in (ConnectionLost, RemoteError) else cls("text"))) is cls


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
    assert isinstance(back, RemoteError)
    assert back.class_name.endswith(".Private")
    assert "in crossed" in back.traceback


def test_no_value_but_plain_ones_is_shown():
    class Odd(Exception):
        pass

    failure = to_wire(Odd(np.array([77777]), b"77777", 1 << 80))
    assert "77777" not in failure.text
    assert failure.arguments == ["<ndarray>", "<bytes>", "<a large int>"]


def test_what_cannot_be_encoded_or_is_too_long():
    back = crossed(ValueError("\ud800" + "x" * 10 * TEXT_LIMIT, *range(100)))
    assert isinstance(back, ValueError)
    assert len(back.args[0]) == TEXT_LIMIT
    assert len(back.args) == 16
    assert len(to_wire(ValueError("x" * 10 * TRACEBACK_LIMIT)).traceback) <= TRACEBACK_LIMIT


def test_a_class_that_is_never_made():
    for name in ("builtins.SystemExit", "builtins.eval", "os.system", "builtins.StopIteration"):
        assert isinstance(from_wire(Failure(name, [], "", ""), "here"), RemoteError)
    assert hasattr(builtins, "SystemExit")


@pytest.mark.parametrize("bad", [3, int, KeyboardInterrupt])
def test_only_exceptions_can_be_portable(bad):
    with pytest.raises(TypeError, match="not a class of exceptions"):
        portable_error(bad)

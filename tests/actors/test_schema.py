"""Classes of actors and the annotations of their messages: what is refused, and when."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import threading
import uuid
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from actors import Actor, ActorRef, BadAddress, MessageRejected, message
from actors.messages.schema import Form, messages_of, reference_type
from actors.messages.values import Packed


def test_messages_are_found_in_base_classes():
    class Base(Actor):
        @message
        async def first(self) -> None: ...

    class Derived(Base):
        @message(reentrant=True)
        def second(self, x: int) -> None: ...

        async def other(self) -> None: ...

    found = messages_of(Derived)
    assert list(found) == ["first", "second"]
    assert (found["first"].reentrant, found["first"].asynchronous) == (False, True)
    assert (found["second"].reentrant, found["second"].asynchronous) == (True, False)
    assert issubclass(reference_type(Derived), ActorRef)


def test_an_override_is_marked_too():
    class Base(Actor):
        @message
        async def first(self) -> None: ...

    with pytest.raises(TypeError, match=r"Derived.first overrides a message; mark it with @message too"):

        class Derived(Base):
            async def first(self) -> None: ...


@pytest.mark.parametrize("name", ["_hidden", "__init__", "with_options", "started", "stopped"])
def test_names_that_cannot_be_messages(name):
    with pytest.raises(TypeError, match="not callable from outside"):
        type("Bad", (Actor,), {name: message(lambda self: None)})


def test_arguments_are_annotated_and_counted():
    with pytest.raises(TypeError, match="argument 'n' needs an annotation"):

        class Bare(Actor):
            @message
            async def m(self, n): ...

    with pytest.raises(TypeError, match=r"\*values.* is open-ended"):

        class Open(Actor):
            @message
            async def m(self, *values: int) -> None: ...


def test_types_that_cannot_be_sent_are_refused_by_name():
    class Locked(Actor):
        @message
        async def m(self, first: int, lock: list[threading.Event]) -> None: ...

    with pytest.raises(TypeError, match=r"argument 'lock' of .*Locked.m: a threading.Event cannot be sent"):
        messages_of(Locked)

    class Texts(Actor):
        @message
        async def m(self, x: npt.NDArray[np.str_]) -> None: ...

    with pytest.raises(TypeError, match="arrays of str_ cannot be sent"):
        messages_of(Texts)

    class Ambiguous(Actor):
        @message
        async def m(self) -> int | np.ndarray: ...

    with pytest.raises(TypeError, match=r"result of .*Ambiguous.m: .*custom type"):
        messages_of(Ambiguous)


def test_an_annotation_that_cannot_be_resolved():
    class Lost(Actor):
        @message
        async def m(self, x: Nowhere) -> None: ...  # noqa: F821

    with pytest.raises(TypeError, match="name 'Nowhere' is not defined; import or define it at the top of the module"):
        messages_of(Lost)


def test_arguments_are_bound_like_those_of_a_function():
    class Many(Actor):
        @message
        async def m(self, a: int, b: str = "b", *, c: Any = None) -> None: ...

        @message
        async def nothing(self) -> None: ...

    one = messages_of(Many)["m"]
    assert one.bind((1,), {}) == (1, "b", None)
    assert one.bind((1, "x"), {"c": 3}) == (1, "x", 3)
    assert one.bind((), {"c": 3, "a": 1}) == (1, "b", 3)
    assert messages_of(Many)["nothing"].bind((), {}) == ()
    with pytest.raises(TypeError, match="too many positional arguments"):
        one.bind((1, "x", 3), {})


def test_with_options_on_the_actor_itself():
    class Plain(Actor):
        pass

    with pytest.raises(TypeError, match=r"use self.me.with_options"):
        Plain().with_options()


CANARY = "patient 4711"


class Colour(enum.Enum):
    RED = "red"


class Strict(msgspec.Struct, forbid_unknown_fields=True, tag="strict"):
    x: int


@dataclasses.dataclass
class Picky:
    x: str

    def __post_init__(self):
        raise ValueError(self.x)


@dataclasses.dataclass
class PickyInOwnWords:
    x: str

    def __post_init__(self):
        raise BadAddress("a portable error says what its author vouches for")


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Colour, CANARY, "a value that is none of those allowed"),
        (Literal["a", "b"], CANARY, "a value that is none of those allowed"),
        (Strict, {"type": CANARY, "x": 1}, "a kind of object that is none of those allowed"),
        (Strict, {"type": "strict", "x": 1, CANARY: 2}, "an object with a field that is not known"),
        (Picky, {"x": CANARY}, r"a value that its class refuses \(ValueError\)"),
        (PickyInOwnWords, {"x": CANARY}, "what its author vouches for"),
        (list[Picky], [{"x": CANARY}], r"a value that its class refuses \(ValueError\)"),
        (int, CANARY, "Expected `int`, got `str`"),
        (dict[str, int], {CANARY: "x"}, "Expected `int`, got `str`"),
        (uuid.UUID, CANARY, "Invalid UUID"),
        (datetime.datetime, CANARY, "Invalid RFC3339"),
        (np.ndarray, CANARY, "Expected an array, got `str`"),
        (Annotated[int, msgspec.Meta(lt=5)], 4711, "Expected `int` <= 4"),
    ],
)
def test_a_refusal_of_values_quotes_none_of_them(kind, value, said):
    form = Form("Class.message", ["argument 'x'"], [kind])
    with pytest.raises(MessageRejected, match=said) as caught:
        form.unpack(Packed(msgspec.msgpack.encode([value]), [], []))
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_text_that_cannot_be_sent_is_not_quoted():
    with pytest.raises(MessageRejected, match="no valid Unicode") as caught:
        Form("Class.message", ["argument 'x'"], [str]).pack(("\udc80" + CANARY,))
    assert "udc80" not in str(caught.value)

"""Windows, without a connection: both sides of the count agree, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.connection.credit import ReceiveWindow, SendWindow
from actors.errors import Overrun


def test_messages_leave_in_order_as_credit_comes():
    window: SendWindow[str] = SendWindow()
    assert [window.submit(name) for name in "abc"] == [False] * 3
    assert window.grant(2) == ["a", "b"]
    assert not window.submit("d")
    assert window.discard("c")
    assert not window.discard("c")
    assert window.grant(2) == ["d"]
    assert window.submit("e")
    assert not window.submit("f")
    assert window.drain() == ["f"]


def test_more_than_the_window_is_an_overrun():
    window = ReceiveWindow("the actor", 2)
    window.arrived()
    window.arrived()
    with pytest.raises(Overrun, match="more than the 2 messages that were allowed are under way to the actor"):
        window.arrived()
    window.answered()
    window.arrived()


def test_credit_for_messages_without_reply_comes_in_batches():
    window = ReceiveWindow("the actor", 8)
    for _ in range(8):
        window.arrived()
    assert [window.ended() for _ in range(8)] == [0, 2] * 4


@given(st.integers(1, 20), st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_a_sender_that_counts_never_overruns_and_never_starves(size, steps):
    """Each step submits a message with or without reply, then lets some that are under way end."""
    sender: SendWindow[bool] = SendWindow(size)
    receiver = ReceiveWindow("the actor", size)
    under_way: list[bool] = []

    def send(messages):
        for one in messages:
            receiver.arrived()
            under_way.append(one)

    def end_one():
        if under_way.pop(0):
            receiver.answered()
            send(sender.grant(1))
        elif credit := receiver.ended():
            send(sender.grant(credit))

    for with_reply, ends in steps:
        if sender.submit(with_reply):
            send([with_reply])
        for _ in range(min(ends, len(under_way))):
            end_one()
    while under_way:
        end_one()
    assert sender.drain() == []

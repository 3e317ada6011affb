"""Order and bounds of a mailbox, without an actor."""

from __future__ import annotations

import pytest

from actors.running.mailbox import Envelope, Mailbox


class Note(Envelope):
    def __init__(self, name):
        super().__init__(None, ())
        self.name = name

    def reply(self, value): ...

    def fail(self, error): ...


def test_more_than_the_capacity_waits_for_room_in_order():
    mailbox = Mailbox(2)
    a, b, c, d = map(Note, "abcd")
    assert [mailbox.put(note) for note in (a, b, c, d)] == [True, True, False, False]
    assert mailbox.ended() is c
    assert not mailbox.put(Note("e"))  # behind d
    assert mailbox.ended() is d


def test_messages_wait_for_their_turn_in_order():
    mailbox = Mailbox(3)
    notes = [Note("a"), Note("b")]
    for note in notes:
        assert mailbox.put(note)
        mailbox.wait_for_turn(note)
    assert [mailbox.next_in_turn() for _ in range(3)] == [*notes, None]


def test_discarding():
    mailbox = Mailbox(1)
    admitted, waiting, running = map(Note, "awr")
    assert mailbox.put(admitted)
    mailbox.wait_for_turn(admitted)
    mailbox.put(waiting)
    assert not mailbox.discard(waiting)
    assert not mailbox.discard(running)
    assert mailbox.discard(admitted)
    assert mailbox.ended() is None
    assert mailbox.put(Note("next"))


def test_draining_empties_it():
    mailbox = Mailbox(1)
    notes = [Note("a"), Note("b")]
    mailbox.put(notes[0])
    mailbox.wait_for_turn(notes[0])
    mailbox.put(notes[1])
    assert list(mailbox.drain()) == notes
    assert mailbox.put(Note("c"))


def test_a_mailbox_holds_something():
    with pytest.raises(ValueError, match="mailbox=0: a mailbox holds at least one message"):
        Mailbox(0)

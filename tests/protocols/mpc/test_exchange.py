"""Sans-IO rounds: merging, splitting, counting, and clean endings."""

import numpy as np
import pytest

from protocols.mpc.parties.exchange import Party, exchange, open_bits, open_sum, together
from protocols.mpc.parties.simulator import PartyLost, simulate


def words(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


async def repeat(me: Party, value: int, rounds: int) -> int:
    """Opens `value` times the round number, `rounds` times, and adds up."""
    total = 0
    for i in range(rounds):
        total += int((await open_sum(me, words(value * (i + 1))))[0])
    return total


def both(protocol):
    return simulate({i: protocol(Party(i)) for i in (0, 1)})


def test_one_await_is_one_round():
    transcript = both(lambda me: repeat(me, 5, 4))
    assert transcript.results == {0: 100, 1: 100}
    assert transcript.rounds == 4
    assert transcript.sent == {(0, 1): 32, (1, 0): 32}


def test_together_merges_rounds_of_different_lengths():
    transcript = both(lambda me: together(repeat(me, 1, 3), repeat(me, 2, 1), together(repeat(me, 3, 2), repeat(me, 4, 5))))
    assert transcript.results[0] == transcript.results[1] == [12, 4, [18, 120]]
    assert transcript.rounds == 5
    assert transcript.sent[0, 1] == 8 * (3 + 1 + 2 + 5)


def test_together_of_nothing_needs_no_round():
    transcript = both(lambda me: together())
    assert (transcript.results[0], transcript.rounds) == ([], 0)


def test_openings_wrap_and_xor():
    assert both(lambda me: open_sum(me, words(2**63 + me.index))).results[0][0] == 1
    assert both(lambda me: open_bits(me, words(5 + me.index))).results[1][0] == 3


async def one_way(me: Party) -> int:
    """Party 0 sends without awaiting anything; party 1 only listens."""
    if me.index == 0:
        await exchange({1: words(7)}, awaiting=set())
        return 0
    return int((await exchange({}, awaiting={0}))[0][0])


def test_a_message_in_one_direction():
    transcript = both(one_way)
    assert (transcript.results, transcript.sent) == ({0: 0, 1: 7}, {(0, 1): 8})


def test_a_failure_closes_all_protocols():
    closed = []

    async def patient(me: Party) -> int:
        try:
            return await repeat(me, 1, 9)
        finally:
            closed.append(me.index)

    async def failing(me: Party) -> int:
        await repeat(me, 1, 2)
        raise ArithmeticError("broken")

    with pytest.raises(ArithmeticError, match="broken"):
        both(lambda me: together(patient(me), failing(me)))
    assert sorted(closed) == [0, 1]


def test_a_vanished_party_is_named():
    protocols = {i: repeat(Party(i), 1, 3) for i in (0, 1)}
    with pytest.raises(PartyLost, match="party 0 awaited 1 messages from party 1 in round 2, got 0"):
        simulate(protocols, drop=(1, 2))


def test_values_stay_out_of_reprs():
    coroutine = repeat(Party(0), 123456789, 1)
    request = coroutine.send(None)
    coroutine.close()
    assert "123456789" not in repr(request)
    assert request.bytes_sent == 8

"""The randomness of steps to come at one server: supplied ahead within a bound, taken in order, each once."""

from __future__ import annotations

import asyncio

from protocols.errors import TicketRefused
from protocols.mpc.parties.material import Material


class Supply:
    """Steps are numbered from 0 over all epochs.

    Args:
        ahead: how many steps may be here at once, at least 1.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._next = 0
        self._here: dict[int, tuple[Material, int]] = {}
        self._promised: set[int] = set()
        self._changed = asyncio.Condition()

    async def room(self, number: int) -> None:
        """Wait until the material of step `number` may come.

        Raises:
            TicketRefused: it has been here before: the same masks never serve twice.
        """
        if number < self._next or number in self._promised:
            raise TicketRefused(f"the randomness of step {number} was supplied before: each step needs its own")
        self._promised.add(number)
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._next + self._ahead)

    async def put(self, number: int, material: Material, dealt: int) -> None:
        """Take in the material of a step, and how many bytes of it were dealt."""
        async with self._changed:
            self._here[number] = material, dealt
            self._changed.notify_all()

    async def passed(self, number: int) -> int:
        """Wait until the material of step `number` has been taken, and return how many have been."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._next > number)
            return self._next

    async def take(self, number: int) -> tuple[Material, int]:
        """Wait for the material of the next step and take it away."""
        async with self._changed:
            await self._changed.wait_for(lambda: number in self._here)
            self._next = number + 1
            self._promised.discard(number)
            self._changed.notify_all()
            return self._here.pop(number)

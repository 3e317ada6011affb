"""One worker's side of what it computes together with another one: for a model, for a run of training, for a sum, or for data at rest.

It knows who the other worker is, mostly the other server, and nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from actors import Actor, ActorError, Surroundings
from actors.observing.spans import span
from protocols.concurrency import Background
from protocols.errors import WorkerLost
from protocols.link.run import Cost, Inboxes, Spent, drive
from protocols.link.seal import Seal
from protocols.link.threads import LONG, VERY_LONG, Threads
from protocols.mpc.parties.exchange import Party, Protocol, Ring

S = TypeVar("S")
T = TypeVar("T")
Deliver = Callable[[bytes, bytes, int, list[Ring]], Coroutine[Any, Any, None]]
"""Sends (name, channel, round, arrays) to the other server, and returns when the arrays may change."""
GiveUp = Callable[[bytes, bytes], Coroutine[Any, Any, None]]
"""Tells the other server that this one sends no more for (name, channel)."""


class Twins:
    """Computations of two servers, by channel: their rounds, how they are given up, and what becomes of them when a server is gone.

    Args:
        name: by which the other server finds this link.
        me: this server, or which of the two workers it is.
        deliver: reaches the other server.
        give_up: the same.
        threads: for long computations.
        background: sends what nobody waits for.
        patience: seconds to wait for a message of the other server.
        spent: counts what computations cost.

    Attributes:
        me: the same.
        inboxes: what has arrived from the other server.
    """

    def __init__(
        self,
        name: bytes,
        me: Party,
        *,
        deliver: Deliver,
        give_up: GiveUp,
        threads: Threads,
        background: Background,
        patience: float,
        spent: Spent | None = None,
    ) -> None:
        self._name, self.me, self._patience = name, me, patience
        self._deliver, self._give_up = deliver, give_up
        self._threads, self._background = threads, background
        self.inboxes = Inboxes(patience)
        self._spent = spent or Spent()
        self._watching: asyncio.Task[None] | None = None
        self._watched: tuple[Surroundings, Actor] | None = None

    def watch(self, system: Surroundings, peer: Actor) -> None:
        """Have all computations fail when the other server is gone, from now on, and again for what begins when it is back."""
        self._watched = system, peer
        if self._watching is not None and not self._watching.done():
            return

        async def watch() -> None:
            try:
                reason = (await system.watch(peer)).reason
            except ActorError as error:
                reason = str(error)
            self.inboxes.fail_all(WorkerLost(f"the other server is gone: {reason}"))

        self._watching = asyncio.create_task(watch())

    def close(self, reason: Exception) -> None:
        """End: all computations fail for this reason."""
        self.inboxes.fail_all(reason)
        self.inboxes.close()
        if self._watching is not None:
            self._watching.cancel()

    async def compute(
        self,
        protocol: Protocol[T],
        channel: bytes,
        seal: Seal | None,
        *,
        words: int,
        dealt: int,
        received: Ring | None = None,
        who: bytes,
        rest: bool = False,
        delay: float | None = None,
    ) -> tuple[T, Cost]:
        """Run a protocol with the other server, which runs its own side of it; if it fails here, the other server is told.

        A short computation runs on the event loop. A long one runs in threads while somebody else with a short one would have to wait for
        it, and on the loop otherwise, since hops between threads have their price. A very long one always runs in threads, so that
        pings are answered. Where it runs changes nothing that is sent.

        Args:
            protocol: what to run.
            channel: names the computation at both servers; used once.
            seal: of the computation, see `drive`.
            words: ring words that it goes through, as a measure of how long it takes.
            dealt: bytes that were dealt ahead for it.
            received: what a client sent to both servers, see `drive`.
            who: names the request or the run that it belongs to.
            rest: whether it is the rest of something larger, for which nothing long gives way.
            delay: of what waits for material while it runs: seconds that a round may take longer for it. All its steps run in threads, so
                that the material comes meanwhile. None: everything that it needs is there.

        Raises:
            Altered: the other server received something else from the client.
            WorkerLost: the other server gave up, went away, or was silent for too long.
        """
        if self._watched is not None:
            self.watch(*self._watched)
        long, precedence = words >= LONG or delay is not None, self._threads.precedence  # nothing in threads gives way to itself

        async def run(step: Callable[[], S], /) -> S:
            return await self._threads.run(step) if precedence.expected(who) else step()

        try:
            turn = contextlib.nullcontext() if long or rest else precedence.short(who)
            with self.inboxes.claimed(channel) as inbox, turn, span("rounds", server=self.me.index) as traced:
                made, cost = await drive(
                    protocol,
                    channel,
                    inbox,
                    self._send,
                    other=self.me.other,
                    seal=seal,
                    dealt=dealt,
                    patience=self._patience + (delay or 0.0),
                    received=received,
                    run=self._threads.run if delay is not None or words >= VERY_LONG else run if long else None,
                )
                self._spent.add(cost)
                traced.note(rounds=cost.rounds, sent=cost.sent, received=cost.received, dealt=cost.dealt)
                return made, cost
        except ActorError as error:
            raise WorkerLost(f"the other server cannot be reached: {error}") from None
        except BaseException:
            self.give_up(channel)
            raise

    def give_up(self, channel: bytes) -> None:
        """Tell the other server that this one sends no more for a computation."""
        self._background.later(self._give_up(self._name, channel))

    def given_up(self, channel: bytes) -> None:
        """Have a computation fail for which the other server sends no more."""
        self.inboxes.fail(channel, WorkerLost("the other server gave this computation up"))

    async def _send(self, channel: bytes, number: int, arrays: list[Ring]) -> None:
        await self._deliver(self._name, channel, number, arrays)

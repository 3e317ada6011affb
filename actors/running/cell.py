"""A running actor: its instance, its mailbox, the tasks of its handlers, and what happens when it crashes."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import cast

from actors.actor import Actor
from actors.errors import ActorStopped, CallCancelled, Crash
from actors.guard.words import trace
from actors.identity.caller import CALLER
from actors.messages.portable import told
from actors.messages.schema import Message
from actors.observing.notes import NOTES
from actors.running.mailbox import Envelope, Mailbox
from actors.supervision import Restart, RestartBudget

log = logging.getLogger(__name__)

CRASHED = "it crashed: "
"""How the reason begins for which an actor has ended that nobody stopped."""
TURNS = 32
"""Messages of one actor that may be handled before others get a chance to run."""
STOP_WITHIN = 5.0
"""Seconds that a cancelled handler may take to end before it is left behind."""


class Cell:
    """One actor of a system.

    Its life: `start` builds the instance; messages come in through `accept`; a crash replaces the instance while messages wait, or
    ends the actor; `stop` ends it. Once it has ended, `ended` holds the reason.

    Args:
        label: what errors call it.
        class_name: of the actor.
        build: makes an instance.
        messages: by name.
        forget: is told the reason when the actor has ended.
    """

    def __init__(
        self,
        label: str,
        class_name: str,
        build: Callable[[], Actor],
        messages: dict[str, Message],
        *,
        capacity: int,
        restart: Restart,
        forget: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.label = label
        self.class_name = class_name
        self.messages = messages
        self.mailbox = Mailbox(capacity)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._build = build
        self._forget = forget
        self._budget = RestartBudget(restart)
        self._actor: Actor | None = None
        self._closing = ""
        self._current: Envelope | None = None
        self._running: dict[asyncio.Task[None], Envelope] = {}
        self._held: list[Envelope] = []  # plain `def` reentrant messages that came during a restart
        self._leaving: Actor | None = None  # an instance that has crashed and was not told yet
        self._recovery: asyncio.Task[None] | None = None

    @property
    def actor(self) -> Actor | None:
        """The instance, for who asks it what it shows; None while there is none."""
        return self._actor

    # Life.

    async def start(self) -> None:
        """Build the instance and let messages in.

        Raises:
            Exception: whatever the constructor or `started` raised, if the policy allows no further try.
        """
        while True:
            try:
                actor = self._build()
                await actor.started()
                break
            except Exception:
                if not self._budget.spend(self._loop.time()):
                    raise
        if self._closing:
            await self._told(actor.stopped())
            raise self._gone()
        self._actor = actor
        held, self._held = self._held, []
        for envelope in held:
            self.accept(envelope)
        for envelope in self.mailbox.all_in_turn():
            self._place(envelope)

    async def stop(self, reason: str) -> None:
        """End the actor; messages that have not been answered fail with `ActorStopped`. A handler may stop its own actor."""
        if self._closing:
            await asyncio.shield(self.ended)
            return
        self._closing = reason
        if self._recovery is not None and self._recovery is not asyncio.current_task():
            self._recovery.cancel()
            await asyncio.wait([self._recovery])
        await self._end(self._detach() or self._leaving)

    def _detach(self) -> Actor | None:
        actor, self._actor = self._actor, None
        return actor

    async def _end(self, actor: Actor | None) -> None:
        for envelope in [*self.mailbox.drain(), *self._held]:
            envelope.fail(self._gone())
        await self._retire(actor)
        if not self.ended.done():
            self._forget(self._closing)
            self.ended.set_result(self._closing)

    async def _retire(self, actor: Actor | None) -> None:
        """Cancel the handlers of an instance, then tell it."""
        self._leaving = actor
        tasks = [task for task in self._running if task is not asyncio.current_task()]
        for task in tasks:
            self.cancel(self._running[task])
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_WITHIN)
            if late:
                log.warning("%s: %d handlers did not end within %g s of being cancelled", self.label, len(late), STOP_WITHIN)
        self._leaving = None
        if actor is not None:
            await self._told(actor.stopped())

    async def _told(self, hook: Awaitable[None]) -> None:
        try:
            await hook
        except Exception:
            log.exception("%s: its hook `stopped` failed", self.label)

    def _gone(self) -> ActorStopped:
        return ActorStopped(f"{self.label} has ended: {self._closing}" if self._closing else f"{self.label} crashed and was restarted")

    def _crashed(self, error: Crash) -> None:
        actor = self._detach()
        if actor is not None and not self._closing:
            self._recovery = asyncio.create_task(self._recover(actor, error))

    async def _recover(self, actor: Actor, error: Crash) -> None:
        await self._retire(actor)
        self._current = None
        reason: Exception = error
        if self._budget.spend(self._loop.time()):
            try:
                await self.start()
                return
            except Exception as again:
                reason = again
        self._closing = f"{CRASHED}{told(reason)}"
        log.error("%s crashed and has ended: %s", self.label, trace(reason))
        await self._end(None)

    # Messages.

    def accept(self, envelope: Envelope) -> None:
        """Take a message without waiting. Run it now if it can run."""
        if self._closing:
            envelope.fail(self._gone())
            return
        message = envelope.message
        if message.reentrant and not message.asynchronous:
            if self._actor is None:
                self._held.append(envelope)
            else:
                self._run_now(envelope, self._actor)
        elif self.mailbox.put(envelope):
            self._place(envelope)

    def cancel(self, envelope: Envelope) -> None:
        """Cancel a message whose sender does not want an answer any more."""
        if envelope.task is not None:
            envelope.cancelled = True
            if envelope.begun and self._running.get(envelope.task) is envelope:
                envelope.task.cancel()
        elif not envelope.begun:
            if envelope in self._held:
                self._held.remove(envelope)
            elif self.mailbox.discard(envelope):
                self._make_room()
            envelope.fail(CallCancelled(f"{envelope.message.label} of {self.label} was cancelled before it began"))

    def _place(self, envelope: Envelope) -> None:
        """Start an admitted message, or put it where it waits for its turn."""
        envelope.admitted()
        actor, free = self._actor, self._current is None and not self.mailbox.in_turn
        if actor is None or not (envelope.message.reentrant or free):
            self.mailbox.wait_for_turn(envelope)
        elif envelope.message.asynchronous:
            self._start(envelope, actor)
        else:
            self._run_in_turn(envelope, actor)
            self._take_turns()

    def _take_turns(self) -> None:
        """Begin what waits for its turn, until a handler takes longer."""
        actor = self._actor
        envelope = self._next_asynchronous(actor) if actor is not None else None
        if actor is not None and envelope is not None:
            self._start(envelope, actor)

    def _next_asynchronous(self, actor: Actor) -> Envelope | None:
        """Run the plain `def` handlers that are next; return the first other message, if its turn has come."""
        while self._actor is actor and self._current is None:
            envelope = self.mailbox.next_in_turn()
            if envelope is None or envelope.message.asynchronous:
                return envelope
            self._run_in_turn(envelope, actor)
        return None

    def _make_room(self) -> None:
        admitted = self.mailbox.ended()
        if admitted is not None:
            self._place(admitted)

    def _run_in_turn(self, envelope: Envelope, actor: Actor) -> None:
        self._current = envelope  # what it makes room for waits, rather than runs within it
        self._run_now(envelope, actor)
        self._make_room()
        self._current = None

    def _run_now(self, envelope: Envelope, actor: Actor) -> None:
        """Run a plain `def` handler."""
        envelope.begun = True
        before, noted = CALLER.set(envelope.caller), NOTES.set(envelope.notes)
        try:
            value = envelope.message.invoke(actor, envelope.arguments)
        except Exception as error:
            self._failed(envelope, actor, error)
        else:
            envelope.reply(value)
        finally:
            CALLER.reset(before)
            NOTES.reset(noted)

    def _start(self, envelope: Envelope, actor: Actor) -> None:
        if envelope.message.reentrant:
            task = self._loop.create_task(self._run(envelope, actor))
        else:
            self._current = envelope
            task = self._loop.create_task(self._run_turns(envelope, actor))
        envelope.task = task
        self._running[task] = envelope

    async def _run_turns(self, envelope: Envelope, actor: Actor) -> None:
        """Run one message after the other in one task: no loop iteration is spent between them."""
        task = cast("asyncio.Task[None]", envelope.task)
        for turn in itertools.count(1):
            await self._run(envelope, actor)
            while envelope.cancelled and task.cancelling():
                task.uncancel()
            following = self._next_asynchronous(actor)
            if following is None:
                return
            envelope = self._current = self._running[task] = following
            envelope.task = task
            if turn % TURNS == 0:
                await asyncio.sleep(0)

    async def _run(self, envelope: Envelope, actor: Actor) -> None:
        """Run an `async def` handler. Its task is never cancelled before it has begun, so that all of this runs."""
        envelope.begun = True
        CALLER.set(envelope.caller)
        NOTES.set(envelope.notes)
        try:
            if envelope.cancelled:
                raise asyncio.CancelledError
            value = await envelope.message.invoke(actor, envelope.arguments)
        except asyncio.CancelledError:
            envelope.fail(self._interrupted(envelope))
            if not envelope.cancelled and cast("asyncio.Task[None]", envelope.task).cancelling():
                raise  # not by us: the event loop is being closed
        except Exception as error:
            self._failed(envelope, actor, error)
        else:
            envelope.reply(value)
        finally:
            self._finished(envelope)

    def _failed(self, envelope: Envelope, actor: Actor, error: Exception) -> None:
        if isinstance(error, Crash) and actor is self._actor:
            self._crashed(error)
        if isinstance(error, StopIteration):  # no future takes it
            error = RuntimeError(f"{envelope.message.label} raised StopIteration")
        envelope.fail(error)

    def _finished(self, envelope: Envelope) -> None:
        if envelope.task is not None:
            del self._running[envelope.task]
        if self._current is envelope:
            self._current = None
        self._make_room()

    def _interrupted(self, envelope: Envelope) -> Exception:
        if self._closing or self._actor is None:
            return self._gone()
        return CallCancelled(f"{envelope.message.label} of {self.label} was cancelled")

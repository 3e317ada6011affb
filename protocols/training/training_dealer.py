"""The actor that deals the randomness of training: the crypto provider's part, or the helper's among equals, beside its `CryptoProvider`.

It knows the masks of stored arrays and no masked value. Its messages come from owners only: `store`, `begin`, `epoch`, `end`.

Adversary: semi-honest; it colludes with nobody. **Leaks** to it: the plan, the shapes of arrays, how many steps are made.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt

from actors import Actor, ActorError, message
from protocols.concurrency import at_once
from protocols.errors import UnknownModel, WorkerLost
from protocols.exchange import Ring
from protocols.keystream import KeyStream
from protocols.preprocessing import ExternalDealer, Preprocessing, Told, third_party
from protocols.presence import Presence
from protocols.training.holdings import Background, Holdings
from protocols.training.preprocessing import deal
from protocols.training.terms import Column, Steps, Terms, widened
from protocols.training.training_server import TrainingServer


class _Session:
    """One run of training at the provider."""

    def __init__(self, terms: Terms, servers: tuple[TrainingServer, TrainingServer]) -> None:
        self.terms, self.servers = terms, servers
        self.steps = Steps(terms)
        self.done = 0
        self.preprocessing: Preprocessing = ExternalDealer()


class TrainingDealer(Actor):
    """Deals the randomness of each step to both servers, ahead of them and within their memory.

    Args:
        holdings: of this worker; of its own if None.
    """

    def __init__(self, holdings: Holdings | None = None) -> None:
        self._masks = (holdings or Holdings()).masks
        self._sessions: dict[bytes, _Session] = {}
        self._background = Background()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="training-dealer")

    async def stopped(self) -> None:
        """Ends what runs in the background."""
        self._background.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    @message(reentrant=True)
    async def store(self, column: Column, keys: tuple[bytes, bytes], presence: Presence) -> None:
        """Keeps the mask of an array as long as its owner is there. The masked array never comes here."""
        first, second = (KeyStream(key).words(column.shape) for key in keys)
        self._masks[column.handle] = first + second
        self._background.while_present(self.system, presence, self._masks, column.handle)

    @message(reentrant=True)
    async def begin(self, terms: Terms, presence: Presence) -> None:
        """Begins a run of training, which ends when its owner is gone: finds both servers."""
        if terms.x.handle not in self._masks or terms.y.handle not in self._masks:
            raise UnknownModel("the provider knows no such data; their owner may be gone, or the provider was started anew")
        first, second = [await self.system.connect(f"{url}/training", TrainingServer) for url in terms.addresses.servers]
        session = _Session(terms, (first, second))
        agree = [partial(server.agree, terms.authority) for server in session.servers]
        session.preprocessing = await third_party(terms.addresses.equals, terms.session, agree)
        self._sessions[terms.owner] = session
        self._background.while_present(self.system, presence, self._sessions, terms.owner)

    @message(reentrant=True)
    async def epoch(self, owner: bytes, number: int, start: int) -> None:
        """Deals for the steps of an epoch from `start` on: computes one while the one before is on its way, as servers have room."""
        if owner not in self._sessions:
            raise UnknownModel("no such training runs here; it may have ended")
        session = self._sessions[owner]
        loop = asyncio.get_running_loop()
        sending: asyncio.Task[None] | None = None
        try:
            for rows in session.terms.rows(number)[start:]:
                keys = session.preprocessing.keys("step", session.done)
                dealt = await loop.run_in_executor(self._thread, self._dealt, session, rows, keys.of)
                if sending is not None:
                    await sending
                sending = asyncio.create_task(self._send(session, session.done, len(rows), keys.told, dealt))
                session.done += 1
            if sending is not None:
                await sending
        except ActorError as error:
            raise WorkerLost(f"a server did not take the randomness of a step: {error}") from None
        finally:
            if sending is not None:
                sending.cancel()

    def _dealt(self, session: _Session, rows: npt.NDArray[np.int64], keys: tuple[bytes, bytes]) -> Ring:
        terms = session.terms
        masks = {
            "x": widened(self._masks[terms.x.handle][rows], terms.plan.inputs),
            "y": terms.targets(self._masks[terms.y.handle][rows]),
        }
        return deal(*session.steps[len(rows)], masks, keys)

    async def _send(self, session: _Session, number: int, examples: int, keys: tuple[Told, Told], dealt: Ring) -> None:
        halves: tuple[Ring | None, Ring | None] = (None, dealt)
        await at_once(
            *(
                server.with_options(timeout=None).supply(session.terms.authority, number, examples, key, half)
                for server, key, half in zip(session.servers, keys, halves, strict=True)
            )
        )

    @message(reentrant=True)
    async def end(self, owner: bytes) -> None:
        """Ends a run."""
        self._sessions.pop(owner, None)

    @message(reentrant=True)
    async def forget(self, handle: bytes) -> None:
        """Forgets the mask of an array."""
        self._masks.pop(handle, None)

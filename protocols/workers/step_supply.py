"""The randomness of the steps of a run of training at one server: micro-batches ahead, or segments while one is computed.

Most steps are one micro-batch. They are numbered from 0 over all epochs, and each has randomness of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from hmac import compare_digest

from protocols.errors import ClusterError, TicketRefused
from protocols.link.threads import Runner
from protocols.mpc import circuit
from protocols.mpc.circuit import Circuit
from protocols.mpc.engine.values import Affine
from protocols.mpc.parties.exchange import Party, Protocol, Ring
from protocols.mpc.parties.material import Expansion, Material
from protocols.serving.supply import ComingPiece, Supply
from protocols.training.circuits import MicroBatch, StepCircuits


class StepSupply:
    """The pieces of all micro-batches of a run, one after the other in one supply.

    Args:
        me: which server.
        circuits: of the steps.
        run: runs what is slow in a thread.
        patience: seconds to wait for a message.

    Attributes:
        pieces: the supply.
        begun: how many steps have all of their randomness, but for pieces after the first of their last micro-batch.
        waited: seconds that steps have waited for it.
    """

    def __init__(self, me: Party, circuits: StepCircuits, *, run: Runner, patience: float) -> None:
        self.me, self.circuits = me, circuits
        self.pieces = Supply(circuits.room, run=run, patience=patience, eager=True, whose="this training", then="")
        self.begun = 0
        self.waited = 0.0
        self._expected = 0
        self._coming: dict[int, tuple[MicroBatch, range]] = {}

    def expect(self, number: int, key: bytes, micro: MicroBatch, fingerprint: bytes) -> range:
        """Learn of what kind the next micro-batch is, and this server's key of it; return the numbers of its pieces.

        `fingerprint` is that of the circuit for which the third party deals: each of the three fits curves and finds windows by itself.

        Raises:
            TicketRefused: it is another one: the same masks never serve twice.
            ClusterError: the third party deals for another circuit than this server computes.
        """
        if number != self._expected:
            raise TicketRefused(
                f"the randomness of step {number} was supplied before, or out of order: each step needs its own, and the next is"
                f" {self._expected}"
            )
        if not (self.circuits.knows(micro) and compare_digest(self.circuits.like(micro).fingerprint, fingerprint)):
            raise ClusterError(
                f"what is dealt for step {number} is for another circuit than server {self.me.index} computes: the workers run other"
                " versions of confide, or on processors that round differently; nothing was computed"
            )
        expansion = Expansion(key)
        parts = self.circuits.segments(micro)
        numbers = self.pieces.extend([ComingPiece(part, 1, partial(expansion.material, part.layout, 1)) for part in parts])
        self._coming[number] = micro, numbers
        self._expected += 1
        self.pieces.tell()
        return numbers

    async def after(self, number: int) -> int:
        """Wait until step `number` has begun, and return how many have."""
        await self.pieces.until(lambda: self.begun > number)
        return self.begun

    async def evaluation(
        self,
        number: int,
        step: Circuit,
        given: Mapping[str, Affine | Ring],
        micro: MicroBatch,
        *,
        wires: dict[str, Affine] | None = None,
    ) -> tuple[Protocol[dict[str, Ring]], float | None]:
        """Begin a micro-batch when its randomness is here, or will come while it runs; seconds that rounds may take longer then, else None.

        Args:
            number: of the micro-batch.
            step: its circuit.
            given: see `circuit.evaluate`.
            micro: of which kind it is.
            wires: see `circuit.evaluate`.

        Raises:
            TicketRefused: the third party has dealt for one of another kind; or the run has ended.
        """
        await self.pieces.until(lambda: number in self._coming)
        dealt_for, numbers = self._coming.pop(number)
        if dealt_for != micro:
            raise TicketRefused(f"the crypto provider has dealt for another step than step {number}, on {micro.rows} examples")

        async def taken(part: int) -> Material:
            before = asyncio.get_running_loop().time()
            material = await self.pieces.take(numbers[part], patient=part == 0)
            self.waited += asyncio.get_running_loop().time() - before
            if part == 0:
                self.begun += micro.ends
                self.pieces.tell()
            return material

        if len(numbers) == 1:
            return circuit.evaluate(self.me, step, await taken(0), given, wires=wires), None
        parts = self.circuits.segments(micro)
        return circuit.evaluate_in_segments(self.me, step, parts, taken, given, wires), self.pieces.longest

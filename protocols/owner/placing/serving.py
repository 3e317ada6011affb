"""How often a model may be asked, as its owner tells all three workers; and the owner's waiting until it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from actors import ActorError
from protocols.clusters.connections import Links
from protocols.errors import Resuming
from protocols.mpc.operations.noise import AddNoise
from protocols.mpc.program import Program
from protocols.serving.allowance import Allowance, Tally
from protocols.serving.hosting import Terms
from protocols.serving.turns import RETRY


class Serving:
    """One model while it is served, at its owner.

    Args:
        links: to its workers.
        name: of the model.
        rights: to it, at server 0, server 1 and the third party.
        stays: whether it is served again after a worker was lost.

    Attributes:
        terms: what is allowed in all; None before `allow`.
    """

    def __init__(self, links: Links, name: str, rights: Sequence[bytes], *, stays: bool) -> None:
        self._links, self._name, self._stays = links, name, stays
        *self._rights, self._third = rights
        self._tally = Tally(0, 0)
        self.terms: Terms | None = None

    async def allow(self, requests: int, examples: int | None, allowance: Allowance) -> None:
        """Allow so many requests and examples more than have been answered; None: any number of examples.

        Args:
            requests: at least 0.
            examples: of all these requests together.
            allowance: everything else; of its terms the kinds of answer count.

        Raises:
            ActorError: a worker cannot be reached.
            ServingError: a worker refuses it; those before it have taken it.
        """
        self._tally = tally = await self._links.provider.answered(self._name, self._third, -1)
        terms = Terms(tally.requests + requests, allowance.terms.reveal, None if examples is None else tally.examples + examples)
        servers = zip(self._links.servers, self._rights, strict=True)
        await asyncio.gather(*(server.serve(self._name, right, terms) for server, right in servers))
        await self._links.provider.serve(self._name, self._third, msgspec.structs.replace(allowance, terms=terms))
        self.terms = terms

    async def through(self, on_answer: Callable[[int], None] | None) -> None:
        """Return when everything was answered that is allowed.

        Args:
            on_answer: called with the number of requests answered so far, at each answer.

        Raises:
            ActorError, ProtocolError: a worker is lost, and the model does not stay; or it was stopped.
        """
        terms, tally = self.terms or Terms(0), self._tally
        waiting, told = self._links.provider.with_options(timeout=None), tally.requests
        while tally.requests < terms.total and (terms.examples is None or tally.examples < terms.examples):
            try:
                tally = await waiting.answered(self._name, self._third, told)
            except (ActorError, Resuming):
                if not self._stays:
                    raise
                await asyncio.sleep(RETRY)
                continue
            for number in range(told + 1, tally.requests + 1):
                if on_answer is not None:
                    on_answer(number)
            told = max(told, tally.requests)


def sigma_of(program: Program) -> float:
    """Return the standard deviation of the noise of each server, in units of the outputs."""
    return next(op.sigma for op in program.ops if isinstance(op, AddNoise)) * program.output_scale

"""One shared model at the crypto provider: its keys, its requests, its pools of randomness."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property

from actors import Caller
from actors.observing.figures import Figure, count, state
from protocols.authority.rights import Claim
from protocols.authority.seats import Seats
from protocols.errors import ProtocolError, Resuming, WorkerLost
from protocols.link.keys import Preprocessing
from protocols.mpc.engine.values import Shape
from protocols.mpc.operations.weights import summed_weight_masks
from protocols.mpc.parties.exchange import Ring
from protocols.mpc.program import Program
from protocols.noisy_answers import Guarantee
from protocols.serving.budget import Budget
from protocols.serving.hosting import Hosting
from protocols.serving.lasting import Lasting
from protocols.serving.memory import MemoryPlan
from protocols.serving.pool import Pool
from protocols.serving.requests import Request, Requests
from protocols.serving.shown import PROVIDER, budget_spent, quota_left
from protocols.serving.ticket import Reveal
from protocols.serving.turns import RETRY
from protocols.workers.compute_server import ComputeServer
from protocols.workers.granting import Granting, Later


class KeptMasks:
    """lambda_W of every weight of a model, made when one is first needed and kept. Slow for a large model: first in a thread.

    Args:
        keys: of both servers, for the weights.
        shapes: of the weights.
    """

    def __init__(self, keys: tuple[bytes, bytes], shapes: Sequence[Shape]) -> None:
        self._keys, self._shapes = keys, shapes

    @cached_property
    def _kept(self) -> list[Ring]:
        return summed_weight_masks(self._keys, self._shapes)

    def __getitem__(self, index: int, /) -> Ring:
        """Return that of one weight."""
        return self._kept[index]


class Provided:
    """One shared model at the provider; of one that stays, one session.

    Attributes:
        reveal: kinds of answer that it is served with now.
        again: whether it was served before, and its owner has shared it anew.
        leaves: which worker has been told to end, so that no request begins; empty if none has.
        lost: why nothing more is granted; `why` is what happened, and `ended` is set then.
        lasting: what is kept of it, if it stays.
        owner: watches its owner, if it does not.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        seats: Seats,
        claim: Claim,
        servers: tuple[ComputeServer, ComputeServer],
        guarantee: Guarantee | None,
        model: bytes,
        preprocessing: Preprocessing,
        seals: tuple[bytes, bytes],
        later: Later,
        lasting: Lasting | None = None,
    ) -> None:
        self.name, self.program, self.servers, self.preprocessing = name, program, servers, preprocessing
        self.seats, self.claim, self.model = seats, claim, model
        weights, tickets = preprocessing.keys("weights"), preprocessing.keys("tickets")
        self.weight_keys, self.weight_masks = weights.of, KeptMasks(weights.of, program.weights)
        self.hostings = tuple(
            Hosting(name, program, party, seats.equals, model, weights.told[party], tickets.told[party], seals[1 - party], guarantee)
            for party in (0, 1)
        )
        self.guarantee, self.lasting = guarantee, lasting
        self.requests = Requests(name) if lasting is None else Requests(name, lasting.requests, lasting.examples)
        self.requests.closed = self._closed
        self.budget = lasting.budget if lasting is not None else None if guarantee is None else Budget(name, guarantee.answers)
        self.pools: dict[Reveal, Pool] = {}
        self.plans: dict[Reveal, MemoryPlan] = {}
        self.granting = Granting(model, self.requests, self.pools, servers=servers, keys=tickets.of, later=later)
        self.reveal: tuple[Reveal, ...] = ()
        self.again = False
        self.tasks: list[asyncio.Task[None]] = []
        self.owner: asyncio.Task[None] | None = None
        self.lost: ProtocolError | None = None
        self.leaves, self.why = "", ""
        self.ended = asyncio.Event()
        self._later = later

    def keep(self, lasting: Lasting) -> None:
        """Serve as a model that stays from now on, whether its owner is there or not."""
        self.lasting = lasting
        if self.owner is not None:
            self.owner.cancel()

    async def drained(self, who: str) -> None:
        """Begin no request from now on, as a worker has been told to end; wait until those under way have ended."""
        self.leaves, requests = who, self.requests
        async with requests.changed:
            await requests.changed.wait_for(lambda: not requests.under_way or self.lost)

    def check_begins(self) -> None:
        """Refuse a new request if nothing more is granted, or a worker has been told to end.

        Raises:
            Resuming: the model stays, so that it is possible again in some seconds.
            WorkerLost: it does not.
        """
        if self.lost is not None:
            raise self.lost
        if self.leaves:
            why = f"model {self.name!r} begins no new request: {self.leaves} has been told to end"
            if self.lasting is not None:
                raise Resuming(f"{why} (draining), and the model is served again when it has been started again", RETRY)
            raise WorkerLost(f"{why}; the model does not stay, and must be shared again")

    async def charge(self, request: Request) -> None:
        """Have a request counted on the disk before its first ticket leaves, if the model stays; what is not answered is given back.

        Raises:
            ServingError: it cannot be written; the request was given up.
        """
        if self.lasting is None:
            return
        request.charged = request.examples
        self.lasting.count(1, request.charged, client=request.client, answers=0 if self.budget is None else request.charged)
        try:
            await self.lasting.written()
        except BaseException:
            request.give_up()
            await self.requests.close(request)
            raise

    def _closed(self, request: Request) -> None:
        if self.lasting is not None and request.charged:
            self.lasting.count(request.answered - 1, request.counted - request.charged)
            self._later(self.lasting.written())

    def program_for(self, reveal: Reveal) -> Program:
        """Return the program that ends in what is revealed."""
        return self.program.for_label() if reveal == "label" else self.program

    def figures(self) -> list[Figure]:
        """Return what the provider shows of one model."""
        name, requests = self.name, self.requests
        found = [
            *quota_left(name, PROVIDER, max(0, requests.left), requests.examples_left),
            state("model_running", "requests that are under way", requests.under_way, model=name, part=PROVIDER),
            count("model_requests_answered", "requests of a model that were answered", requests.answered, model=name),
            count("model_examples_answered", "examples of a model that were answered", requests.examples, model=name),
            state("model_requests_waiting", "requests that wait for a place in the quota", self.granting.waiting, model=name),
            state("model_lost", "1 if a model can answer no more", self.lost is not None, model=name),
            *budget_spent(name, PROVIDER, self.budget, self.hostings[0].guarantee),
        ]
        for reveal, pool in self.pools.items():
            labels = {"model": name, "reveal": reveal}
            found.append(state("model_examples_dealt", "examples that can be granted at once: randomness ahead", pool.available, **labels))
            found.append(state("model_clients_waiting", "clients that wait for randomness", len(pool.clients), **labels))
        return found


def same_client(one: Caller | None, other: Caller) -> bool:
    """Whether two messages came from one client: over one connection, or by one certificate."""
    return one is other or (one is not None and one.common_name != "" and one.common_name == other.common_name)

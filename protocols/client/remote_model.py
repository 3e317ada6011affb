"""The client's side: asks a shared model without showing it the input, and without seeing the model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

from actors import ActorError
from actors.observing.log_lines import event
from actors.observing.spans import span
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.clusters.connections import Links
from protocols.concurrency import at_once, settled
from protocols.errors import (
    Altered,
    Busy,
    NotServed,
    OutsideCalibration,
    ProtocolError,
    Resuming,
    UnknownModel,
    WorkerLost,
    WorkerUnreachable,
)
from protocols.link.run import Cost
from protocols.mpc.encoding import bounds, check_inside, encoded, rows
from protocols.mpc.numbers.fixed_point import decode
from protocols.mpc.operations.bits.conjunction import unpack
from protocols.mpc.program import Program
from protocols.serving.answer import Answer
from protocols.serving.claims import check_granted, check_share
from protocols.serving.hosting import Handshake
from protocols.serving.ticket import REVEALS, Reveal
from protocols.workers.granting import Granted, Grants

log = logging.getLogger(__name__)

Found = npt.NDArray[np.float64] | npt.NDArray[np.int64]
Parts = list[tuple[Granted, tuple[Answer, Answer]]]
Outside = Literal["raise", "nan"]
"""What becomes of inputs that are unlike the samples of a checked model."""
TIMEOUT = 30.0
"""Seconds within which the provider says how many answers are left."""
LOST = (ActorError, WorkerLost, WorkerUnreachable, Resuming)
"""What may be otherwise a little later, of a model that stays."""
FIRST_PAUSE = 0.05
"""Seconds after which a client asks again when the model is busy; each further pause is twice as long, up to what the provider says."""
LONGEST_PAUSE = 2.0
"""The longest of them, of a model that stays."""
PARTS_AT_ONCE = 8
"""How many parts of one request the servers work on at the same time."""


@dataclass(frozen=True)
class Report:
    """What the last query cost.

    Attributes:
        examples: how many were asked for.
        seconds: from the call to the answer.
        rounds: messages each way between the servers, one after the other.
        servers: rounds, and bytes of payload sent, received and dealt ahead, of each server, all parts together.
        uploaded: bytes of masked input sent, to both servers together.
        downloaded: bytes received: tickets' masks and shares of the answer.
    """

    examples: int
    seconds: float
    rounds: int
    servers: tuple[Cost, Cost]
    uploaded: int
    downloaded: int


@dataclass
class _Waiting:
    """What a query waits for.

    Attributes:
        busy: the last that it was told while the model is busy; None otherwise.
        lost: why it tries again, of a model that stays; None: it does not.
        granted: whether it has got a ticket.
    """

    busy: Busy | None = None
    lost: Exception | None = None
    granted: bool = False


class RemoteModel:
    """A model shared by somebody else. Made by `connect`.

    Attributes:
        name: the model's name.
        model: what tells it from other models that had this name before, or will.
        lasting: whether it stays when its owner has gone, and comes back when a worker was lost.
        owner: the common name in the certificate of who shared it, as both servers saw it; empty without certificates.
        guarantee: clip, sigma of the noise, and answers for each client where answers are noisy, otherwise None.
        last: what the last query cost, or None.
    """

    def __init__(self, handshake: Handshake, links: Links) -> None:
        self.name = handshake.name
        self.owner = handshake.owner
        self.model, self.lasting = handshake.lasting or handshake.model, bool(handshake.lasting)
        self._session = handshake.model
        self.program: Program = handshake.program
        self.guarantee = handshake.guarantee
        self.last: Report | None = None
        self._provider = links.provider.with_options(timeout=None)  # `query` has one deadline for everything
        self._servers = [server.with_options(timeout=None) for server in links.servers]

    @property
    def input_shape(self) -> Any:
        """As in Keras: (None, *shape of one example); a list or a dict of these where the model has several inputs."""
        inputs = self.program.inputs
        return (None, *self.program.input_shape) if isinstance(inputs, msgspec.UnsetType) else inputs.shapes

    @property
    def output_shape(self) -> Any:
        """As in Keras: (None, *shape of one answer); a list or a dict of these where the model has several outputs."""
        outputs = self.program.outputs
        return (None, *self.program.output_shape) if isinstance(outputs, msgspec.UnsetType) else outputs.shapes

    @property
    def checked(self) -> bool:
        """Whether inputs that are unlike the samples of a calibrated model have no answer, see `query`.

        Not of a model that was shared without `checked=True`, and not of one whose windows are all proved: it has no need.
        """
        return self.program.checked

    @property
    def input_range(self) -> Any:
        """The closed range in which inputs must lie: two numbers, or two arrays that are broadcast to an example; of several by name."""
        program = self.program
        if not isinstance(program.inputs, msgspec.UnsetType):
            return program.inputs.ranges(*bounds(program))
        return program.input_range if program.ranges is None else bounds(program)

    async def answers_left(self) -> int | None:
        """How many noisy answers this client may still get, one for each example; None if answers are not noisy, so not counted.

        Raises:
            UnknownModel: the model is not shared any more.
            WorkerLost: the crypto provider does not answer.
        """
        if self.guarantee is None:
            return None
        try:
            return await self._provider.with_options(timeout=TIMEOUT).remaining(self.name)
        except ActorError as error:
            raise WorkerLost(f"the crypto provider of model {self.name!r} does not answer: {error}") from None

    async def query(self, examples: Any, *, reveal: Reveal = "logits", timeout: float | None = 60.0, outside: Outside = "raise") -> Any:
        """Ask the model.

        Steps: (1) check and encode the input; (2) get one-time tickets and masks from the crypto provider; (3) send the masked input to
        both servers, with another right to the ticket to each; (4) compare their seals, and add their shares of the answer.

        Args:
            examples: (n, *input_shape) real numbers within `input_range`; of a model with several inputs as many of each, in a list or a
                dict as the Keras model takes them.
            reveal: "logits" for the outputs of the model, "label" for the number of the largest one and nothing else.
            timeout: seconds for the whole query, waiting while others are served included; None for no limit. If a worker of a model that
                stays (`lasting`) is lost, the query waits for it to come back, and asks again with new tickets; where answers are noisy
                only as long as it has none, as each ticket costs budget.
            outside: of a model that was shared with `checked=True`: "raise" an error if inputs are unlike the samples on which it was
                calibrated, or give "nan" in their rows, as float64 for labels, too. Other models (`checked` is False) answer such inputs
                with noise, unless everything in them is proved. Either way the examples count.

        Returns:
            (n, *output_shape) float64, in a list or a dict as the Keras model gives them; or (n,) int64 labels.

        Raises:
            InputError: wrong shape or dtype, NaN, infinity, or out of range; nothing was sent.
            QuotaSpent, NotServed, UnknownModel: the model does not answer (any more), or for fewer examples; the message says how many.
            Busy: others were served, or kept their tickets, until the time was over. Nothing was spent.
            BudgetSpent: fewer noisy answers are left for this client; the message says how many. Nothing was spent.
            WorkerLost: a worker went away or was silent for too long; ask again with the same input, a new ticket is used.
            Resuming: the workers of a model that stays did not come together again in time; the message says what they wait for.
            Altered: a message to or between the servers was altered on its way; their shares are thrown away unopened.
            OutsideCalibration: some inputs have no answer; it says which, and has the answers to the others.

        **Leaks** to the servers and the provider: that this client asks, how many examples, and `reveal`. Nothing of input or answer.
        """
        x = self._encoded(examples)
        if reveal not in REVEALS:
            raise ValueError(f"reveal={reveal!r}; it is one of {REVEALS}")
        if outside not in get_args(Outside):
            raise ValueError(f"outside={outside!r}; it is one of {get_args(Outside)}")
        if reveal == "label" and self.program.label is None:
            raise NotServed(f"model {self.name!r} gives no label: its output {self.output_shape} is not a vector of classes")
        started, waiting = time.perf_counter(), _Waiting()
        try:
            async with asyncio.timeout(timeout):
                with span("query", model=self.name, examples=len(x), reveal=reveal):
                    parts = await (self._ask_through(x, reveal, waiting) if self.lasting else self._ask(x, reveal, waiting))
        except TimeoutError:
            if waiting.busy is not None:
                raise waiting.busy from None
            why = f" ({waiting.lost})" if waiting.lost is not None else ""
            raise WorkerLost(
                f"model {self.name!r} did not answer {len(x)} examples within {timeout:g} s{why}; ask again, for fewer or with a longer "
                "timeout="
            ) from None
        except ActorError as error:
            raise WorkerLost(f"model {self.name!r} could not answer: {error}; ask again") from None
        granted = sum(granted.ticket.ticket.examples for granted, _ in parts)
        if granted != len(x):
            raise ProtocolError(f"tickets for {granted} examples were granted, {len(x)} were asked for; the crypto provider is faulty")
        self.last = _report(x, parts, time.perf_counter() - started)
        opened = [self._opened(answers, reveal) for _, answers in parts]
        found, left = np.concatenate([answers for answers, _ in opened]), np.concatenate([outside for _, outside in opened])
        outputs = self.program.outputs
        found = found if not left.any() else self._without(found, left, outside)
        return found if isinstance(outputs, msgspec.UnsetType) else outputs.cut(found)

    def _without(self, found: Found, left: npt.NDArray[np.bool_], outside: Outside) -> npt.NDArray[np.float64]:
        """Return the answers, without those to inputs that have left a window."""
        answers = found.astype(np.float64)
        answers[left] = np.nan
        if outside == "nan":
            return answers
        places = np.flatnonzero(left).tolist()
        named = ", ".join(map(str, places[:8])) + (", ..." if len(places) > 8 else "")
        error = OutsideCalibration(
            f"{len(places)} of {len(found)} inputs (number {named}) are unlike the samples on which model {self.name!r} was calibrated: "
            'they have no answer. Those to the others are in .answers, or ask with outside="nan"; the owner can share it with more samples',
            *places,
        )
        error.answers = answers
        raise error

    def _encoded(self, examples: Any) -> npt.NDArray[np.uint64]:
        x = rows(self.program, examples)
        check_inside(self.program, x, self.name)
        return encoded(self.program, x.astype(np.float64))

    async def _ask_through(self, x: npt.NDArray[np.uint64], reveal: Reveal, waiting: _Waiting) -> Parts:
        """Ask a model that stays, again and again while its workers are lost and come back."""
        for pause in pauses():
            try:
                if waiting.lost is not None:
                    await self._reconnected()
            except LOST as error:
                self._waits(waiting, error)
            else:
                try:
                    return await self._ask(x, reveal, waiting)
                except (*LOST, UnknownModel) as error:  # of this session: whether the model is still there, the servers say
                    self._waits(waiting, error)
            if self.guarantee is not None and waiting.granted:
                raise WorkerLost(f"model {self.name!r} could not answer: {waiting.lost}; what was asked for is spent; ask again") from None
            await asyncio.sleep(pause)
        raise AssertionError

    def _waits(self, waiting: _Waiting, error: Exception) -> None:
        if str(error) != str(waiting.lost):
            event(log, logging.WARNING, "query waits", model=self.name, reason=str(error))
        waiting.lost, waiting.busy = error, None

    async def _reconnected(self) -> None:
        """Learn the session in which the model is served now.

        Raises:
            UnknownModel: it is there no more, or another one has its name.
            ActorError, Resuming: it is not served now.
        """
        first, second = await at_once(*(server.with_options(timeout=TIMEOUT).describe(self.name) for server in self._servers))
        known = (self.model, self.program, self.owner, self.guarantee)
        if any((one.lasting, one.program, one.owner, one.guarantee) != known for one in (first, second)):
            raise UnknownModel(f"another model is shared under the name {self.name!r} by now; connect to it again")
        if first.model == second.model:  # otherwise one of the servers has begun the next session, and the other will in a moment
            self._session = first.model

    async def _ask(self, x: npt.NDArray[np.uint64], reveal: Reveal, waiting: _Waiting) -> Parts:
        """All parts of a request, in order; each is sent as soon as its ticket is there."""
        secret = new_secret()
        grants = await self._first(len(x), reveal, (digest_at(secret, 0), digest_at(secret, 1)), waiting)
        if not grants.left and len(grants.granted) == 1:
            self._check(grants.granted[0], reveal, len(x))
            return [(grants.granted[0], await self._part(x, grants.granted[0], secret))]
        slots = asyncio.Semaphore(PARTS_AT_ONCE)
        granted: list[Granted] = []
        tasks: list[asyncio.Task[tuple[Answer, Answer]]] = []
        start = 0
        try:
            async for grant in self._grants(grants):
                await slots.acquire()
                self._check(grant, reveal, len(x) - start)
                stop = start + grant.ticket.ticket.examples
                granted.append(grant)
                tasks.append(asyncio.create_task(self._part(x[start:stop], grant, secret)))
                tasks[-1].add_done_callback(lambda _: slots.release())
                start = stop
        finally:
            answers = await settled(tasks)
        return list(zip(granted, answers, strict=True))

    async def _first(self, examples: int, reveal: Reveal, holders: tuple[bytes, bytes], waiting: _Waiting) -> Grants:
        """Request the first tickets; wait while the model is busy."""
        for pause in pauses():
            try:
                grants = await self._provider.request(self.name, self._session, examples, reveal, holders)
            except Resuming:
                raise
            except Busy as busy:
                waiting.busy = busy
                await asyncio.sleep(min(pause, busy.seconds))
            else:
                waiting.busy, waiting.granted = None, True
                return grants
        raise AssertionError

    async def _grants(self, grants: Grants) -> AsyncIterator[Granted]:
        while True:
            for granted in grants.granted:
                yield granted
            if not grants.left:
                return
            grants = await self._provider.more(self.name, grants.request)

    def _check(self, granted: Granted, reveal: Reveal, most: int) -> None:
        """Refuse a ticket, or its mask, that does not fit what is left of a request."""
        ticket, shape = granted.ticket.ticket, self.program.input_shape
        check_granted(ticket, granted.input_mask, model=self._session, reveal=reveal, most=most, input_shape=shape)

    async def _part(self, x: npt.NDArray[np.uint64], granted: Granted, secret: bytes) -> tuple[Answer, Answer]:
        """M = x + lambda to both servers; their answers."""
        m = x + granted.input_mask
        asked = (server.answer(granted.ticket, right_at(secret, party), m) for party, server in enumerate(self._servers))
        first, second = await at_once(*asked)
        for answer in (first, second):
            check_share(answer.share, self.program, len(x), granted.ticket.ticket.reveal)
        if not compare_digest(first.seal, second.seal):
            raise Altered(
                f"the servers of model {self.name!r} do not agree on what they sent each other: something on the way between them, or to "
                "them, was altered, so their answer is thrown away; ask again, and use wss:// if they are on different machines"
            )
        return first, second

    def _opened(self, answers: tuple[Answer, Answer], reveal: Reveal) -> tuple[Found, npt.NDArray[np.bool_]]:
        """Answers, and which of them mean nothing."""
        first, second = (answer.share for answer in answers)
        checked = self.program.checked
        if reveal == "logits":
            opened = first + second
            left = opened[:, -1] if checked else np.zeros(len(opened), np.uint64)
            if (left > 1).any():
                raise ProtocolError("the servers' shares do not add up to one bit; one of them is faulty")
            outputs = opened[:, :-1] if checked else opened
            return decode(outputs, self.program.output_scale).reshape(len(first), *self.program.output_shape), left == 1
        classes = self.program.output_shape[0]
        one_hot = unpack(first ^ second, classes + checked)
        if not (one_hot.sum(axis=1) == 1).all():
            raise ProtocolError("the servers' shares do not add up to one label; one of them is faulty")
        labels = np.asarray(one_hot.argmax(axis=1), np.int64)
        return labels, labels == classes


def _report(x: npt.NDArray[np.uint64], parts: list[tuple[Granted, tuple[Answer, Answer]]], seconds: float) -> Report:
    costs = [[answers[server].cost for _, answers in parts] for server in (0, 1)]
    first, second = (
        Cost(max(c.rounds for c in side), sum(c.sent for c in side), sum(c.received for c in side), sum(c.dealt for c in side))
        for side in costs
    )
    masks = sum(granted.input_mask.nbytes for granted, _ in parts)
    shares = sum(answer.share.nbytes for _, answers in parts for answer in answers)
    return Report(len(x), seconds, first.rounds, (first, second), 2 * x.nbytes, masks + shares)


def pauses() -> Iterator[float]:
    """Seconds to wait after each failure in a row: twice as long each time, up to `LONGEST_PAUSE`."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)

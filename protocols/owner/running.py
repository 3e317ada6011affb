"""One run of training, or of what is asked of a network, at all three workers: its owner's side while it lasts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from hmac import compare_digest

from actors import ActorError
from protocols.authority.presence import Presence
from protocols.authority.rights import digest_at, new_secret, right_at
from protocols.authority.seats import Seats
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.datasets.dataset import SharedDataset
from protocols.errors import Altered, Diverged, UnknownModel
from protocols.owner.checkpoints import Checkpoints
from protocols.owner.epochs import Segment
from protocols.owner.fit.progress import live
from protocols.owner.stored import trainers
from protocols.storage.versions import Progress
from protocols.training.terms import ToldTerms, TrainingTerms
from protocols.workers.training_dealer import TrainingDealer
from protocols.workers.training_server import TrainingServer


class Running:
    """One run of training: its owner's side while it lasts.

    Attributes:
        made: how many steps are in the weights of the model.
        unsaved: whether some of them are in no checkpoint, so that who resumes makes them again.
    """

    def __init__(
        self,
        terms: TrainingTerms,
        seats: Seats,
        servers: list[TrainingServer],
        dealer: TrainingDealer,
        checkpoints: Checkpoints | None,
        moving: asyncio.Lock,
    ) -> None:
        self.terms, self._checkpoints, self._seats = terms, checkpoints, seats
        self._secret = new_secret()
        *self._rights, self._right = [right_at(self._secret, place) for place in seats.all]
        self._servers = [server.with_options(timeout=None) for server in servers]
        self._dealer = dealer.with_options(timeout=None)
        self.steps = terms.steps(0)
        self.made = terms.made
        self.unsaved = False
        self._begun, self._moving = 0, moving

    async def begin(self, data: tuple[SharedDataset, ...], model: tuple[bytes, bytes], presence: Presence) -> None:
        """`model` is the handle, and the secret of the rights to it."""
        handle, secret = model
        told = ToldTerms.of(self.terms)

        def rights(place: int) -> tuple[bytes, ...]:
            return tuple(right_at(array.secret, place) for array in data)

        starts = (
            server.begin(
                told,
                digest_at(self._secret, place),
                handle,
                (*rights(place), right_at(secret, place)),
                presence,
            )
            for server, place in zip(self._servers, self._seats.servers, strict=True)
        )
        publics = await at_once(*starts)
        met = zip(self._servers, self._rights, reversed(publics), strict=True)
        await at_once(*(server.meet(self.terms.session, right, public) for server, right, public in met))
        third = self._seats.third  # among equals it agrees on keys with the servers
        await self._dealer.begin(told, digest_at(self._secret, third), rights(third), presence)

    async def epoch(self, number: int, first: int, save_every: int | None, *, told: list[str], progress: bool) -> list[Segment]:
        """Make the steps of an epoch from `first` on, in segments that end in a checkpoint."""
        steps = self.terms.steps(number)
        stops = [*(range(first + save_every, steps, save_every) if save_every else []), steps]

        async def dealt() -> list[Segment]:
            await self._dealer.epoch(self.terms.session, self._right, number, first, stops)
            return []

        async def trained() -> list[Segment]:
            return [await self._segment(number, start, stop, told) for start, stop in itertools.pairwise([first, *stops])]

        with live(number + 1, steps, show=progress) as tell:
            showing = None if tell is None else asyncio.create_task(self._show(tell, first))
            try:
                return (await at_once(trained(), dealt()))[0]
            finally:
                self._begun += steps - first
                if showing is not None:
                    showing.cancel()
                    await asyncio.gather(showing, return_exceptions=True)

    async def _show(self, tell: Callable[[int], None], first: int) -> None:
        """Tell how many steps of an epoch a server has begun."""
        begun = before = self._begun
        while True:
            begun = await self._servers[0].begun(self.terms.session, self._rights[0], begun)
            tell(first + begun - before)

    async def _reports(self, number: int, start: int, stop: int, told: list[str]) -> Segment:
        """Return what both servers report of some steps; their seals agree."""
        both = zip(self._servers, self._rights, strict=True)
        first, second = await at_once(*(server.epoch(self.terms.session, right, number, start, stop, told) for server, right in both))
        if not compare_digest(first.seal, second.seal):
            raise Altered(
                f"the servers do not agree on what they sent each other in epoch {number + 1}, or on what they compute: something on the"
                " way was altered, or they run other versions of confide, or on processors that round differently; "
                f"{stands(self._checkpoints)}"
            )
        return first, second

    async def asked(self, told: list[str]) -> Segment:
        """Return what both servers report of one epoch that leaves the weights as they are."""

        async def dealt() -> Segment | None:
            await self._dealer.epoch(self.terms.session, self._right, 0, 0, [self.steps])
            return None

        reports, _ = await at_once(self._reports(0, 0, self.steps, told), dealt())
        assert reports is not None
        return reports

    async def ready(self, handle: bytes, secret: bytes, presence: Presence) -> None:
        """Have both servers hold what a run has derived, under a handle of its own."""
        both = zip(self._servers, self._rights, self._seats.servers, strict=True)
        await at_once(*(one.ready(self.terms.session, right, handle, digest_at(secret, at), presence) for one, right, at in both))

    async def hold(self, made: SharedDataset, presence: Presence) -> None:
        """Have all three hold what a run has made of its examples as a dataset."""
        workers: list[TrainingServer | TrainingDealer] = [*self._servers, self._dealer]
        rights, run = (*self._rights, self._right), self.terms.session
        each = zip(workers, rights, self._seats.all, strict=True)
        await at_once(*(one.hold(run, right, made.dataset, digest_at(made.secret, at), presence) for one, right, at in each))

    async def _segment(self, number: int, start: int, stop: int, told: list[str]) -> Segment:
        run = self.terms.session
        both = list(zip(self._servers, self._rights, strict=True))
        first, second = await self._reports(number, start, stop, told)
        if (first.outside + second.outside).any():
            raise Diverged(number + 1)
        self.unsaved = True
        async with self._moving:
            await at_once(*(server.adopt(run, right) for server, right in both))
        self.made += stop - start
        if stop < self.steps:
            await self.save(Progress(number, stop, self.made - number * self.steps - stop))
        return first, second

    async def ended(self, number: int) -> None:
        """Save a checkpoint after an epoch, if there are any."""
        await self.save(Progress(number + 1, 0, self.made - (number + 1) * self.steps))

    async def finish(self) -> None:
        """Let averages of weights take their places, at the end of all epochs."""
        both = zip(self._servers, self._rights, strict=True)
        async with self._moving:
            await at_once(*(server.finish(self.terms.session, right) for server, right in both))

    async def save(self, progress: Progress) -> None:
        """Save a checkpoint, if there are any."""
        if self._checkpoints is not None:
            await self._checkpoints.save(self.terms.session, self._rights, progress)
            self.unsaved = False

    async def end(self) -> None:
        """End the run wherever it has begun."""
        workers: list[TrainingServer | TrainingDealer] = [*self._servers, self._dealer]
        rights = (*self._rights, self._right)
        work = (worker.with_options(timeout=5.0).end(self.terms.session, right) for worker, right in zip(workers, rights, strict=True))
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ActorError | UnknownModel):
                raise outcome


async def begun(
    cluster: ThreeWorkers,
    terms: TrainingTerms,
    data: tuple[SharedDataset, ...],
    model: tuple[bytes, bytes],
    checkpoints: Checkpoints | None,
    moving: asyncio.Lock | None = None,
) -> Running:
    """Have all three workers begin a run on `data`: x, y, and the weights of the examples if there are any.

    `moving` is held while both servers take the weights of the run for those of the model; None: nobody asks the model meanwhile.
    """
    first, second, dealer = await trainers(cluster, terms.name)
    run = Running(terms, cluster.seats_for(terms.name), [first, second], dealer, checkpoints, moving or asyncio.Lock())
    try:
        await run.begin(data, model, cluster.presence)
    except BaseException:
        await run.end()
        raise
    return run


def stands(checkpoints: Checkpoints | None) -> str:
    """Say what is left when a training stops."""
    if checkpoints is None:
        return "the model is as it was after the last complete epoch"
    return "the last checkpoint stands: run it again with resume=True when all workers are there"

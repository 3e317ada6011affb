"""How a client finds a shared model: the workers of its cluster, and what both servers say of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import msgspec

from actors import ActorError, ActorSystem, NotAllowed
from actors.observing.log_lines import event
from protocols.authority.pending import WITHIN
from protocols.client.remote_model import RemoteModel, pauses
from protocols.clusters.connections import Links, connected, server_at
from protocols.clusters.three_workers import ThreeWorkers
from protocols.concurrency import at_once
from protocols.errors import Busy, ClusterError, NotOwner, Resuming, UnknownModel, WorkerUnreachable
from protocols.serving.claims import check_described
from protocols.serving.hosting import Handshake
from protocols.serving.turns import RETRY

log = logging.getLogger(__name__)

UNDER_WAY = 5.0
"""Seconds that an attempt which is under way at the deadline may still take."""
WAIT = 30.0
"""Seconds to wait for the workers of a model that stays, unless it is said."""


@contextlib.asynccontextmanager
async def connect(
    cluster: ThreeWorkers,
    name: str | None = None,
    *,
    owner: str | None = None,
    strangers: bool = False,
    timeout: float | None = None,
) -> AsyncIterator[RemoteModel]:
    """Connect to a shared model; the cluster need not be ours, nor inside its block.

    Args:
        cluster: where the model is shared.
        name: the model's name; may be left out if only one is shared there.
        owner: the common name in the certificate of who has to have shared it; None: whoever has. Without certificates nobody has a name.
        strangers: ask workers on loopback (ws://) also if they do not prove to run for the user of this process: those of another user, in
            another container. Whoever has taken the ports of three workers that have ended sees what it is shown then.
        timeout: seconds within which workers that cannot be reached are tried again, and those of a model that stays waited for. None: who
            cannot be reached is an error at once, and a model that stays is waited for 30 seconds.

    Raises:
        WorkerUnreachable: a worker does not answer, or is not known to run for this user.
        UnknownModel: no such model is shared there, or several are and none was named.
        Busy: its owner began to share it anew a minute ago, and has not ended.
        Resuming: the workers of a model that stays did not come together again in time; the message says what they wait for.
        NotOwner: it was shared by somebody else than `owner`.
        ClusterError: the servers do not agree on what they host.
        ProtocolError: what they say of the model makes no sense: scales, ranges, shapes, operations, what is promised about noise.

    Example:
        >>> async with connect(cluster, "mnist") as remote:
        ...     logits = await remote.query(images)
    """
    async with cluster.system(known_only=not strangers) as system:
        links, name, (first, second) = await _found(system, cluster, name, timeout)
        if msgspec.structs.replace(second, reveal=first.reveal) != first:  # kinds of answers may be changing now, at one after the other
            raise ClusterError("the two servers host different models under this name; are they of one cluster?")
        if owner is not None and first.owner != owner:
            by = f"the holder of the certificate of {first.owner!r}" if first.owner else "somebody without a certificate"
            raise NotOwner(f"the model {name!r} was shared by {by}, not by {owner!r}: do not show it anything")
        check_described(first.program, first.guarantee, first.model, name=first.name, wanted=name)  # whoever told it may be faulty
        yield RemoteModel(first, links)


async def _found(
    system: ActorSystem, cluster: ThreeWorkers, wanted: str | None, timeout: float | None
) -> tuple[Links, str, list[Handshake]]:
    """Reach the workers, and have both servers describe the model; wait for what may be otherwise a little later."""
    loop = asyncio.get_running_loop()
    end = loop.time() + (WAIT if timeout is None else timeout)
    waits: Exception | None = None
    try:
        async with asyncio.timeout_at(None if timeout is None else end + UNDER_WAY):
            for pause in pauses():
                try:
                    name = wanted if wanted is not None else await _only_one(system, cluster)
                    links = await connected(system, cluster.addresses_for(name))
                    return links, name, await _described(links, name, cluster.equals)
                except (WorkerUnreachable, ActorError, Resuming) as error:
                    again = isinstance(error, Resuming) or (timeout is not None and not isinstance(error, NotAllowed))
                    if not again or loop.time() + pause > end:
                        raise
                    if str(error) != str(waits):
                        event(log, logging.WARNING, "connect waits", model=wanted or "", reason=str(error))
                    waits = error
                await asyncio.sleep(pause)
    except TimeoutError:
        if timeout is None:
            raise
        raise waits or WorkerUnreachable(f"a worker is reached, and does not answer within {timeout:g} s: it stands still") from None
    raise AssertionError


async def _described(links: Links, name: str, equals: bool) -> list[Handshake]:
    """Ask both servers to describe a model, once its owner has shared it anew if that is under way."""
    until = time.monotonic() + WITHIN
    for pause in pauses():
        try:
            first, second = await at_once(*(server.describe(name) for server in links.servers))
            break
        except Resuming:
            raise
        except Busy as busy:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(min(pause, busy.seconds))
        except UnknownModel as error:
            if not equals:
                raise
            raise UnknownModel(f"{error}; if it is, list the three workers in the same order as its owner does") from None
    if first.lasting and first.lasting == second.lasting and first.model != second.model:
        raise Resuming(f"model {name!r} stays, and one of its servers has begun to come together with the others again", RETRY)
    return [first, second]


async def _only_one(system: ActorSystem, cluster: ThreeWorkers) -> str:
    """Return the name of the model if there is but one: among equals any two of the three may have it."""
    urls = [worker.url for worker in cluster.workers] if cluster.equals else cluster.addresses.servers
    names = sorted(set().union(*await at_once(*(_names(system, url) for url in urls))))
    if len(names) != 1:
        raise UnknownModel(f"{len(names)} models are shared there ({', '.join(names) or 'none'}); say which one")
    return names[0]


async def _names(system: ActorSystem, url: str) -> list[str]:
    return await (await server_at(system, url)).names()

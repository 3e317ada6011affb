"""An owner that connects to the aggregator, and does so again whenever the connection is lost."""

from __future__ import annotations

import asyncio
import logging

from actors import ActorNotFound, ActorStopped, ActorSystem, CallTimeout, ConnectFailed, ConnectionLost, NameTaken
from actors.observing.log_lines import event
from federated.machines.aggregator import NAME, Aggregator, Tell
from federated.owners.owner import DataOwner
from federated.tasks.retry import pauses

log = logging.getLogger(__name__)

PASSING = (ConnectFailed, ConnectionLost, CallTimeout, ActorNotFound, ActorStopped, NameTaken)
"""What may be otherwise a little later. An authority that does not fit is among it: a network may ask for a login first."""


async def stay_joined(system: ActorSystem, aggregator: str, *, name: str, owner: DataOwner, tell: Tell = log.info) -> None:
    """Keep an owner in a federation until cancelled.

    (1) Connects to the aggregator; (2) joins; (3) waits until the connection or the aggregator has ended; (4) waits a little, and begins
    anew. What cannot be had now is tried again after 0.1 to 10 seconds.

    **Leaks** to the aggregator: the network address of this machine.

    Args:
        system: that does not listen; for wss with a certificate whose common name is `name`.
        aggregator: `wss://host:port`.
        name: that the aggregator knows the owner by.
        owner: that this system has spawned.
        tell: is told in a line what happens.

    Raises:
        JoinRefused: the aggregator does not take this owner.
        ActorError: something else that will not pass, such as another version of the protocol.

    Example:
        >>> async with ActorSystem(connect_ssl=keys.connect) as system:
        ...     owner = await system.spawn(DataOwner, (x, y))
        ...     await stay_joined(system, "wss://hub.example:9000", name="ward-1", owner=owner)
    """
    waits, told = pauses(), ""
    await owner.joins(aggregator)
    while True:
        try:
            reached = await system.connect(f"{aggregator}/{NAME}", Aggregator)
            await reached.join(name, owner)
            tell(f"joined {aggregator} as {name}")
            event(log, logging.INFO, "joined", aggregator=aggregator, name=name)
            waits, told = pauses(), ""
            reason = (await system.watch(reached)).reason
        except PASSING as error:
            reason = str(error)
        if reason != told:
            tell(f"not joined to {aggregator}: {reason}; trying again")
            event(log, logging.WARNING, "not joined", aggregator=aggregator, reason=reason)
            told = reason
        await asyncio.sleep(next(waits))

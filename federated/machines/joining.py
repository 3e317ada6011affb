"""Owners on other machines that connect to the aggregator, so that they may be behind NAT and firewalls; or that it connects to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

from actors import ActorError, ActorSystem, limits
from actors.observing.observer import Observing
from federated.errors import OwnerDropped, SettingError
from federated.machines.aggregator import NAME, Aggregator, Attendance, Tell
from federated.machines.round_figures import RoundFigures
from federated.owners.owner import DataOwner, Owner
from federated.owners.remote_owner import BUSY, RemoteOwner
from federated.strategies.strategy import check
from federated.tasks.retry import pauses

log = logging.getLogger(__name__)


class JoiningOwner(RemoteOwner):
    """An owner by its name, wherever it is found when its turn comes. Made by `joining_owners`."""

    def __init__(self, name: str, owners: JoiningOwners) -> None:
        self.name, self._owners = name, owners

    def __repr__(self) -> str:
        return f"JoiningOwner({self.name!r})"

    async def _reach(self) -> DataOwner:
        return (await self._owners.find(self.name)).with_options(timeout=None)


class JoiningOwners(Sequence[Owner]):
    """The owners of a federation on several machines. Made by `joining_owners`; a federation opens and closes them.

    Attributes:
        played: how many rounds are over, for those who ask; whoever plays them sets it.
        seen: what came of them, for metrics; whoever plays them adds to it.
    """

    def __init__(
        self, names: Sequence[str], system: dict[str, Any], *, dialed: Mapping[str, str], wait: float, patience: float, tell: Tell
    ) -> None:
        self.played, self.seen = 0, RoundFigures()
        self._names, self._settings, self._dialed = names, system, dialed
        self._wait, self._patience, self._tell = wait, patience, tell
        self._owners = [JoiningOwner(name, self) for name in (*names, *dialed)]
        self._settled = "it takes in owners of certificates only over wss://"
        if system["listen"].startswith("wss"):
            self._settled = ""
        self._attendance = Attendance(names)
        self._system: ActorSystem | None = None
        self._scope = contextlib.AsyncExitStack()

    def __repr__(self) -> str:
        return f"<{len(self)} joining owners>"

    def __len__(self) -> int:
        return len(self._owners)

    def __iter__(self) -> Iterator[JoiningOwner]:
        return iter(self._owners)

    def __getitem__(self, index: Any) -> Any:
        return self._owners[index]

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as scope:
            self._attendance = Attendance(self._names)
            self._system = system = await scope.enter_async_context(ActorSystem(**self._settings))
            certified = system.address.startswith("wss")
            await system.spawn(
                Aggregator,
                self._attendance,
                self._names,
                certified=certified,
                played=lambda: self.played,
                tell=self._tell,
                members=lambda: self._settled,
                rounds=self.seen,
                name=NAME,
            )
            self._tell(f"ready {system.address}")
            await asyncio.gather(*(self._find(owner.name, self._wait) for owner in self._owners), return_exceptions=True)
            self._scope = scope.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._system = None
        await self._scope.aclose()

    async def present(self) -> Sequence[Owner]:
        """Return all on the list, and whoever else has joined by its certificate and is here. Waits until there is one."""
        if not self._owners and not self._attendance.present():
            self._tell("no owner is here: waiting for one to join")
            await self._attendance.anybody()
        listed = {owner.name for owner in self._owners}
        return [*self._owners, *(JoiningOwner(name, self) for name in self._attendance.present() if name not in listed)]

    def away(self) -> Collection[str]:
        """Return the names of those on the list that have not joined, or have gone."""
        return set(self._names) - set(self._attendance.present())

    def settle(self, why: str) -> None:
        """Take in nobody who is not on the list, for this reason."""
        self._settled = why

    async def find(self, name: str) -> DataOwner:
        """Return the owner of that name; wait as long as the patience of these owners lasts.

        Raises:
            OwnerDropped: it is away.
        """
        return await self._find(name, self._patience)

    async def _find(self, name: str, within: float) -> DataOwner:
        if name not in self._dialed:
            return await self._attendance.expect(name, within=within)
        why: ActorError | str = "it does not answer"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                for pause in pauses():
                    try:
                        return await self._opened().connect(self._dialed[name], DataOwner)
                    except ActorError as error:
                        why = error
                    await asyncio.sleep(pause)
        raise OwnerDropped(f"{name} is away: {why}")

    def _opened(self) -> ActorSystem:
        if self._system is None:
            raise OwnerDropped("the federation is closed: its owners are reached inside 'async with federation:' only")
        return self._system


def joining_owners(
    names: Sequence[str] = (),
    listen: str = "ws://127.0.0.1:0",
    *,
    dialed: Mapping[str, str] | None = None,
    ssl: SSLContext | None = None,
    connect_ssl: SSLContext | None = None,
    allow_plaintext: bool = False,
    advertise: str | None = None,
    wait: float = 60.0,
    patience: float = 5.0,
    tell: Tell = log.info,
    message_limit: int = limits.MESSAGE_LIMIT,
    observing: Observing | None = None,
) -> JoiningOwners:
    """Owners that connect to this machine, for `Federation(owners=...)`; the federation listens for them as long as it is open.

    An owner joins with `stay_joined`. If it is away when its turn comes, it is dropped from that round, by name; when it is back it takes
    part in the next one. With TLS an owner is who its certificate says: the authority that `ssl` trusts has signed it, and its common
    name is the name of the owner. Without, on loopback or where plaintext is allowed, whoever connects is believed.

    With TLS, owners that are not in `names` join, too, if the authority has written the role of an owner into their certificates (`confide
    certs`): they take part from the next round on, and no more once they have gone. A federation with privacy for owners, whose number is
    public and fixed, and one with `FedBuff` take in nobody else.

    **Leaks** to whoever may connect: names of owners, which of them are here, and the number of rounds.

    Args:
        names: of the owners that connect to here. With TLS it may be empty: then the first round waits for one.
        listen: `wss://host:port` to listen on, or `ws://` on loopback.
        dialed: name -> `wss://host:port/owner` of owners that listen themselves.
        ssl: own certificate, and whose clients are let in; has to demand certificates.
        connect_ssl: own certificate and whom to trust, for owners that listen.
        allow_plaintext: permit `ws://` between machines: everybody in between can read and change everything.
        advertise: the address that others reach this machine at, if it is not `listen`.
        wait: seconds that the first round waits for all of them.
        patience: seconds that a round waits for an owner that is away.
        tell: is told in a line who joins and who leaves; and first `ready ADDRESS`.
        message_limit: bytes of the largest message that is taken: 1 MiB to 1 TiB. All that take part need one that a whole model fits.
        observing: how what happens can be seen; see `ActorSystem`.

    Raises:
        SettingError: no owner, one twice, or a time out of range.
        ValueError, TypeError: `message_limit` is out of its range, or not an integer.
        LinkError: on entering: nothing can listen there.

    Example:
        >>> owners = joining_owners(["ward-1", "ward-2"], "wss://hub.example:9000", ssl=keys.listen)
        >>> Federation(model=build_model, owners=owners)
    """
    names, dialed = list(names), dict(dialed or {})
    check("wait", wait, 0.0 <= wait < float("inf"), "at least 0 seconds, and finite")
    check("patience", patience, 0.0 <= patience < float("inf"), "at least 0 seconds, and finite")
    everybody = [*names, *dialed]
    if (not everybody and not listen.startswith("wss")) or len(set(everybody)) < len(everybody):
        raise SettingError(f"owners {everybody}: at least one is needed, unless they join by certificates over wss://, and each once")
    system = {
        "listen": listen,
        "advertise": advertise,
        "ssl": ssl,
        "connect_ssl": connect_ssl,
        "allow_plaintext": allow_plaintext,
        "message_limit": limits.message_limit(message_limit),
        "observing": observing,
        "busy": BUSY,
    }
    return JoiningOwners(names, system, dialed=dialed, wait=wait, patience=patience, tell=tell)

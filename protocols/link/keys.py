"""Where the randomness of the two servers comes from: an external dealer, or the third of three equals.

Both forms run the same programs, the same online protocols and the same mathematics of the third party (`mpc/dealer.py`,
`preprocessing.py`). They differ in one thing only, and that is this interface: from which keys the servers expand their halves.

- `ExternalDealer`, the crypto provider: chooses a fresh key for each server and tells it.
- `Helper`, one of three equals (the roles of ASTRA, ePrint 2019/429, and Trio, ePrint 2024/386): it shares a secret with each server,
  agreed between the two (`pair.py`), and all keys follow from it on both sides. No key travels and nobody chooses it for another. The
  helper derives both halves itself, and sends server 1 one element an output of a product, lambda_X o lambda_W - gamma_0; to server 0
  nothing.

Which of three equals helps follows from the name of a model (`clusters/roles.py`), so load and trust turn.

Adversary, for both: semi-honest, at most one of the three. **Leaks** to one alone: nothing beyond the program and who asks when, be it
server or third party. **Any two of the three together learn everything**: a server and the third party take the masks off; two servers
add up their shares. With an external dealer it is the same three pairs; what changes is that no outsider is needed, and no party is
always the dealer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from protocols.errors import ClusterError
from protocols.mpc.parties.keystream import fresh_key
from protocols.mpc.parties.pair import Agreement, Pair

Told = bytes | None
"""What the third party tells a server of its key: the key itself, or nothing because the server derives it."""
Agree = Callable[[bytes | None], Awaitable[bytes | None]]
"""Sends a server the helper's public key, and gives that of the server; nothing of both where an external dealer deals."""


@dataclass(frozen=True)
class Keys:
    """The keys of one purpose: what both servers expand, as the third party knows it, and what it tells each of them."""

    of: tuple[bytes, bytes] = field(repr=False)
    told: tuple[Told, Told] = field(repr=False)


class Preprocessing(ABC):
    """The third party of one model or one run of training: it knows the keys of both servers' halves, and none of their masked values."""

    @abstractmethod
    def keys(self, *purpose: str | bytes | int) -> Keys:
        """Return the keys of a purpose, for example ("chunk", identifier): independent of all others, and never given twice."""


class ExternalDealer(Preprocessing):
    """A crypto provider beside the two servers."""

    def keys(self, *purpose: str | bytes | int) -> Keys:
        """Draw a fresh key for each server, which it is told."""
        fresh = fresh_key(), fresh_key()
        return Keys(fresh, fresh)


class Helper(Preprocessing):
    """The third of three equals.

    Args:
        pairs: what it shares with server 0, and with server 1.
    """

    def __init__(self, pairs: tuple[Pair, Pair]) -> None:
        self._pairs = pairs

    def keys(self, *purpose: str | bytes | int) -> Keys:
        """Derive what follows from the two agreements; nothing is told.

        Raises:
            TicketRefused: the purpose had its keys before.
        """
        first, second = self._pairs
        return Keys((first.key(*purpose), second.key(*purpose)), (None, None))


async def third_party(equals: bool, session: bytes, servers: Sequence[Agree]) -> Preprocessing:
    """Return what the third party of a new session is, after one message each way with each server: a dealer, or the helper.

    Args:
        equals: whether the three are equals.
        session: names the model or the run; fresh, so that agreements of two sessions never mix.
        servers: how to reach server 0 and server 1.
    """
    pairs = []
    for party, agree in enumerate(servers):
        mine = Agreement() if equals else None
        theirs = await agree(None if mine is None else mine.public)
        if mine is not None:
            pairs.append(mine.with_peer(theirs or b"", session, party))
    return Helper((pairs[0], pairs[1])) if equals else ExternalDealer()


def answered(public: bytes, session: bytes, party: int) -> tuple[bytes, Pair]:
    """Answer `third_party` at a server: return its public key to send back, and what it shares with the helper from now on."""
    mine = Agreement()
    return mine.public, mine.with_peer(public, session, party)


def server_key(equals: bool, pair: Pair | None, told: Told, *purpose: str | bytes | int) -> bytes:
    """Return a server's key of a purpose: what an external dealer told it, or what follows from its agreement with the helper.

    Raises:
        ClusterError: an external dealer told none; or among equals there was no agreement, or a key is forced upon this server.
        TicketRefused: among equals, the purpose had its key before.
    """
    if not equals:
        if told is None:
            raise ClusterError(f"the crypto provider told no key for {purpose[0]!r}; is it of the same version of confide?")
        return told
    if pair is None or told is not None:
        raise ClusterError(f"the helper must agree on the key for {purpose[0]!r} with this server, not choose it")
    return pair.key(*purpose)

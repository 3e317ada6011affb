"""Code that is sent to another process to run there. The only file that pickles anything.

A node runs code for those who know one of its secrets. The secret itself is never sent: the node hands out a nonce, and the sender
answers with HMAC-SHA256(secret, nonce, purpose, name, code). The node checks that before it unpickles anything, and takes each nonce once.
Results come back as plain values, never pickled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import inspect
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import cloudpickle
import numpy as np
import numpy.typing as npt

from actors.actor import Actor, Surroundings, message
from actors.address import Address
from actors.errors import ActorNotFound, CodeNotTrusted
from actors.messages.schema import messages_of
from actors.processes import ChildProcess

SHIPYARD = "shipyard"
NONCES = 1024
Code = npt.NDArray[np.uint8]


def _proof(secret: bytes, nonce: bytes, purpose: str, name: str, code: bytes) -> bytes:
    """Each part is preceded by its length, so that no two rows of parts give the same bytes."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in (nonce, purpose.encode(), name.encode(), code):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


class Shipyard(Actor):
    """The actor of a node that runs what it is sent by those it trusts.

    Args:
        trusted: their secrets.
        ending: ends an actor of this system, by its name.
    """

    def __init__(self, trusted: tuple[bytes, ...], ending: Callable[[str], Awaitable[None]]) -> None:
        self._trusted = trusted
        self._ending = ending
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    @message(reentrant=True)
    def nonce(self) -> bytes:
        """Return a number to be used once."""
        nonce = secrets.token_bytes(16)
        self._nonces[nonce] = None
        if len(self._nonces) > NONCES:
            self._nonces.popitem(last=False)
        return nonce

    @message(reentrant=True)
    async def spawn(self, nonce: bytes, proof: bytes, name: str, code: Code) -> str:
        """Start an actor; return its name."""
        actor, args, kwargs = self._unpacked(nonce, proof, "spawn", name, code)
        ref = await self.system.spawn(actor, *args, name=name or None, **kwargs)
        return str(ref).rpartition("/")[2]

    @message(reentrant=True)
    async def run(self, nonce: bytes, proof: bytes, code: Code) -> Any:
        """Run a function; return its result."""
        function, args, kwargs = self._unpacked(nonce, proof, "run", "", code)
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        return await asyncio.to_thread(function, *args, **kwargs)

    @message(reentrant=True)
    async def stop(self, nonce: bytes, proof: bytes, name: str) -> None:
        """End an actor."""
        self._check(nonce, proof, "stop", name, b"")
        await self._ending(name)

    def _check(self, nonce: bytes, proof: bytes, purpose: str, name: str, code: bytes) -> None:
        known = self._nonces.pop(nonce, 0) is None
        right = [_proof(secret, nonce, purpose, name, code) for secret in self._trusted]
        if not (sum(hmac.compare_digest(proof, one) for one in right) and known):  # compares with each of them, always
            raise CodeNotTrusted(f"this node does not run code for whoever asked it to {purpose}: the proof of a shared secret is wrong")

    def _unpacked(self, nonce: bytes, proof: bytes, purpose: str, name: str, code: Code) -> Any:
        packed = code.tobytes()
        self._check(nonce, proof, purpose, name, packed)
        return cloudpickle.loads(packed)


class Sender(Surroundings, Protocol):
    """The system that sends code: it knows secrets of nodes, by their addresses."""

    @property
    def secrets(self) -> dict[str, bytes]:
        """Address of a node -> secret to run code there."""
        ...


async def _shipyard(system: Sender, node: str) -> tuple[Shipyard, bytes]:
    """Return the shipyard of a node, and the secret that it knows us by."""
    address = str(Address.parse(node))
    secret = system.secrets.get(address)
    if secret is None:
        raise CodeNotTrusted(f"no secret is known that {address} would trust; start it with start_node, or give ActorSystem(secrets=...)")
    try:
        return await system.connect(f"{address}/{SHIPYARD}", Shipyard), secret
    except ActorNotFound:
        raise CodeNotTrusted(f"{address} runs code for nobody; it needs ActorSystem(trust=...)") from None


def _code(*parts: Any) -> bytes:
    code: bytes = cloudpickle.dumps(parts)
    return code


async def spawn_on(
    system: Sender, node: str, actor: type[Actor], args: tuple[Any, ...], kwargs: dict[str, Any], *, name: str | None
) -> str:
    """Start an actor on a node; return its address. See `ActorSystem.spawn_on`."""
    messages_of(actor)  # resolves the annotations, which are shipped with the class
    yard, secret = await _shipyard(system, node)
    code, nonce = _code(actor, args, kwargs), await yard.nonce()
    proof = _proof(secret, nonce, "spawn", name or "", code)
    given = await yard.spawn(nonce, proof, name or "", np.frombuffer(code, np.uint8))
    return f"{Address.parse(node)}/{given}"


async def run_on(system: Sender, node: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function on a node. See `ActorSystem.run_on`."""
    yard, secret = await _shipyard(system, node)
    code, nonce = _code(function, args, kwargs), await yard.nonce()
    return await yard.run(nonce, _proof(secret, nonce, "run", "", code), np.frombuffer(code, np.uint8))


async def stop_on(system: Sender, node: str, name: str) -> None:
    """End an actor on a node. See `ActorSystem.stop`."""
    yard, secret = await _shipyard(system, node)
    nonce = await yard.nonce()
    await yard.stop(nonce, _proof(secret, nonce, "stop", name, b""), name)


@contextlib.asynccontextmanager
async def started_node(known: dict[str, bytes], address: str, *, ready_within: float, limit: int) -> AsyncIterator[str]:
    """Start a node as a child process; keep its secret in `known` as long as it runs. See `ActorSystem.start_node`."""
    async with await ChildProcess.start("actors.node", address, str(limit), ready_within=ready_within) as child:
        known[child.address] = child.secret
        try:
            yield child.address
        finally:
            del known[child.address]

"""A worker as a process of its own: `python -m protocols.worker_process HOST:PORT`.

It offers all roles: it computes, trains, deals randomness, and sums. It
prints `ready ADDRESS` when it can be reached and its kernels are compiled. It never imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from actors import ActorError, ActorSystem, exit_with_parent
from protocols.compute_server import ComputeServer
from protocols.crypto_provider import CryptoProvider
from protocols.sum_server import SumServer
from protocols.training.training_dealer import TrainingDealer
from protocols.training.training_server import TrainingServer


@dataclass(frozen=True)
class Encryption:
    """How a worker is reached and reaches others: its own certificate, and whom it trusts. Without one, in the clear on loopback only."""

    listen: SSLContext | None = None
    connect: SSLContext | None = None
    allow_plaintext: bool = False


def mutual(certificate: Path, key: Path, authority: Path) -> Encryption:
    """TLS with certificates on both sides, signed by one authority (PEM files)."""
    listen = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    connect = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(authority))
    for context in (listen, connect):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(certificate, key)
    listen.verify_mode = ssl.CERT_REQUIRED
    return Encryption(listen, connect)


async def run(address: str, encryption: Encryption, *, with_parent: bool) -> None:
    """Serves until told to stop; with a parent, no longer than the parent lives.

    Args:
        address: host:port; port 0 chooses one.
        encryption: in the clear, or TLS.
        with_parent: started by a cluster.
    """
    scheme = "ws" if encryption.listen is None else "wss"
    async with ActorSystem(
        listen=f"{scheme}://{address}",
        ssl=encryption.listen,
        connect_ssl=encryption.connect,
        allow_plaintext=encryption.allow_plaintext,
    ) as system:
        await system.spawn(ComputeServer, name="server")
        await system.spawn(CryptoProvider, name="provider")
        await system.spawn(SumServer, name="sums")
        await system.spawn(TrainingServer, name="training")
        await system.spawn(TrainingDealer, name="training-dealer")
        print(f"ready {system.address}", flush=True)
        if with_parent:
            await exit_with_parent()
        else:
            await system.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(run(sys.argv[1], Encryption(), with_parent=True))
    except ActorError as error:
        sys.exit(str(error))

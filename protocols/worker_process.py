"""A worker as a process of its own: `python -m protocols.worker_process HOST:PORT [FOLDER]`.

It offers all roles: it computes, trains, deals randomness, sums, and keeps shares in the folder, if there is one. It
prints `ready ADDRESS` when it can be reached and its kernels are compiled. It never imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

from actors import ActorError, ActorSystem, exit_with_parent
from actors.guard.refusals import know_own_certificate
from actors.processes import log_to_parent
from protocols.compute_server import ComputeServer
from protocols.crypto_provider import CryptoProvider
from protocols.errors import ProtocolError
from protocols.sum_server import SumServer
from protocols.training.holdings import Holdings
from protocols.training.keeper import Keeper
from protocols.training.training_dealer import TrainingDealer
from protocols.training.training_server import TrainingServer
from protocols.vault import Vault


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
        know_own_certificate(context, certificate)
    listen.verify_mode = ssl.CERT_REQUIRED
    return Encryption(listen, connect)


async def run(address: str, encryption: Encryption, *, with_parent: bool, data: Path | None = None, data_key: Path | None = None) -> None:
    """Serves until told to stop; with a parent, no longer than the parent lives.

    Args:
        address: host:port; port 0 chooses one.
        encryption: in the clear, or TLS.
        with_parent: started by a cluster.
        data: folder in which shares are kept; None: nothing is kept.
        data_key: file with the key that they are encrypted under; None: a file in the folder.

    Raises:
        VaultError: the folder or the key cannot be used.
    """
    scheme = "ws" if encryption.listen is None else "wss"
    with contextlib.closing(Holdings(None if data is None else Vault.open(data, data_key))) as holdings:
        async with ActorSystem(
            listen=f"{scheme}://{address}",
            ssl=encryption.listen,
            connect_ssl=encryption.connect,
            allow_plaintext=encryption.allow_plaintext,
        ) as system:
            await system.spawn(ComputeServer, name="server")
            await system.spawn(CryptoProvider, name="provider")
            await system.spawn(SumServer, name="sums")
            await system.spawn(TrainingServer, holdings, name="training")
            await system.spawn(TrainingDealer, holdings, name="training-dealer")
            await system.spawn(Keeper, holdings, name="keeper")
            print(f"ready {system.address}", flush=True)
            if with_parent:
                await exit_with_parent()
            else:
                await system.serve_forever()


if __name__ == "__main__":
    log_to_parent()
    try:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else None
        asyncio.run(run(sys.argv[1], Encryption(), with_parent=True, data=folder))
    except (ActorError, ProtocolError) as error:
        sys.exit(str(error))

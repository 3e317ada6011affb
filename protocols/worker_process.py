"""A worker as a process of its own: `python -m protocols.worker_process HOST:PORT`.

It offers both roles, and prints `ready ADDRESS` when it can be reached and its kernels are compiled. It never imports TensorFlow.
"""

from __future__ import annotations

import asyncio
import sys

from actors import ActorSystem, exit_with_parent
from protocols import kernels
from protocols.compute_server import ComputeServer
from protocols.crypto_provider import CryptoProvider


async def run(address: str, *, with_parent: bool) -> None:
    """Serves until told to stop; with a parent, no longer than the parent lives."""
    assert kernels.COMPILED is not None  # importing them compiled them
    async with ActorSystem(listen=f"ws://{address}") as system:
        await system.spawn(ComputeServer, name="server")
        await system.spawn(CryptoProvider, name="provider")
        print(f"ready {system.address}", flush=True)
        if with_parent:
            await exit_with_parent()
        else:
            await system.serve_forever()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], with_parent=True))

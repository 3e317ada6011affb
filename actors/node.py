"""A process that runs code for the one who started it: `python -m actors.node ws://HOST:PORT LIMIT`. Use `ActorSystem.start_node`."""

from __future__ import annotations

import asyncio
import sys

from actors.processes import exit_with_parent, log_to_parent, started_by_parent
from actors.system import ActorSystem


async def serve(address: str, limit: int) -> None:
    """Listen until the parent ends; take messages up to a limit in bytes."""
    log_to_parent()
    async with ActorSystem(listen=address, trust=[started_by_parent()], message_limit=limit) as system:
        print(f"ready {system.address}", flush=True)
        await exit_with_parent()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))

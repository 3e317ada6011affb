"""A client: ask the shared model for three digits. It never sees the model; nobody else sees the digits or the answers.

Usage: python examples/client.py [HOST:PORT HOST:PORT HOST:PORT] [--save FILE]
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np

import digits
from protocols import Cluster, Worker, connect


async def ask(addresses: list[str], images: list[int], save: Path | None) -> None:
    """One request for each image, by its number among the test images."""
    data = digits.load()
    servers, provider = [Worker(address) for address in addresses[:2]], Worker(addresses[2])
    logits, seconds = [], []
    async with connect(Cluster(*servers, crypto_provider=provider), "mnist") as remote:
        for number in images:
            answer = await remote.query(data.x_test[number : number + 1])
            print(f"Actual: {data.y_test[number]}, predicted: {answer[0].argmax()}", flush=True)
            assert remote.last is not None
            logits.append(answer[0])
            seconds.append(remote.last.seconds)
        last = remote.last
    assert last is not None
    print(f"{np.median(seconds) * 1e3:.1f} ms a query, {last.rounds} rounds, {last.servers[0].sent:,} bytes between the servers each way")
    if save is not None:
        first, second = last.servers
        np.savez(
            save,
            logits=logits,
            seconds=seconds,
            rounds=last.rounds,
            online=[first.sent, second.sent, last.uploaded],
            offline=[first.dealt, second.dealt, last.downloaded],
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("addresses", nargs="*", default=["localhost:4000", "localhost:4001", "localhost:4002"])
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1, 2], help="numbers of test images, one request each")
    parser.add_argument("--save", type=Path, help="write logits and costs to this file")
    arguments = parser.parse_args()
    asyncio.run(ask(arguments.addresses, arguments.images, arguments.save))

"""The model owner: share a Keras model among three workers and serve three requests.

Run this, and in another terminal `python examples/client.py`. The model is trained first if `python examples/train.py` has not been run.
Usage: python examples/serve.py [HOST:PORT HOST:PORT HOST:PORT] [--model FILE] [--epochs N]
"""

import argparse
import asyncio
from pathlib import Path

import keras

from protocols import Cluster, Worker, share
from train import EPOCHS, MODEL, train

ADDRESSES = ["localhost:4000", "localhost:4001", "localhost:4002"]


def trained(path: Path, epochs: int) -> keras.Model:
    """The model of that file; trained and saved there if there is none."""
    return keras.models.load_model(path) if path.exists() else train(path, epochs)


async def serve(addresses: list[str], model: keras.Model, num_requests: int = 3) -> None:
    """Starts the workers that are not running yet, shares the model, and returns when all requests have been answered."""
    julia, greg, me = (Worker(address) for address in addresses)
    async with Cluster(julia, greg, crypto_provider=me) as cluster, await share(model, cluster, name="mnist") as shared:
        serving = asyncio.create_task(shared.serve(num_requests, on_answer=lambda number: print(f"answered request {number}", flush=True)))
        print("serving; now run: python examples/client.py", *(worker.address for worker in cluster.workers), flush=True)
        await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("addresses", nargs="*", default=ADDRESSES)
    parser.add_argument("--model", type=Path, default=MODEL, help="the model; it is trained and saved there if there is none")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="if it is trained: fewer train a worse model in less time")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.addresses, trained(arguments.model, arguments.epochs)))

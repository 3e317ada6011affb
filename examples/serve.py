"""The model owner: share a Keras model among three workers and serve three requests.

Run this, and in another terminal `python examples/client.py`. The model is trained first if `python examples/train.py` has not been run.
Usage: python examples/serve.py [HOST:PORT HOST:PORT HOST:PORT]
"""

import asyncio
import sys

import keras

from protocols import Cluster, Worker, share
from train import MODEL, train

ADDRESSES = ["localhost:4000", "localhost:4001", "localhost:4002"]


async def serve(addresses: list[str], num_requests: int = 3) -> None:
    """Starts the workers that are not running yet, shares the model, and returns when all requests have been answered."""
    model = keras.models.load_model(MODEL) if MODEL.exists() else train(MODEL)
    julia, greg, me = (Worker(address) for address in addresses)
    async with Cluster(julia, greg, crypto_provider=me) as cluster, await share(model, cluster, name="mnist") as shared:
        serving = asyncio.create_task(shared.serve(num_requests, on_answer=lambda number: print(f"answered request {number}", flush=True)))
        print("serving; now run: python examples/client.py", *(worker.address for worker in cluster.workers), flush=True)
        await serving


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:4] or ADDRESSES))

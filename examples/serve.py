"""The model owner: share a Keras model among three workers and serve three requests.

Run `python examples/train.py` once, then this, and in another terminal `python examples/client.py`.
"""

import asyncio

import keras

from protocols import Cluster, Worker, share
from train import MODEL, train


async def serve(num_requests: int = 3) -> None:
    """Starts the workers that are not running yet, shares the model, and returns when all requests have been answered."""
    model = keras.models.load_model(MODEL) if MODEL.exists() else train(MODEL)
    julia, greg, me = Worker("localhost:4000"), Worker("localhost:4001"), Worker("localhost:4002")
    async with Cluster(julia, greg, crypto_provider=me) as cluster, await share(model, cluster, name="mnist") as shared:
        print(f"{shared} is ready for {num_requests} requests; now run: python examples/client.py", flush=True)
        await shared.serve(num_requests, on_answer=lambda number: print(f"answered request {number}", flush=True))


if __name__ == "__main__":
    asyncio.run(serve())

"""Everything on one machine: train a CNN, share it among three worker processes, and ask it from a fourth.

Run it with `make demo`. The workers choose free ports; nothing is left running afterwards.
Usage: python examples/demo.py [--epochs N]
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import digits
from privacy.keras_models.quiet import begin_keras, held_back
from protocols import Cluster, Worker, share

with held_back():  # the lines of TensorFlow
    import keras

    from train import EPOCHS, train

HERE = Path(__file__).parent
IMAGES = [0, 1, 2]


async def demo(folder: Path, epochs: int) -> None:
    """Trains, saves, loads, shares, serves three requests of a client process, and compares with plaintext."""
    train(folder / "mnist.keras", epochs)
    model = keras.models.load_model(folder / "mnist.keras")
    julia, greg, me = Worker("localhost:0"), Worker("localhost:0"), Worker("localhost:0")
    async with Cluster(julia, greg, crypto_provider=me) as cluster, await share(model, cluster, name="mnist") as shared:
        print(f"shared {shared.program.input_shape} -> {shared.program.output_shape} among {cluster}", flush=True)
        serving = asyncio.create_task(shared.serve(num_requests=len(IMAGES)))
        await ask([worker.address for worker in cluster.workers], folder / "answers.npz")
        await serving
    with np.load(folder / "answers.npz") as answers:
        show(model, dict(answers))


async def ask(addresses: list[str], answers: Path) -> None:
    """Runs the client as a process of its own."""
    command = [str(HERE / "client.py"), *addresses, "--save", str(answers), "--images", *map(str, IMAGES)]
    client = await asyncio.create_subprocess_exec(sys.executable, *command)
    try:
        if await client.wait():
            raise SystemExit(f"the client failed with exit code {client.returncode}")
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()


def show(model: keras.Model, answers: dict[str, np.ndarray[Any, Any]]) -> None:
    """The table at the end."""
    expected = model.predict(digits.load().x_test[IMAGES], verbose=0)
    same = int((expected.argmax(1) == answers["logits"].argmax(1)).sum())
    table = Table("", "server 0", "server 1", "client", title="encrypted prediction, one image a query")
    table.add_row("bytes sent online", *(f"{n:,}" for n in answers["online"]))
    table.add_row("bytes received offline", *(f"{n:,}" for n in answers["offline"][:2]), "-")
    table.add_row("bytes received by the client", "-", "-", f"{answers['offline'][2]:,}")
    table.add_row("rounds", f"{answers['rounds']}", f"{answers['rounds']}", "1")
    table.add_row("latency", "", "", f"{np.median(answers['seconds']) * 1e3:.1f} ms")
    table.add_row("agreement with plaintext", "", "", f"{same} of {len(IMAGES)}")
    table.add_row("largest error of a logit", "", "", f"{np.abs(expected - answers['logits']).max():.5f}")
    Console().print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="fewer train a worse model in less time")
    arguments = parser.parse_args()
    begin_keras()
    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(demo(Path(folder), arguments.epochs))
    except KeyboardInterrupt:
        sys.exit(130)

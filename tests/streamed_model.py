"""A small deep model whose randomness does not fit a small memory, served by workers in this process, without Keras."""

import asyncio
import contextlib

import numpy as np

from deployment import random_ring
from protocols import connect
from protocols.authority.rights import new_secret
from protocols.mpc import plaintext
from protocols.mpc.encoding import encoded
from protocols.mpc.operations.argmax import Argmax
from protocols.mpc.operations.selection import Select
from protocols.mpc.operations.weights import Dense
from protocols.mpc.operations.wires import Input, Open
from protocols.mpc.program import Program
from protocols.owner.fitting import Training
from protocols.owner.shared_model import SharedModel
from protocols.serving.streams import largest_operation

WIDTH, LAYERS = 50, 6


def program(layers: int = LAYERS) -> Program:
    """Dense layers with ReLU; integers of up to 2^8 times weights of up to 40, and 6 bits dropped after each layer."""
    ops: list = [Input()]
    for index in range(layers):
        ops += [Dense(len(ops) - 1, index), Select(len(ops), 6, 24), Open(len(ops) + 1)]
    ops.append(Dense(len(ops) - 1, layers))
    shapes = ((4, WIDTH), *[(WIDTH, WIDTH)] * (layers - 1), (WIDTH, 3))
    return Program(tuple(ops), shapes, (4,), 2.0**-8, (-1.0, 1.0), 1.0, Argmax(len(ops) - 1, 0, 40))


PROGRAM = program()
WEIGHTS = [random_ring(shape, 40, f"w{i}") for i, shape in enumerate(PROGRAM.weights)]
X = np.random.default_rng(0).uniform(-1, 1, (4, 4))
TOLERANCE = 10_000  # of outputs of up to 10^6: the roundings of all layers
LEAST = largest_operation(PROGRAM)


def expected(x) -> np.ndarray:
    return plaintext.evaluate(PROGRAM, WEIGHTS, encoded(PROGRAM, x)).view(np.int64).astype(np.float64)


@contextlib.asynccontextmanager
async def served(cluster, name: str = "stream", weights=WEIGHTS, program: Program = PROGRAM, **terms):
    """A program shared as it is, and a client of it."""
    await cluster.enrol()
    secret = new_secret()
    async with SharedModel(name, program, (), cluster, secret, Training(None, cluster, name)) as shared:
        await shared.placed(list(weights))
        serving = asyncio.create_task(shared.serve(**{"num_requests": 100, "reveal": ["logits"], **terms}))
        while not await shared.prepared(terms.get("reveal", ["logits"])[0]):
            if serving.done():
                await serving
            await asyncio.sleep(0)
        try:
            async with connect(cluster, name) as remote:
                yield shared, remote
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

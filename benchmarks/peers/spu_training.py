"""SPU's seconds a step of training, for `benchmarks.encrypted_training --spu`; run by a Python that has `spu` installed.

`python spu_training.py STEPS` prints a JSON list, one figure a step: the MLP 784-128-10, softmax cross-entropy, SGD of rate 0.1, batch 128,
everything secret. ABY3 over 64 bits, its fastest for three parties: three processes on loopback. The step is unmodified JAX; weights stay
shares from step to step.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu
from spu import libspu
from spu.utils import frontend

BATCH, RATE = 128, 0.1
PARTIES = 3


def step(w: Any, b: Any, v: Any, c: Any, x: Any, y: Any) -> Any:
    """One step of gradient descent: new weights of both layers."""
    hidden = x @ w + b
    active = jnp.maximum(hidden, 0)
    gradient = (jax.nn.softmax(active @ v + c) - y) / BATCH
    back = (gradient @ v.T) * (hidden > 0)
    return w - RATE * (x.T @ back), b - RATE * back.sum(0), v - RATE * (active.T @ gradient), c - RATE * gradient.sum(0)


def config() -> Any:
    return libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64)


def party(rank: int, addresses: list[str], arguments: list[Any], shares: list[Any], steps: int, found: Any) -> None:
    """Run the same program with its own shares; the first tells seconds, all tell their shares of the weights."""
    described = libspu.link.Desc()
    for at, address in enumerate(addresses):
        described.add_party(f"party{at}", address)
    link = libspu.link.create_brpc(described, rank)
    names, results = [f"in{at}" for at in range(len(arguments))], [f"out{at}" for at in range(4)]
    secret = [libspu.Visibility.VIS_SECRET] * len(arguments)
    executable, _ = frontend.compile(
        frontend.Kind.JAX, step, arguments, {}, names, secret, lambda _: results, copts=libspu.CompilerOptions()
    )
    runtime = spu.Runtime(link, config())
    for name, share in zip(names, shares, strict=True):
        runtime.set_var(name, share)
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        runtime.run(executable)
        for name, result in zip(names, results, strict=False):
            runtime.set_var(name, runtime.get_var(result))
        seconds.append(time.perf_counter() - started)
    found.put((rank, seconds, [runtime.get_var(name) for name in results]))
    link.stop_link()


def main(steps: int) -> None:
    with np.load(Path(__file__).parents[2] / "examples" / "mnist_10k.npz") as digits:
        x = digits["x_train"][:BATCH].reshape(BATCH, -1).astype(np.float32) / 255
        y = np.eye(10, dtype=np.float32)[digits["y_train"][:BATCH]]
    random = np.random.default_rng(0)
    w, v = (random.normal(size=size).astype(np.float32) / np.sqrt(size[0] / 2) for size in ((784, 128), (128, 10)))
    arguments = [w, np.zeros(128, np.float32), v, np.zeros(10, np.float32), x, y]
    io = spu.Io(PARTIES, config())
    shares = [io.make_shares(argument, libspu.Visibility.VIS_SECRET) for argument in arguments]
    sockets = [socket.socket() for _ in range(PARTIES)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    parties = [
        spawn.Process(target=party, args=(rank, addresses, arguments, [each[rank] for each in shares], steps, found))
        for rank in range(PARTIES)
    ]
    for one in parties:
        one.start()
    told = sorted((found.get() for _ in parties), key=lambda each: each[0])
    for one in parties:
        one.join(10)
    trained = [io.reconstruct(list(each)) for each in zip(*(results for _, _, results in told), strict=True)]
    clear = arguments
    for _ in range(steps):
        clear = [*step(*clear), x, y]
    error = max(float(np.abs(one - other).max()) for one, other in zip(trained, clear, strict=False))
    if error > 0.02:
        raise SystemExit(f"weights after {steps} steps are {error:.3f} off those in the clear")
    print(json.dumps([max(each) for each in zip(*(seconds for _, seconds, _ in told), strict=True)]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))

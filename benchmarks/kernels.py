"""How fast the ring kernels and the key stream are on this machine: `python -m benchmarks.kernels [--json]`.

One thread. Kernels in 10^9 multiply-adds a second through the public functions of `protocols.mpc.numbers.ring`, with plain numpy beside
them; key streams in GB/s. Each figure is the best of many runs within a fraction of a second.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from protocols.mpc import kernels
from protocols.mpc.kernels import reference
from protocols.mpc.numbers import ring
from protocols.mpc.parties.keystream import KeyStream

SECONDS = 0.1  # for one figure

MATMULS = [(1, 64, 10), (32, 64, 10), (1, 784, 128), (128, 784, 128), (1, 512, 64), (32, 512, 64), (128, 784, 1), (512, 512, 512)]
CONVOLUTIONS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("28x28x1 4x4 s2 -> 16", (28, 28, 1), (4, 4, 1, 16), {"strides": (2, 2)}),
    ("13x13x16 4x4 s2 -> 32", (13, 13, 16), (4, 4, 16, 32), {"strides": (2, 2)}),
    ("5x5x32 4x4 s2 -> 64", (5, 5, 32), (4, 4, 32, 64), {"strides": (2, 2)}),
    ("32x32x64 3x3 -> 64", (32, 32, 64), (3, 3, 64, 64), {"padding": ((1, 1), (1, 1))}),
    ("32x32x64 1x1 -> 64", (32, 32, 64), (1, 1, 64, 64), {}),
    ("32x32x64 3x3 depthwise", (32, 32, 64), (3, 3, 1, 64), {"padding": ((1, 1), (1, 1)), "groups": 64}),
]
BATCHES = (1, 32)
STREAMS = (1 << 10, 1 << 16, 1 << 20, 1 << 24)  # bytes


def seconds(run: Callable[[], object]) -> float:
    """The time of one call: the best of all batches of calls that fit into SECONDS."""
    run()
    calls, best, spent = 1, math.inf, 0.0
    while spent < SECONDS:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        took = time.perf_counter() - start
        best, spent = min(best, took / calls), spent + took
        if took < SECONDS / 20:
            calls *= 2
    return best


def figure(name: str, unit: str, amount: float, run: Callable[[], object], plain: Callable[[], object] | None) -> dict[str, Any]:
    """`amount` of work a second, in 10^9."""
    took = seconds(run)
    other = amount / seconds(plain) / 1e9 if plain else None
    return {"name": name, "unit": unit, "rate": amount / took / 1e9, "numpy": other, "microseconds": took * 1e6}


def in_numpy(run: Callable[[], object]) -> Callable[[], object]:
    """The same call with the plain kernels."""

    def plain() -> object:
        with mock.patch.multiple(kernels, matmul=reference.matmul, conv2d=reference.conv2d):
            return run()

    return plain


def figures() -> Iterator[dict[str, Any]]:
    words = KeyStream(bytes(16)).words
    for m, k, n in MATMULS:
        a, b, out = words((m, k)), words((k, n)), words((m, n))

        def multiply(a: ring.Ring = a, b: ring.Ring = b, out: ring.Ring = out) -> object:
            return ring.matmul(a, b, out=out)

        yield figure(f"matmul {m}x{k}x{n}", "G multiply-adds/s", m * k * n, multiply, in_numpy(multiply))
    for name, shape, size, settings in CONVOLUTIONS:
        for batch in BATCHES:
            x, kernel = words((batch, *shape)), words(size)
            out = ring.conv2d(x, kernel, **settings)

            def convolve(x: ring.Ring = x, kernel: ring.Ring = kernel, out: ring.Ring = out, settings: dict[str, Any] = settings) -> object:
                return ring.conv2d(x, kernel, **settings, out=out)

            work = out.size * math.prod(size[:3])
            yield figure(f"conv2d {name}, batch {batch}", "G multiply-adds/s", work, convolve, in_numpy(convolve))
    for length in STREAMS:
        stream, buffer = KeyStream(bytes(16)), np.empty(length // 8, np.uint64)
        yield figure(f"key stream {length >> 10} KB", "GB/s", length, functools.partial(stream.fill, buffer), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    if parser.parse_args().json:
        print(json.dumps({"compiled": kernels.COMPILED, "figures": list(figures())}, indent=2))
        return
    print(f"{'':42} {'rate':>8} {'numpy':>8} {'us':>10}")
    for one in figures():
        other = f"{one['numpy']:8.2f}" if one["numpy"] else " " * 8
        print(f"{one['name']:42} {one['rate']:8.2f} {other} {one['microseconds']:10.1f}  {one['unit']}", flush=True)


if __name__ == "__main__":
    main()

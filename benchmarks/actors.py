"""What messages cost: `python -m benchmarks.actors [--json] [--rounds N]`.

Two processes over loopback. In each round everything is measured once, one system after the other, so that the ratios hold on a machine
that is busy with other things; the medians and the best over the rounds are shown. xoscar takes part if it is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from actors import Actor, ActorSystem, ChildProcess, exit_with_parent, message

try:
    import xoscar
except ImportError:
    xoscar = None

Floats = npt.NDArray[np.float32]
IN_FLIGHT = 1000
SIZES = {"4 MB echo, ms": 1_000_000, "40 MB echo, ms": 10_000_000}
LIMIT = 1 << 28


class Echo(Actor):
    def __init__(self, raw: str = "", xoscar_address: str = "") -> None:
        self._addresses = [raw, xoscar_address]

    @message
    async def addresses(self) -> list[str]:
        return self._addresses

    @message
    async def add(self, n: int) -> int:
        return n + 1

    @message(reentrant=True)
    def add_now(self, n: int) -> int:
        return n + 1

    @message
    async def echo(self, x: Floats) -> Floats:
        return x


class Subject(Protocol):
    async def add(self, n: int) -> Any: ...
    async def echo(self, x: Floats) -> Any: ...


class Now:
    """The same actor through its plain `def` handler."""

    def __init__(self, ref: Echo) -> None:
        self._ref = ref

    async def add(self, n: int) -> int:
        return await self._ref.add_now(n)


class Raw:
    """A WebSocket that echoes, with no actors; one request at a time."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    async def add(self, n: int) -> bytes:
        await self._socket.send(n.to_bytes(8, "big"))
        return bytes(await self._socket.recv())

    async def echo(self, x: Floats) -> Floats:
        await self._socket.send(x.data.cast("B"))
        return np.frombuffer(await self._socket.recv(), x.dtype)

    async def many(self, count: int) -> None:
        async def send() -> None:
            for n in range(count):
                await self._socket.send(n.to_bytes(8, "big"))

        sending = asyncio.create_task(send())
        for _ in range(count):
            await self._socket.recv()
        await sending


# The other process.


async def raw_echo(socket: ServerConnection) -> None:
    async for data in socket:
        await socket.send(data)


async def serve_all() -> None:
    async with contextlib.AsyncExitStack() as stack:
        raw = await stack.enter_async_context(serve(raw_echo, "127.0.0.1", 0, compression=None, max_size=LIMIT))
        system = await stack.enter_async_context(ActorSystem(listen="ws://127.0.0.1:0"))
        port = next(iter(raw.sockets)).getsockname()[1]
        await system.spawn(Echo, f"ws://127.0.0.1:{port}", await serve_xoscar(stack), name="echo")
        print(f"ready {system.address}", flush=True)
        await exit_with_parent()


async def serve_xoscar(stack: contextlib.AsyncExitStack) -> str:
    if xoscar is None:
        return ""
    pool = await xoscar.create_actor_pool("127.0.0.1:0", n_process=0)
    stack.push_async_callback(pool.stop)
    address: str = pool.external_address
    await xoscar.create_actor(xoscar_echo(), address=address, uid="echo")
    return address


def xoscar_echo() -> Any:
    class XoscarEcho(xoscar.Actor):  # type: ignore[misc]
        async def add(self, n: int) -> int:
            return n + 1

        async def echo(self, x: Floats) -> Floats:
            return x

    return XoscarEcho


# This process.


@contextlib.asynccontextmanager
async def subjects() -> AsyncIterator[dict[str, Any]]:
    async with contextlib.AsyncExitStack() as stack:
        child = await stack.enter_async_context(await ChildProcess.start("benchmarks.actors", "--serve"))
        system = await stack.enter_async_context(ActorSystem())
        echo = await system.connect(f"{child.address}/echo", Echo)
        raw, xoscar_address = await echo.addresses()
        socket = await stack.enter_async_context(connect(raw, compression=None, max_size=LIMIT, proxy=None))
        found: dict[str, Any] = {"actors": echo, "actors, plain def": Now(echo), "raw websockets": Raw(socket)}
        if xoscar_address:
            found["xoscar"] = await xoscar.actor_ref(address=xoscar_address, uid="echo")
        local = await system.spawn(Echo)
        yield found | {"actors, in process": local, "actors, in process, plain def": Now(local)}


async def median_of(count: int, call: Callable[[], Awaitable[Any]]) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


async def mean_of(count: int, call: Callable[[], Awaitable[Any]]) -> float:
    start = time.perf_counter()
    for _ in range(count):
        await call()
    return (time.perf_counter() - start) / count


async def calls_per_second(subject: Any, count: int) -> float:
    start = time.perf_counter()
    if isinstance(subject, Raw):
        await subject.many(count)
    else:
        for _ in range(0, count, IN_FLIGHT):
            await asyncio.gather(*(subject.add(n) for n in range(IN_FLIGHT)))
    return count / (time.perf_counter() - start)


async def measure(name: str, subject: Any) -> dict[str, float]:
    if "in process" in name:
        return {"tiny call, us": 1e6 * await mean_of(3000, lambda: subject.add(1))}
    result = {"tiny call, us": 1e6 * await median_of(500, lambda: subject.add(1))}
    result[f"calls/s, {IN_FLIGHT} in flight"] = await calls_per_second(subject, 5 * IN_FLIGHT)
    if hasattr(subject, "echo"):
        for label, size in SIZES.items():
            x = np.ones(size, np.float32)
            result[label] = 1e3 * await median_of(3, lambda x=x: subject.echo(x))  # type: ignore[misc]
    return result


async def run(rounds: int) -> dict[str, dict[str, list[float]]]:
    results: dict[str, dict[str, list[float]]] = {}
    async with subjects() as all_of_them:
        for _ in range(rounds):
            for name, subject in all_of_them.items():
                for quantity, value in (await measure(name, subject)).items():
                    results.setdefault(name, {}).setdefault(quantity, []).append(value)
    return results


def summary(results: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            quantity: {"median": statistics.median(values), "best": (max if "/s" in quantity else min)(values)}
            for quantity, values in quantities.items()
        }
        for name, quantities in results.items()
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    quantities = list(dict.fromkeys(quantity for row in figures.values() for quantity in row))
    lines = ["".join(f"{cell:>26}" for cell in ("median (best)", *quantities))]
    for name, row in figures.items():
        cells = [f"{row[q]['median']:.1f} ({row[q]['best']:.1f})" if q in row else "" for q in quantities]
        lines.append("".join(f"{cell:>26}" for cell in (name, *cells)))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve_all())
        return
    figures = summary(asyncio.run(run(options.rounds)))
    note = "xoscar is not installed and was skipped" if xoscar is None else f"xoscar {xoscar.__version__}"
    if options.json:
        json.dump({"note": note, "figures": figures}, sys.stdout, indent=2)
        print()
    else:
        print(table(figures), note, sep="\n")


if __name__ == "__main__":
    main()

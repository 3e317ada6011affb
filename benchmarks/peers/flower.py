"""Flower's seconds per round, for `benchmarks.federated_rounds`; run by a Python that has `flwr[simulation]` installed.

`python flower.py simulation|network OWNERS PARAMETERS ROUNDS` prints a JSON list, one figure a round. The client is trivial: a fit returns
its weights plus one. `network` is Flower's legacy gRPC path, its fastest: a server and each client in a process of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

import flwr as fl
import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

MESSAGE = 1 << 29


class Trivial(NumPyClient):
    def fit(self, parameters: Any, config: Any) -> Any:
        return [array + np.float32(1) for array in parameters], 1, {}


class Timed(FedAvg):
    """Notes when each round begins, and when the last one has been aggregated."""

    def __init__(self, owners: int, parameters: int) -> None:
        super().__init__(
            fraction_fit=1.0,
            fraction_evaluate=0.0,
            min_fit_clients=owners,
            min_available_clients=owners,
            initial_parameters=ndarrays_to_parameters([np.zeros(parameters, np.float32)]),
        )
        self.times: list[float] = []

    def configure_fit(self, *args: Any, **kwargs: Any) -> Any:
        self.times.append(time.perf_counter())
        return super().configure_fit(*args, **kwargs)

    def aggregate_fit(self, *args: Any, **kwargs: Any) -> Any:
        result = super().aggregate_fit(*args, **kwargs)
        self.times.append(time.perf_counter())
        return result

    def seconds(self) -> list[float]:
        return [end - begin for begin, end in zip(self.times[::2], self.times[1::2], strict=True)]


def simulation(owners: int, parameters: int, rounds: int) -> list[float]:
    strategy = Timed(owners, parameters)
    server = ServerApp(server_fn=lambda _: ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds)))
    client = ClientApp(client_fn=lambda _: Trivial().to_client())
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 2}}
    fl.simulation.run_simulation(server, client, owners, backend_config=resources)
    return strategy.seconds()


def _client(address: str) -> None:
    fl.client.start_client(server_address=address, client=Trivial().to_client(), grpc_max_message_length=MESSAGE)


def network(owners: int, parameters: int, rounds: int) -> list[float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    spawn = multiprocessing.get_context("spawn")
    clients = [spawn.Process(target=_client, args=(address,), daemon=True) for _ in range(owners)]
    for client in clients:
        client.start()
    strategy = Timed(owners, parameters)
    fl.server.start_server(
        server_address=address, config=ServerConfig(num_rounds=rounds), strategy=strategy, grpc_max_message_length=MESSAGE
    )
    for client in clients:
        client.join(10)
    return strategy.seconds()


if __name__ == "__main__":
    mode, *numbers = sys.argv[1:]
    seconds = {"simulation": simulation, "network": network}[mode](*map(int, numbers))
    print(json.dumps(seconds), flush=True)

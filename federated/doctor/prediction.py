"""How long the network alone makes a query of a shared model last: from its rounds and bytes, and how far away the nodes are.

What the processors take comes on top; on one machine that is nearly all.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.address import Address
from federated.doctor.diagnosis import Diagnosis
from federated.doctor.nodes import round_trip
from protocols.client.connection import connect
from protocols.errors import ProtocolError
from protocols.mpc.engine.loops import Costs, costs
from protocols.mpc.program import infer
from protocols.owner.cluster import Cluster


@dataclass(frozen=True)
class Route:
    """The way of a query.

    Attributes:
        servers: seconds of a round trip from here to each server.
        provider: seconds of one to the crypto provider.
        bandwidth: bits per second between the servers; None: bytes are taken to cost nothing.
    """

    servers: tuple[float, float]
    provider: float
    bandwidth: float | None = None

    def seconds(self, cost: Costs) -> float:
        """Return how long the network makes a query last.

        A ticket comes from the provider, the input goes to both servers and the shares of the answer come back: two round trips. In
        between, each round of the servers takes half a round trip. They are taken to be as far from each other as the farther is from here.
        """
        farther = max(self.servers)
        sent = 0.0 if self.bandwidth is None else 8 * cost.sent / self.bandwidth
        return self.provider + farther + cost.rounds * farther / 2 + sent


async def predicted(cluster: Cluster, model: str, examples: int, bandwidth: float | None) -> Diagnosis:
    """Say how long the network makes a query last.

    Args:
        cluster: whose workers share the model.
        model: its name.
        examples: how many are asked for at once.
        bandwidth: bits per second between the servers; None: not known.
    """
    about = f"{model}: a query"
    try:
        async with connect(cluster, model) as remote:
            cost = costs(remote.program.ops, infer(remote.program), examples)
        first, second, provider = [await round_trip(Address.parse(worker.url)) for worker in cluster.workers]
    except (ProtocolError, OSError, TimeoutError) as error:
        why = str(error) if isinstance(error, ProtocolError) else type(error).__name__
        return Diagnosis(about, "fault", f"cannot be predicted: {why}", "is it shared, and do the workers run?")
    route = Route((first, second), provider, bandwidth)
    seconds = route.seconds(cost)
    without = "" if bandwidth is not None else "; with --bandwidth also what these bytes take"
    text = (
        f"{seconds * 1e3:.1f} ms of network for {examples} examples: {cost.rounds} rounds, {cost.sent:,} bytes between the servers each way"
    )
    return Diagnosis(
        about, "ok", f"{text}{without}; computing comes on top", figures={"seconds": seconds, "rounds": cost.rounds, "sent": cost.sent}
    )

"""Nodes of a cluster file that the aggregator connects to, in one process: their addresses, what they print, what they leave."""

import asyncio
import sys

import pytest

from certified import FEDERATION
from federated.machines import node
from federated.machines.cluster_file import ClusterFile
from federated.machines.cluster_status import states

HUB = """
[nodes.hub]
role = "aggregator"
address = "ws://localhost:9000"
listen = "ws://127.0.0.1:0"
federation = "clinic:federation"
rounds = 2
wait = 0
patience = 0.5
save = "model.keras"
"""
OWNER = '\n[nodes.{name}]\nrole = "owner"\ndata = "clinic:data"\nevaluation = "clinic:data"\naddress = "{address}"\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Writes the cluster file with owners at addresses."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "clinic.py").write_text(FEDERATION)

    def write(**addresses):
        path = tmp_path / "cluster.toml"
        path.write_text(HUB + "".join(OWNER.format(name=name, address=address) for name, address in addresses.items()))
        return ClusterFile.read(path)

    return write


async def test_owners_with_addresses_are_connected_to(place, tmp_path):
    said = asyncio.Queue()
    owner = asyncio.create_task(node.run("a", place(a="ws://127.0.0.1:0"), None, said.put_nowait))
    try:
        address = (await said.get()).removeprefix("ready ")
        cluster, lines = place(a=address, b="ws://127.0.0.1:1"), []
        await node.run("hub", cluster, None, lines.append)
        found = {one.name: one for one in await states(cluster, node.encryption(cluster, None, "hub"))}
    finally:
        owner.cancel()
        await asyncio.gather(owner, return_exceptions=True)
    assert [line.split(", ")[0] for line in lines if line.startswith("round")] == ["round 1: 1 of 2 owners", "round 2: 1 of 2 owners"]
    assert sum(line.startswith("  b dropped: OwnerDropped: b is away: nobody answers at ws://127.0.0.1:1") for line in lines) == 2
    assert (tmp_path / "model.keras").is_file()
    assert {name: one.ready for name, one in found.items()} == {"hub": False, "a": True, "b": False}
    assert found["a"].role == "owner"
    assert "nobody answers" in found["hub"].text

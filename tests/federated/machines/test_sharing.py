"""`confide share` among machines of a cluster file, over TLS: data come, are listed, found by those who may, and removed."""

import asyncio
import contextlib
import os
import stat
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from certified import free_ports
from federated import ClusterFileError, computing_cluster
from federated.command import app
from federated.machines.certificates import issue
from protocols.errors import NotGranted

ROOT = Path(__file__).parents[3]
CONFIDE = (sys.executable, "-m", "federated.command")
ROLES = {"julia": "server", "greg": "server", "me": "crypto_provider", "ward": "client", "analyst": "client", "stranger": "client"}


async def begun(folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return await asyncio.create_subprocess_exec(*CONFIDE, *arguments, cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT)


async def confide(folder, *arguments):
    process = await begun(folder, *arguments)
    return (await process.communicate())[0].decode(), process.returncode


def place(folder, addresses):
    nodes = []
    for name, role in ROLES.items():
        where = f'address = "{addresses[name]}"\ndata = "shares-of-{name}"\n' if role != "client" else ""
        nodes.append(f'[nodes.{name}]\nrole = "{role}"\n{where}')
    (folder / "cluster.toml").write_text("\n".join(nodes))


@contextlib.asynccontextmanager
async def running(folder):
    """The three workers of a cluster file, each with a folder for shares."""
    issue({name: None if role == "client" else "127.0.0.1" for name, role in ROLES.items()}, folder / "keys")
    workers = [name for name, role in ROLES.items() if role != "client"]
    addresses = {name: f"wss://127.0.0.1:{port}" for name, port in zip(workers, free_ports(3), strict=True)}
    place(folder, addresses)
    workers = {name: await begun(folder, "run", name, "--keys", "keys") for name in workers}
    try:
        assert {name: (await worker.stdout.readline()).decode().split()[1] for name, worker in workers.items()} == addresses
        yield
    finally:
        for worker in workers.values():
            worker.terminate()
            await worker.communicate()


@pytest.mark.long
async def test_an_owner_shares_a_file_and_goes(tmp_path):
    (tmp_path / "ward.csv").write_text("id,age,weight,ill\np1,0.5,0.1,1\np2,0.25,0.2,0\np3,0.125,0.3,1\n")
    np.save(tmp_path / "lab.npy", np.eye(3))
    sharing = ("share", "--cluster", "cluster.toml")
    async with running(tmp_path):
        shown, code = await confide(tmp_path, *sharing, "--as", "ward", "ward.csv", "--labels", "ill", "--ids", "id", "--for", "analyst")
        assert code == 0, shown
        assert "ward.x" in shown
        assert "analyst" in shown
        for name in ("ward.owner.json", "ward.grant.json"):
            assert stat.S_IMODE((tmp_path / "grants" / name).stat().st_mode) == 0o600
        shown, code = await confide(tmp_path, *sharing, "ward.csv")
        assert code == 1
        assert "is there already: it is the right to data shared before" in shown
        shown, code = await confide(tmp_path, *sharing, "ward.csv", "--out", "elsewhere", "--labels", "ill", "--ids", "id")
        assert code == 1
        assert "'ward.x' are kept here already" in shown
        assert not list((tmp_path / "elsewhere").iterdir())
        shown, code = await confide(tmp_path, *sharing, "lab.npy", "--out", "other")
        assert code == 0, shown
        shown, code = await confide(tmp_path, *sharing, "--list")
        assert code == 0
        rows = [line.split("│")[1:-1] for line in shown.splitlines() if "│" in line]
        assert [[cell.strip() for cell in row] for row in rows] == [
            ["lab", "3", "3", "numbers", "no", "whoever has the grant"],
            ["ward.x", "3", "2", "numbers", "yes", "analyst"],
            ["ward.y", "3", "2", "labels", "yes", "analyst"],
        ]
        path = tmp_path / "cluster.toml"
        async with computing_cluster(path, name="analyst") as cluster:  # by certificate alone
            assert (await cluster.load("ward.x")).shape == (3, 2)
            with pytest.raises(NotGranted):
                await cluster.load("lab")
            assert (await cluster.load("lab", grants=tmp_path / "other" / "lab.grant.json")).shape == (3, 3)
        async with computing_cluster(path, name="stranger") as cluster:
            with pytest.raises(NotGranted, match=r"'ward\.x' may not be used"):
                await cluster.load("ward.x")
            assert (await cluster.load("ward.x", grants=tmp_path / "grants")).shape == (3, 2)
        shown, code = await confide(tmp_path, *sharing, "--delete", "grants/ward.grant.json")
        assert code == 1
        assert "its owner has the one that does" in shown
        shown, code = await confide(tmp_path, *sharing, "--delete", "grants/ward.owner.json")
        assert (code, shown) == (0, "removed ward.x\nremoved ward.y\n")
        assert not list(tmp_path.glob("shares-of-*/data/ward*"))
        shown, code = await confide(tmp_path, "status", "--cluster", "cluster.toml")
        assert code == 0, shown
        assert shown.count("it runs nothing") == 3


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((), "give one of: a file to share, --list, or --delete"),
        (("--list", "a.npy"), "give one of"),
        (("--list",), "give --worker three times"),
        (("--list", "--worker", "a:1"), "give --worker three times"),
        (("--list", "--worker", "localhost:1", "--worker", "localhost:2", "--worker", "localhost:3"), "confide worker"),
        (("--list", "--cluster", "cluster.toml"), "has 1 servers and 0 crypto providers"),
    ],
)
def test_what_cannot_be_meant(tmp_path, monkeypatch, arguments, match):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    (tmp_path / "cluster.toml").write_text('[nodes.julia]\nrole = "server"\naddress = "ws://127.0.0.1:4000"\n')
    result = CliRunner().invoke(app, ["share", *arguments])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert match in result.output


async def test_a_client_runs_nothing(tmp_path):
    (tmp_path / "cluster.toml").write_text('[nodes.ward]\nrole = "client"\n')
    shown, code = await confide(tmp_path, "run", "ward")
    assert code == 1
    assert "runs nothing" in shown
    with pytest.raises(ClusterFileError, match="two and one are needed"):
        computing_cluster(tmp_path / "cluster.toml")

"""What `confide` says to a person: tables, and one line for what went wrong."""

import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from federated.command import app
from protocols.demonstration import digits

CLUSTER = """
[nodes.hub]
role = "aggregator"
address = "wss://127.0.0.1:0"
federation = "a_hospital:federation"
rounds = 1

[nodes.a]
role = "owner"
data = "a_hospital:data"
"""


@pytest.fixture
def confide(tmp_path, monkeypatch):
    """Runs the command in a folder with a cluster file; gives its exit code and what it prints."""
    (tmp_path / "cluster.toml").write_text(CLUSTER)
    (tmp_path / "a_hospital.py").write_text("def federation(owners):\n    return owners\ndef data(name):\n    return object()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        return result.exit_code, result.output

    return run


def test_certificates_are_made_once(confide, tmp_path):
    code, out = confide("certs", "cluster.toml", "--out", "keys", "--days", "30")
    assert code == 0
    assert "2 certificates in keys, valid for 30 days" in out
    assert "ca.pem hub.pem hub.key" in out
    before = (tmp_path / "keys" / "hub.key").read_bytes()
    code, out = confide("certs", "cluster.toml", "--out", "keys")
    assert code == 1
    assert "keys/ca.pem" in out
    assert "--force" in out
    assert (tmp_path / "keys" / "hub.key").read_bytes() == before
    assert confide("certs", "cluster.toml", "--out", "keys", "--force")[0] == 0
    assert (tmp_path / "keys" / "hub.key").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "c"], "has no node 'c'; it has hub, a"),
        (["run", "a", "--cluster", "other.toml"], "other.toml cannot be read"),
        (["run", "a"], "give the folder of the certificates with --keys"),
        (["run", "a", "--keys", "nowhere"], "nowhere/a.pem is missing"),
        (["certs", "other.toml"], "other.toml cannot be read"),
        (["status"], "give either addresses of workers, or --cluster"),
        (["status", "localhost:1", "--cluster", "cluster.toml"], "give either addresses of workers, or --cluster"),
        (["status", "localhost"], "'localhost' is not the address of a worker"),
    ],
)
def test_what_a_person_gets_wrong_is_said_in_one_line(confide, arguments, says):
    code, out = confide(*arguments)
    assert code == 1
    assert says in out
    assert len(out.splitlines()) == 1


def test_code_that_is_no_federation_and_no_data(confide):
    confide("certs")
    code, out = confide("run", "hub", "--keys", "keys")
    assert code == 1
    assert "'a_hospital:federation' returned a JoiningOwners" in out
    code, out = confide("run", "a", "--keys", "keys")
    assert code == 1
    assert "a object is no data" in out


def test_status_of_nobody(confide):
    with socket.socket() as bound:  # takes a port and does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        code, out = confide("status", f"localhost:{port}")
        assert code == 1
        assert "unreachable" in out


@pytest.mark.long
def test_the_demonstration(confide):
    code, out = confide("demo", "--images", "2")
    assert code == 0
    assert out.count("bytes between the servers") == 2
    assert "the same answer as Keras for 2 of 2 images" in out


def test_the_digits_in_the_package_are_those_of_the_examples():
    data = digits()
    with np.load(Path(__file__).parents[3] / "examples" / "mnist_10k.npz") as file:
        assert (data.x_train[..., 0] == file["x_train"][:1500] / np.float32(255)).all()
        assert (data.y_train == file["y_train"][:1500]).all()
        assert (data.x_test[..., 0] == file["x_test"][:100] / np.float32(255)).all()
        assert (data.y_test == file["y_test"][:100]).all()

"""What a cluster file says, and what is refused, with words that tell what to do."""

import sys
import textwrap

import pytest

from federated.errors import ClusterFileError
from federated.machines.cluster_file import AggregatorNode, ClusterFile, OwnerNode
from protocols.nodes.worker_nodes import ServerNode

GOOD = """
[nodes.hub]
role = "aggregator"
address = "wss://hub.example:9000"
listen = "wss://0.0.0.0:9000"
federation = "wards:federation"
rounds = 3

[nodes.ward-1]
role = "owner"
data = "wards:data"

[nodes.ward-2]
role = "owner"
data = "wards:data"
evaluation = "wards:evaluation"
address = "wss://[2001:db8::7]:9001"

[nodes.julia]
role = "server"
address = "wss://julia.example:4000"

[nodes.me]
role = "crypto_provider"
address = "wss://me.example:4000"
"""


def read(folder, text: str) -> ClusterFile:
    path = folder / "cluster.toml"
    path.write_text(textwrap.dedent(text))
    return ClusterFile.read(path)


def test_a_file_with_all_roles(tmp_path):
    cluster = read(tmp_path, GOOD)
    assert list(cluster.nodes) == ["hub", "ward-1", "ward-2", "julia", "me"]
    assert isinstance(cluster.node("julia"), ServerNode)
    assert cluster.aggregator == AggregatorNode("wss://hub.example:9000", "wards:federation", 3, "wss://0.0.0.0:9000")
    assert cluster.owners["ward-1"] == OwnerNode("wards:data")
    assert cluster.encrypted
    hosts = {"hub": "hub.example", "ward-1": None, "ward-2": "2001:db8::7", "julia": "julia.example", "me": "me.example"}
    assert cluster.hosts == hosts


def test_the_file_of_the_interface(tmp_path):
    cluster = read(tmp_path, '[nodes.julia]\nrole = "server"\naddress = "wss://julia.example:4000"\n')
    assert cluster.node("julia") == ServerNode("wss://julia.example:4000")


HUB = '[nodes.hub]\nrole = "aggregator"\naddress = "ws://127.0.0.1:9000"\nfederation = "wards:federation"\nrounds = 3\n'
WARD = '[nodes.ward]\nrole = "owner"\ndata = "wards:data"\n'
JULIA = '[nodes.julia]\nrole = "server"\naddress = "ws://127.0.0.1:4000"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes", "is not TOML"),
        ("", r"no \[nodes.NAME\] table"),
        ("nodes = 3", r"no \[nodes.NAME\] table"),
        ("[nodes]", r"no \[nodes.NAME\] table"),
        ("colour = 1\n" + JULIA, "'colour': expected"),
        ("allow_plaintext = 1\n" + JULIA, "allow_plaintext = 1: expected true or false"),
        ('[nodes."a b"]\nrole = "server"\naddress = "ws://127.0.0.1:1"', r"\[nodes.a b\]: a name has letters"),
        ('[nodes.ca]\nrole = "server"\naddress = "ws://127.0.0.1:1"', "is not 'ca'"),
        ("[nodes]\njulia = 3", r"\[nodes.julia\]: Expected `object`, got `int`"),
        ("[nodes.julia]", r"\[nodes.julia\]: .*missing required field `role`"),
        (
            '[nodes.julia]\nrole = "boss"',
            r"\[nodes.julia\]: role = 'boss' is none; the roles are server, crypto_provider, aggregator, owner, client",
        ),
        ('[nodes.julia]\nrole = "serverr"', r"\[nodes.julia\]: role = 'serverr' is none: did you mean server\?"),
        ('[nodes.julia]\nrole = "server"', r"\[nodes.julia\]: .*missing required field `address`"),
        (
            JULIA + "adress = 1",
            r"\[nodes.julia\]: .*unknown field `adress`: did you mean address\?; a node with role = 'server' has address, listen",
        ),
        (JULIA.replace("ws://127.0.0.1:4000", "julia:4000"), r"\[nodes.julia\]: 'julia:4000' .* expected .*such as 'ws://127.0.0.1:4000'"),
        (JULIA.replace("127.0.0.1", "julia.example"), r"\[nodes.julia\]: ws://julia.example:4000 is not encrypted"),
        (JULIA.replace("127.0.0.1", "0.0.0.0"), r"\[nodes.julia\]: ws://0.0.0.0:4000 is not encrypted"),
        (JULIA.replace("ws://127.0.0.1", "wss://0.0.0.0"), r"\[nodes.julia\]: nobody can connect to wss://0.0.0.0:4000"),
        (JULIA + 'listen = "wss://127.0.0.1:4000"', "needs an address with the same scheme"),
        (HUB + WARD + 'listen = "ws://127.0.0.1:1"', r"\[nodes.ward\]: listen = .* needs an address"),
        (HUB, "an aggregator and no owner"),
        (WARD, "owners and no aggregator"),
        (HUB + HUB.replace("hub", "hub2") + WARD, "2 nodes have role = 'aggregator'"),
        (HUB.replace("3", "0") + WARD, r"\[nodes.hub\]: Expected `int` >= 1 - at `\$.rounds`"),
        (HUB + "wait = -1\n" + WARD, r"\[nodes.hub\]: Expected `float` >= 0.0 - at `\$.wait`"),
        (HUB + "wait = nan\n" + WARD, r"\[nodes.hub\]: .*at `\$.wait`"),
        (HUB + "wait = inf\n" + WARD, r"\[nodes.hub\]: .*at `\$.wait`"),
        (HUB + 'save = "model.h5"\n' + WARD, r"\[nodes.hub\]: .* at `\$.save`"),
        (HUB + WARD.replace("wards:data", "wards.data"), r"\[nodes.ward\]: .*regex.* at `\$.data`"),
        (JULIA + JULIA.replace("julia", "greg"), "ws://127.0.0.1:4000 is the address of more than one node"),
    ],
)
def test_what_is_refused(tmp_path, text, says):
    with pytest.raises(ClusterFileError, match=says) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "cluster.toml"))


def test_plaintext_between_machines_has_to_be_asked_for_by_name(tmp_path):
    cluster = read(tmp_path, "allow_plaintext = true\n" + JULIA.replace("127.0.0.1", "julia.example"))
    assert cluster.allow_plaintext
    assert not cluster.encrypted


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(ClusterFileError, match=r"cannot be read: .*No such file"):
        ClusterFile.read(tmp_path / "cluster.toml")
    (tmp_path / "cluster.toml").write_bytes(b"\xff")
    with pytest.raises(ClusterFileError, match="cannot be read"):
        ClusterFile.read(tmp_path / "cluster.toml")


def test_a_node_that_is_not_there(tmp_path):
    with pytest.raises(ClusterFileError, match="no node 'greg'; it has julia"):
        read(tmp_path, JULIA).node("greg")
    with pytest.raises(ClusterFileError, match="no node with role = 'aggregator'"):
        _ = read(tmp_path, JULIA).aggregator


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A cluster file with code beside it, in a module of a name of its own."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "some_ward.py").write_text("number = 3\ndef data(name):\n    return name * 2\n")
    (tmp_path / "broken_ward.py").write_text("import no_such_module\n")
    return read(tmp_path, JULIA)


def test_code_beside_the_file_is_found(code):
    assert code.load("some_ward:data")("ab") == "abab"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("other_ward:data", "other_ward cannot be imported: ModuleNotFoundError"),
        ("broken_ward:data", "broken_ward cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("some_ward:evaluation", "some_ward has no function 'evaluation'"),
        ("some_ward:number", "some_ward has no function 'number'"),
    ],
)
def test_code_that_cannot_be_used(code, name, says):
    with pytest.raises(ClusterFileError, match=says):
        code.load(name)

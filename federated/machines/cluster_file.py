"""cluster.toml: which machines there are, what each is for and where it is reached. The same file for everyone.

message_limit = 4_294_967_296          # bytes of the largest message that each node takes; 1 GiB without this line

[nodes.hub]
role = "aggregator"
address = "wss://hub.example:9000"
federation = "hospitals:federation"    # in hospitals.py beside this file, on that machine: owners -> Federation
rounds = 50

[nodes.ward-1]                         # without an address: it connects to the aggregator, and may be behind NAT
role = "owner"
data = "hospitals:data"                # name of the node -> (x, y), or a data set

[nodes.julia]
role = "server"                        # or "crypto_provider"
address = "wss://julia.example:4000"
data = "shares"                        # folder for shares that stay, beside this file

[nodes.analyst]                        # shares data or models, trains, or asks: has a certificate, runs nothing
role = "client"
may = ["ask"]                          # only asks; without this line also "share"

[models]
mnist = "ward-1"                       # nobody else may share a model of this name; other names are free

[admission]                            # see protocols/authority/admission.py
roles = "required"                     # certificates that say no role are refused
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import msgspec

from actors import limits
from actors.address import NAME, Address
from actors.errors import InsecureAddress, LinkError
from federated.errors import ClusterFileError
from protocols.authority.admission import AdmissionSettings
from protocols.errors import ClusterError
from protocols.nodes.misspelt import misspelt, unknown_field
from protocols.nodes.worker_nodes import IN_THE_CLEAR, CryptoProviderNode, ServerNode, three_workers

Code: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function")]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]


class AggregatorNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="role", tag="aggregator"):
    """Who plays the rounds.

    Attributes:
        address: that owners and others reach it at.
        federation: code: owners -> `Federation` of them.
        rounds: how many are played, at least 1.
        listen: the address that it binds, if that is another one.
        wait: seconds that the first round waits for all owners.
        patience: seconds that a round waits for an owner that is away before it is dropped.
        save: file for the model when all rounds are over, `.keras`, beside the cluster file; None: none.
    """

    address: str
    federation: Code
    rounds: Annotated[int, msgspec.Meta(ge=1)]
    listen: str | None = None
    wait: Seconds = 60.0
    patience: Seconds = 5.0
    save: Annotated[str, msgspec.Meta(pattern=r"\.keras$")] | None = None


class OwnerNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="role", tag="owner"):
    """Who has data.

    Attributes:
        data: code: the name of the node -> its data, see `DataOwner`.
        evaluation: code: the name of the node -> its evaluation data; None: it has none.
        address: that the aggregator reaches it at; None: it connects to the aggregator.
        listen: the address that it binds, if that is another one.
    """

    data: Code
    evaluation: Code | None = None
    address: str | None = None
    listen: str | None = None


class ClientNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="role", tag="client"):
    """Who shares data or models, trains or asks, and runs nothing that others connect to: it needs a certificate only.

    Attributes:
        may: what the workers let the holder of its certificate do: "share" (leave data and models with them, and train), "ask"; "watch":
            read the metrics of all nodes.
    """

    may: tuple[Literal["share", "ask", "watch"], ...] = ("share", "ask")
    address: None = None
    listen: None = None


Node: TypeAlias = ServerNode | CryptoProviderNode | AggregatorNode | OwnerNode | ClientNode


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file that was read and checked.

    Attributes:
        path: of the file.
        nodes: by name.
        allow_plaintext: whether `ws://` may be used between machines.
        models: name of a model -> the node that alone may share it.
        message_limit: bytes of the largest message that each node takes.
        admission: what it demands of certificates.
    """

    path: Path
    nodes: Mapping[str, Node]
    allow_plaintext: bool = False
    models: Mapping[str, str] = field(default_factory=dict)
    message_limit: int = limits.MESSAGE_LIMIT
    admission: AdmissionSettings = field(default_factory=AdmissionSettings)

    @staticmethod
    def read(path: Path) -> ClusterFile:
        """Read and check a cluster file.

        Raises:
            ClusterFileError: it is not there, is no TOML, or says what cannot be; with the node and what was expected.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterFileError(f"{path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise ClusterFileError(f"{path} is not TOML: {error}") from None
        try:
            return _checked(path, content)
        except ClusterFileError as error:
            raise ClusterFileError(f"{path}: {error}") from None

    def node(self, name: str) -> Node:
        """Return the node of a name.

        Raises:
            ClusterFileError: there is none.
        """
        if name not in self.nodes:
            raise ClusterFileError(f"{self.path} has no node {name!r}; it has {', '.join(self.nodes)}")
        return self.nodes[name]

    @property
    def workers(self) -> dict[str, ServerNode | CryptoProviderNode]:
        """The three workers by name, in the order of their cluster: two servers and the crypto provider, or three servers, who are equals.

        Raises:
            ClusterFileError: there are others.
        """
        try:
            return three_workers(self.path, self.nodes)
        except ClusterError as error:
            raise ClusterFileError(str(error)) from None

    @property
    def equals(self) -> bool:
        """Whether the three workers are equals, without a crypto provider."""
        return not any(isinstance(node, CryptoProviderNode) for node in self.nodes.values())

    @property
    def roles(self) -> dict[str, str]:
        """The role of each node, as it is written."""
        return {name: str(node.__struct_config__.tag) for name, node in self.nodes.items()}

    @property
    def hosts(self) -> dict[str, str | None]:
        """The host of each node; None: it has no address."""
        return {name: None if node.address is None else Address.parse(node.address).host for name, node in self.nodes.items()}

    @property
    def aggregator(self) -> AggregatorNode:
        """The aggregator. Files with owners have one.

        Raises:
            ClusterFileError: there is none.
        """
        for node in self.nodes.values():
            if isinstance(node, AggregatorNode):
                return node
        raise ClusterFileError(f"{self.path} has no node with role = 'aggregator'")

    @property
    def owners(self) -> dict[str, OwnerNode]:
        """The owners, by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, OwnerNode)}

    @property
    def encrypted(self) -> bool:
        """Whether any node is reached at wss://, so that certificates are needed."""
        return any(node.address is not None and node.address.startswith("wss://") for node in self.nodes.values())

    def load(self, code: str) -> Callable[..., Any]:
        """Load the function that "module:function" names, from the folder of this file or from what is installed. It runs as it is.

        Raises:
            ClusterFileError: there is no such module or function, or the module cannot be imported.
        """
        module, _, function = code.partition(":")
        folder = str(self.path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found = getattr(importlib.import_module(module), function, None)
        except Exception as error:
            raise ClusterFileError(
                f"{code!r}: {module} cannot be imported: {type(error).__name__}: {error} (looked in {folder})"
            ) from error
        if not callable(found):
            raise ClusterFileError(f"{code!r}: {module} has no function {function!r}")
        return found  # type: ignore[no-any-return]  # any callable


def _checked(path: Path, content: dict[str, Any]) -> ClusterFile:
    nodes, plaintext = content.pop("nodes", None), content.pop("allow_plaintext", False)
    models, limit = content.pop("models", {}), content.pop("message_limit", limits.MESSAGE_LIMIT)
    admits = content.pop("admission", {})
    if content:
        raise ClusterFileError(
            f"{', '.join(map(repr, content))}: expected [nodes.NAME] tables, [models], [admission], allow_plaintext and message_limit only"
        )
    if isinstance(admits, dict) and (why := unknown_field(admits, AdmissionSettings.__struct_fields__, "it")):
        raise ClusterFileError(f"[admission]: {why}")
    try:
        admission = msgspec.convert(admits, AdmissionSettings)
    except msgspec.ValidationError as error:
        raise ClusterFileError(f"[admission]: {error}") from None
    try:
        limits.message_limit(limit)
    except (TypeError, ValueError) as error:
        raise ClusterFileError(str(error)) from None
    if not isinstance(nodes, dict) or not nodes:
        raise ClusterFileError("there is no [nodes.NAME] table: each machine needs one, with its role")
    if not isinstance(plaintext, bool):
        raise ClusterFileError(f"allow_plaintext = {plaintext!r}: expected true or false")
    if not isinstance(models, dict) or not all(isinstance(node, str) and node in nodes for node in models.values()):
        raise ClusterFileError("[models]: expected lines NAME = 'NODE', a model and the node that alone may share it")
    cluster = ClusterFile(path, {name: _node(name, table) for name, table in nodes.items()}, plaintext, models, limit, admission)
    for name, node in cluster.nodes.items():
        _check_addresses(name, node, plaintext)
    _check_roles(cluster)
    if admits and not cluster.encrypted:
        raise ClusterFileError("[admission] is about certificates, and no node has a wss:// address: nobody would show one")
    return cluster


def _node(name: str, table: object) -> Node:
    if not NAME.fullmatch(name) or name == "ca":
        raise ClusterFileError(
            f"[nodes.{name}]: a name has letters, digits, '.', '_' and '-', begins with one of the first two, and is not 'ca'"
        )
    if why := misspelt(table, get_args(Node)):
        raise ClusterFileError(f"[nodes.{name}]: {why}")
    try:
        return msgspec.convert(table, Node)  # type: ignore[no-any-return]  # a union of structs
    except msgspec.ValidationError as error:
        raise ClusterFileError(f"[nodes.{name}]: {error}") from None


def _check_addresses(name: str, node: Node, allow_plaintext: bool) -> None:
    for address in (node.address, node.listen):
        if address is not None:
            try:
                parsed = Address.parse(address)
                parsed.check_encryption(allow_plaintext)
            except InsecureAddress:
                raise ClusterFileError(f"[nodes.{name}]: {parsed} {IN_THE_CLEAR}") from None
            except LinkError as error:
                raise ClusterFileError(f"[nodes.{name}]: {error}") from None
    if node.address is not None and Address.parse(node.address).wildcard:
        raise ClusterFileError(f"[nodes.{name}]: nobody can connect to {node.address}: give the name of the machine, and this as listen =")
    if node.listen is not None and (node.address is None or node.address.startswith("wss") != node.listen.startswith("wss")):
        raise ClusterFileError(f"[nodes.{name}]: listen = {node.listen!r} needs an address with the same scheme, that others reach it at")


def _check_roles(cluster: ClusterFile) -> None:
    count = sum(isinstance(node, AggregatorNode) for node in cluster.nodes.values())
    if count > 1:
        raise ClusterFileError(f"{count} nodes have role = 'aggregator': a federation has one")
    if cluster.owners and not count:
        raise ClusterFileError("there are owners and no aggregator: a federation needs both")
    if count and not cluster.owners and not cluster.aggregator.address.startswith("wss"):
        raise ClusterFileError(
            "there are an aggregator and no owner: a federation needs both. Over wss:// owners may join by their certificates without being"
            " in the file"
        )
    addresses = [node.address for node in cluster.nodes.values() if node.address is not None and not node.address.endswith(":0")]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise ClusterFileError(f"{', '.join(twice)} is the address of more than one node")

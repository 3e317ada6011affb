"""The nodes of a cluster file, as they are seen from here: certificates, ports, whether they answer, round trips, clocks."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import perf_counter

from actors.address import Address
from actors.credentials.files import credentials_of
from actors.credentials.periods import WARN_DAYS
from actors.observing.pages import HEALTH
from federated.doctor.diagnosis import Diagnosis, Verdict
from federated.errors import KeysError
from federated.machines import node
from federated.machines.cluster_file import ClusterFile
from federated.machines.cluster_status import NodeState, states
from federated.machines.node_figures import page
from protocols.workers.worker_process import Encryption

TRIES = 5
"""Connections of which the fastest is the round trip."""
WITHIN = 5.0
"""Seconds that a connection may take."""
SKEW, MOST_SKEW = 2.0, 60.0
"""Seconds that clocks may differ: more is a warning, or a fault. A page says whole seconds: half of one is not seen."""


async def nodes(cluster: ClusterFile, keys: Path | None, encryption: Encryption) -> list[Diagnosis]:
    """Look at all nodes of a cluster file.

    Args:
        cluster: the file.
        keys: folder with certificates; None: there is no TLS.
        encryption: to connect with.
    """
    found = [finding for name in cluster.nodes for finding in _certificate(cluster, keys, name)]
    ports = {name: _port(Address.parse(one.listen or one.address)) for name, one in cluster.nodes.items() if one.address}
    told = await states(cluster, encryption, keys)
    for each, state in zip(await asyncio.gather(*(_node(cluster, state, encryption, ports) for state in told)), told, strict=True):
        found += each
        days = state.days(datetime.now(UTC))
        if state.until is not None and days is not None:
            verdict: Verdict = "fault" if days < 0 else "warning" if days < WARN_DAYS else "ok"
            todo = "" if verdict == "ok" else f"confide certs renew {state.name}"
            text = f"is valid until {state.until:%Y-%m-%d}, {days} days" if days >= 0 else f"expired on {state.until:%Y-%m-%d}"
            found.append(Diagnosis(f"{state.name}: certificate", verdict, text, todo, {"days": days}))
    return found


def _certificate(cluster: ClusterFile, keys: Path | None, name: str) -> list[Diagnosis]:
    """Look at the files of a node whose key is here."""
    if keys is None or not cluster.encrypted or not (keys / f"{name}.key").exists():
        return []
    about = f"{name}: files"
    try:
        credentials = credentials_of(node.encryption(cluster, keys, name).connect)
    except KeysError as error:
        return [Diagnosis(about, "fault", str(error), "confide certs makes them; see confide certs --help")]
    assert credentials is not None
    if credentials.own.name != name:
        todo = f"put the certificate of {name} there"
        return [Diagnosis(about, "fault", f"{keys / name}.pem is the certificate of {credentials.own.name!r}", todo)]
    late = credentials.concerns(days=0)
    concerns = [
        Diagnosis(about, "fault" if one in late else "warning", one, "see confide certs --help") for one in credentials.concerns(days=30)
    ]
    return concerns or [Diagnosis(about, "ok", credentials.summary())]


def _port(address: Address) -> str:
    """Whether a port of this machine is "free" or "taken"; empty: it is none of this machine, or any that is free."""
    if address.port == 0:
        return ""
    with contextlib.suppress(socket.gaierror):
        family, kind, number, _, place = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, number) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the node itself does
            try:
                one.bind(place)
            except OSError as error:
                return "taken" if error.errno in (errno.EADDRINUSE, errno.EACCES) else ""
            return "free"
    return ""


async def _node(cluster: ClusterFile, state: NodeState, encryption: Encryption, ports: dict[str, str]) -> list[Diagnosis]:
    configured = cluster.nodes.get(state.name)
    about = f"{state.name}: answers"
    if configured is None or configured.address is None:
        verdict: Verdict = "ok" if state.ready else "warning"
        return [Diagnosis(about, verdict, state.text, "" if state.ready else "start it on its machine")]
    if not state.ready:
        match ports.get(state.name):
            case "free":
                return [Diagnosis(about, "warning", "does not run; its port here is free", f"confide run {state.name}")]
            case "taken":
                todo = "end what has its port, or give the node another"
                return [Diagnosis(about, "fault", f"its port here is taken, and this is no node of the cluster: {state.text}", todo)]
        return [Diagnosis(about, "fault", state.text, "start it there; is the port open in the firewall?")]
    address = Address.parse(configured.address)
    return [
        Diagnosis(about, "ok", state.text or "ready"),
        await _distance(state.name, address),
        await _clock(state.name, address, encryption),
    ]


async def round_trip(address: Address) -> float:
    """Return the seconds of a round trip: the fastest of some TCP connections, each of which takes one.

    Raises:
        OSError, TimeoutError: nobody is there.
    """
    took = []
    for _ in range(TRIES):
        began = perf_counter()
        async with asyncio.timeout(WITHIN):
            _, writer = await asyncio.open_connection(address.host, address.port)
        took.append(perf_counter() - began)
        writer.transport.abort()
    return min(took)


async def _distance(name: str, address: Address) -> Diagnosis:
    about = f"{name}: round trip"
    try:
        seconds = await round_trip(address)
    except (OSError, TimeoutError) as error:
        return Diagnosis(about, "fault", f"{address} does not answer: {type(error).__name__}", "is the connection stable?")
    return Diagnosis(about, "ok", f"{seconds * 1e3:.2f} ms", figures={"seconds": seconds})


async def _clock(name: str, address: Address, encryption: Encryption) -> Diagnosis:
    about = f"{name}: clock"
    began, started = datetime.now(UTC), perf_counter()
    try:
        shown = await asyncio.to_thread(page, address, encryption.connect, HEALTH)
        there = parsedate_to_datetime(shown.date)
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        return Diagnosis(about, "warning", f"cannot be read: {type(error).__name__}", f"compare it: {name}'s own `date -u`")
    middle = began.timestamp() + (perf_counter() - started) / 2
    skew = there.timestamp() + 0.5 - middle
    figures = {"seconds": skew}
    if abs(skew) <= SKEW:
        return Diagnosis(about, "ok", f"{skew:+.1f} s, to half a second", figures=figures)
    verdict: Verdict = "fault" if abs(skew) > MOST_SKEW else "warning"
    todo = "set the clocks (NTP): certificates and rights count by them"
    return Diagnosis(about, verdict, f"is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the clock here", todo, figures)

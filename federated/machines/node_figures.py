"""The figures of a node, read from its `/metrics` as Prometheus reads them: for `confide status --json`."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import NamedTuple

from actors.address import Address
from actors.guard.words import shown
from actors.identity.published import kept_in_the_clear, reached
from actors.observing.audit_log import head_of
from actors.observing.pages import METRICS

WITHIN = 5.0
"""Seconds that a node has to answer."""
MOST = 8 << 20
"""Bytes of an answer that are read."""
KEPT = ("confide_", "process_resident_memory_bytes", "process_open_fds", "process_cpu_seconds_total", "process_start_time_seconds")
LEFT_OUT = ("_bucket", "_created")


@dataclass(frozen=True)
class NodeFigures:
    """What a node shows.

    Attributes:
        values: name of a figure -> the figures of that name: their labels and, under `value`, the number.
        missing: why there are none; empty if there are.
    """

    values: Mapping[str, Sequence[Mapping[str, str | float]]] = field(default_factory=dict)
    missing: str = ""

    @property
    def audit_head(self) -> str:
        """The hash of the last entry of its audit log, hexadecimal; empty if it keeps none."""
        return head_of({str(one["part"]): float(one["value"]) for one in self.values.get("confide_audit_head", ())})

    def sum(self, name: str) -> float | None:
        """Add up the figures of a name; None if there are none."""
        return sum(float(one["value"]) for one in self.values[name]) if name in self.values else None


async def figures(address: str | None, tls: SSLContext | None) -> NodeFigures:
    """Read the figures of a node.

    Args:
        address: of the node, `wss://host:port`; None: nobody can connect to it.
        tls: for wss, with a certificate that may read them.
    """
    if address is None:
        return NodeFigures(missing="nobody can connect to it: see its --metrics-port on its own machine")
    try:
        answer = await asyncio.to_thread(page, Address.parse(address), tls, METRICS)
    except (OSError, http.client.HTTPException) as error:
        return NodeFigures(missing=f"{address} does not answer: {type(error).__name__}")
    if answer.status != http.HTTPStatus.OK:
        return NodeFigures(missing=f"{address} refused: {answer.status} {shown(answer.text.strip(), 200)}")
    return NodeFigures(parsed(answer.text))


class Page(NamedTuple):
    """What a node answers to a GET: the status, the text, and the time that it has, as HTTP writes it."""

    status: int
    text: str
    date: str


def page(address: Address, tls: SSLContext | None, path: str) -> Page:
    """Get a page of a node; blocks.

    Raises:
        OSError, http.client.HTTPException: it does not answer.
    """
    if address.secure:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(address.host, address.port, timeout=WITHIN, context=tls)
    else:
        host = Address.parse(reached(address)).host if kept_in_the_clear(address) else address.host
        connection = http.client.HTTPConnection(host, address.port, timeout=WITHIN)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Page(answer.status, answer.read(MOST).decode(errors="replace"), answer.headers.get("Date", ""))
    finally:
        connection.close()


def parsed(text: str) -> dict[str, list[dict[str, str | float]]]:
    """Return the figures in a text of Prometheus, but for the buckets of histograms and what other libraries add.

    What cannot be understood is left out: the text comes from another machine.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  takes a moment, and only status reads

    found: dict[str, list[dict[str, str | float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith(KEPT) and not sample.name.endswith(LEFT_OUT):
                    labels = {shown(name, 100): shown(value, 100) for name, value in sample.labels.items()}
                    found.setdefault(sample.name, []).append({**labels, "value": float(sample.value)})
    except ValueError:
        return {}
    return found

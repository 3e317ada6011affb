"""`confide status`: whether the nodes of a cluster are there, what they do, and until when their certificates are valid."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from federated.machines.cluster_file import ClusterFile
from federated.machines.cluster_status import NodeState, asked_with, states
from federated.machines.node_figures import NodeFigures, figures
from protocols import Worker
from protocols.command import console, worker_states


@dataclass(frozen=True)
class StatusReport:
    """All nodes at one moment."""

    at: datetime
    states: list[NodeState]
    figures: list[NodeFigures]

    def json(self, warn_days: int) -> dict[str, Any]:
        """Return it for programs."""
        nodes = [self._node(one, seen, warn_days) for one, seen in zip(self.states, self.figures, strict=True)]
        return {"time": self.at.isoformat(timespec="seconds"), "ready": all(one.ready for one in self.states), "nodes": nodes}

    def _node(self, one: NodeState, seen: NodeFigures, warn_days: int) -> dict[str, Any]:
        days = one.days(self.at)
        return {
            "name": one.name,
            "role": one.role,
            "ready": one.ready,
            "text": one.text,
            "certificate_until": None if one.until is None else one.until.isoformat(timespec="seconds"),
            "certificate_days_left": days,
            "certificate_expires_soon": days is not None and days < warn_days,
            "audit_head": seen.audit_head,
            "figures": {name: [_finite(figure) for figure in kind] for name, kind in seen.values.items()},
            "figures_missing": seen.missing,
        }

    def table(self, warn_days: int, *, now: bool) -> Table:
        """Return it for people.

        Args:
            warn_days: days before a certificate expires in which that is shown as a warning.
            now: whether a column shows figures.
        """
        table = Table("node", "role", "state", "certificate", *(["now"] if now else []), "")
        for one, seen in zip(self.states, self.figures, strict=True):
            days = one.days(self.at)
            late = days is not None and days < warn_days
            until = "" if one.until is None or days is None else f"{one.until:%Y-%m-%d}, {f'{days} days left' if days >= 0 else 'expired'}"
            ready = "[green]ready[/]" if one.ready else "[red]not ready[/]"
            moment = [escape(_moment(seen))] if now else []
            table.add_row(one.name, one.role, ready, f"[yellow]{until}[/]" if late else until, *moment, escape(one.text))
        return table

    def code(self, warn_days: int) -> int:
        """Return the exit code: 1 if a node is not there, 3 if a certificate expires soon, 0 if all is well."""
        if not all(one.ready for one in self.states):
            return 1
        return 3 if any(days is not None and days < warn_days for days in (one.days(self.at) for one in self.states)) else 0


def _finite(figure: Any) -> Any:
    """Return a figure with None in place of what JSON has no number for."""
    return {**figure, "value": figure["value"] if math.isfinite(figure["value"]) else None}


def _moment(seen: NodeFigures) -> str:
    if seen.missing:
        return ""
    named = (
        ("confide_connections", "connections"),
        ("confide_messages_running", "running"),
        ("confide_model_requests_left", "requests left"),
    )
    said = [f"{value:g} {words}" for name, words in named if (value := seen.sum(name)) is not None]
    memory = seen.sum("process_resident_memory_bytes")
    return ", ".join([*said, *([] if memory is None else [f"{memory / 1e6:.0f} MB"])])


async def of_cluster(path: Path, keys: Path | None, *, numbers: bool) -> StatusReport:
    """Ask all nodes of a cluster file at once; for their figures, too, if `numbers`.

    Raises:
        ClusterFileError, KeysError: the file or the keys cannot be used.
    """
    cluster = ClusterFile.read(path)
    keys, encryption = asked_with(cluster, keys)
    found = await states(cluster, encryption, keys)
    addresses = {name: one.address for name, one in cluster.nodes.items()}
    seen = [figures(addresses.get(one.name), encryption.connect) for one in found] if numbers else []
    return StatusReport(datetime.now(UTC), found, await asyncio.gather(*seen) if numbers else [NodeFigures()] * len(found))


async def of_workers(addresses: list[str]) -> StatusReport:
    """Ask workers on this machine by their addresses.

    Raises:
        ClusterError: an address cannot be understood.
    """
    found = await worker_states(addresses)
    seen = await asyncio.gather(*(figures(Worker(address).url, None) for address in addresses))
    listed = [NodeState(address, "worker", there, text) for address, (there, text) in zip(addresses, found, strict=True)]
    return StatusReport(datetime.now(UTC), listed, list(seen))


async def show(ask: Callable[[], Awaitable[StatusReport]], warn_days: int, *, as_json: bool, watch: bool, interval: float) -> None:
    """Show what `ask` finds, once or again and again.

    Raises:
        typer.Exit: see `StatusReport.code`; where it is shown once.
    """
    while True:
        report = await ask()
        if as_json:
            print(json.dumps(report.json(warn_days)), flush=True)
        else:
            if watch:
                console.print(f"{report.at:%Y-%m-%d %H:%M:%S} UTC")
            console.print(report.table(warn_days, now=watch))
        if not watch:
            break
        await asyncio.sleep(interval)
    if code := report.code(warn_days):
        raise typer.Exit(code)

"""`confide doctor`: whether this machine, and the nodes of a cluster file, are as they should be."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from federated.certs_command import failed
from federated.command_line import KeysPath, told
from federated.errors import FederatedError
from protocols.command import console

if TYPE_CHECKING:
    from federated.doctor.diagnosis import Diagnosis

COLOURS = {"ok": "green", "warning": "yellow", "fault": "red"}


def doctor(
    cluster: Annotated[Path | None, typer.Option("--cluster", help="the cluster file; this machine alone, unless given")] = None,
    keys: KeysPath = None,
    model: Annotated[str | None, typer.Option(help="a shared model: predict how long the network makes a query of it last")] = None,
    examples: Annotated[int, typer.Option(min=1, help="in that query")] = 1,
    bandwidth: Annotated[float | None, typer.Option(min=0.001, help="Mbit/s between the servers, for that prediction")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Look at this machine, and at the nodes of a cluster file from here: what works, what does not, and what to do. Changes nothing.

    Exit code 1: there is a fault. The first node whose key is in --keys is the one that asks.
    """
    if model is not None and cluster is None:
        raise failed(FederatedError("--model is asked for at the workers of a cluster file: give --cluster"))
    told(_examine(cluster, keys, model, examples, bandwidth, as_json=as_json))


async def _examine(
    path: Path | None, keys: Path | None, model: str | None, examples: int, bandwidth: float | None, *, as_json: bool
) -> None:
    from federated.doctor.diagnosis import Diagnosis
    from federated.doctor.machine import machine

    found = machine()
    if path is not None:
        from federated.doctor.nodes import nodes
        from federated.doctor.prediction import predicted
        from federated.errors import KeysError
        from federated.machines.cluster_file import ClusterFile
        from federated.machines.cluster_status import asked_with
        from federated.machines.node import computing_cluster

        file = ClusterFile.read(path)
        try:
            keys, encryption = asked_with(file, keys)
        except KeysError as error:
            found.append(Diagnosis("certificates", "fault", str(error), "confide certs makes them; see confide certs --help"))
        else:
            found += await nodes(file, keys, encryption)
            if model is not None:
                bits = None if bandwidth is None else bandwidth * 1e6
                found.append(await predicted(computing_cluster(path, keys=keys), model, examples, bits))
    _show(found, as_json=as_json)


def _show(found: list[Diagnosis], *, as_json: bool) -> None:
    faults = any(one.verdict == "fault" for one in found)
    if as_json:
        print(json.dumps({"ok": not faults, "findings": [asdict(one) for one in found]}))
    else:
        table = Table("", "", "found", "what to do")
        for one in found:
            table.add_row(escape(one.about), f"[{COLOURS[one.verdict]}]{one.verdict}[/]", escape(one.text), escape(one.todo))
        console.print(table)
        count = Counter(one.verdict for one in found)
        console.print(f"{count['ok']} ok, {count['warning']} warnings, {count['fault']} faults")
    if faults:
        raise typer.Exit(1)

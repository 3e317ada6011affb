"""The files of `deploy/` are what systemd, Compose and Kubernetes take; skipped where a tool is missing."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MOST_EXPOSED = 2.0
"""Of `systemd-analyze security`, from 0 to 10; both units have 1.5."""


def run(*command) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    tool = shutil.which(command[0], path=places)
    if tool is None:
        pytest.skip(f"{command[0]} is not here")
    return subprocess.run([tool, *map(str, command[1:])], capture_output=True, text=True, check=False)


@pytest.fixture
def unit(tmp_path, request):
    """A unit whose program is there: that of the file is not on this machine."""
    text = request.param.read_text()
    assert "/opt/confide/bin/confide" in text
    path = tmp_path / request.param.name
    path.write_text(text.replace("/opt/confide/bin/confide", "/bin/true"))
    return path


@pytest.mark.parametrize("unit", UNITS, indirect=True, ids=lambda path: path.stem)
def test_systemd_takes_the_unit_and_finds_it_shut_in(unit):
    shown = run("systemd-analyze", "verify", "--man=no", unit)
    assert (shown.returncode, shown.stderr.strip()) == (0, "")
    shown = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposed = re.search(r"Overall exposure level.*?: ([\d.]+)", shown.stdout)
    assert exposed, shown.stderr
    assert float(exposed[1]) <= MOST_EXPOSED


def test_compose_takes_its_file_with_three_workers_and_a_hub():
    shown = run("docker-compose", "-f", DEPLOY / "container" / "compose.yaml", "config", "--services")
    assert (shown.returncode, sorted(shown.stdout.split())) == (0, ["greg", "hub", "julia", "me"]), shown.stderr


@pytest.mark.skipif(importlib.util.find_spec("kubernetes_validate") is None, reason="kubernetes-validate is not here")
def test_kubernetes_takes_its_file():
    shown = run("kubernetes-validate", "--strict", DEPLOY / "kubernetes" / "worker.yaml")
    assert (shown.returncode, shown.stdout.count("passed") + shown.stderr.count("passed")) == (0, 3), shown.stderr


def test_the_containerfile_has_no_complaints():
    shown = run("hadolint", DEPLOY / "container" / "Containerfile")
    assert (shown.returncode, shown.stdout) == (0, "")


def test_the_cluster_file_of_the_example_is_one():
    from federated.machines.cluster_file import ClusterFile

    cluster = ClusterFile.read(DEPLOY / "container" / "cluster.toml")
    assert (list(cluster.workers), cluster.aggregator.rounds) == (["julia", "greg", "me"], 50)


@pytest.mark.parametrize("name", ["systemd/confide@.service", "container/compose.yaml", "kubernetes/worker.yaml"])
def test_what_is_started_is_a_command_that_there_is(name):
    from typer.testing import CliRunner

    from federated.command import app

    text = (DEPLOY / name).read_text()
    options = set(re.findall(r"(?<![\w-])--(?:cluster|keys|log-format|metrics-port|audit)\b", text))
    assert {"--cluster", "--keys", "--log-format", "--metrics-port"} <= options
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "300"}).output
    assert all(option in shown for option in options)

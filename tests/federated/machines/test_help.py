"""How long somebody waits for `confide --help`: for what it imports, which is nothing that computes."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

ALL_HELP = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from federated.command import app

def shown(command, words):
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, (words, result.output)
    for name, inner in getattr(command, "commands", {}).items():
        shown(inner, [*words, name])

shown(get_command(app), [])
assert CliRunner().invoke(app, ["--version"]).exit_code == 0
HEAVY = ("asyncio", "cryptography", "keras", "numba", "numpy", "scipy", "ssl", "tensorflow", "websockets")
print([name for name in HEAVY if name in sys.modules])
"""


def test_no_help_of_any_command_imports_what_computes_or_connects():
    done = subprocess.run([sys.executable, "-c", ALL_HELP], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_version_is_that_of_the_installation():
    done = subprocess.run([sys.executable, "-m", "federated.command", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"confide {version('confide')}\n"


@pytest.mark.long
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["worker", "--help"], ["status", "--help"]], ids=" ".join)
def test_help_takes_less_than_four_tenths_of_a_second_of_processor_time(arguments):
    took = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, "-m", "federated.command", *arguments], capture_output=True, check=True)
        after = os.times()
        took.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(took) < 0.4

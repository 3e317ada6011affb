"""What may import what, and what must not appear where."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("actors", "protocols", "federated", "privacy")
ALLOWED = {"actors": set(), "privacy": set(), "protocols": {"actors"}, "federated": {"actors", "protocols", "privacy"}}
MATHEMATICS = [
    "program",
    "plaintext",
    "exchange",
    "simulator",
    "ring",
    "keystream",
    "fixed_point",
    "sharing",
    "linear",
    "bilinear",
    "piecewise",
    "selection",
    "comparison",
    "blocks",
    "conjunction",
    "argmax",
    "local",
    "material",
    "dealer",
    "inference",
    "schedule",
    "errors",
    "quantisation",
    "shared_sums",
    "discrete_gaussian",
    "noisy_answers",
    "budget",
    "vault",
]


def imports(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder):
    for file in (ROOT / folder).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imports(file)} & set(FOLDERS)
        assert tops - {folder} <= ALLOWED[folder], file


@pytest.mark.parametrize("name", MATHEMATICS)
def test_the_mathematics_knows_no_loop_socket_or_keras(name):
    banned = {"asyncio", "socket", "websockets", "keras", "tensorflow", "actors"}
    assert not {module.partition(".")[0] for module in imports(ROOT / "protocols" / f"{name}.py")} & banned


def test_who_somebody_is_is_decided_without_loop_or_socket():
    for file in (ROOT / "actors" / "identity").glob("*.py"):
        assert not {module.partition(".")[0] for module in imports(file)} & {"asyncio", "socket", "ssl", "websockets"}, file


def test_who_may_do_what_knows_nothing_of_what_is_computed():
    for file in (ROOT / "protocols" / "authority").glob("*.py"):
        ours = {".".join(module.split(".")[:2]) for module in imports(file) if module.startswith("protocols.")}
        assert ours <= {"protocols.authority", "protocols.errors", "protocols.keystream"}, file


@pytest.mark.parametrize("folder", ["actors", "protocols"])
def test_no_randomness_but_that_of_the_operating_system(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert "random" not in {name.partition(".")[0] for name in imports(file)}, file
        assert not any(f"{module}.random" in file.read_text() for module in ("np", "numpy")), file


def test_pickle_is_in_one_place():
    using = {
        file.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        if {name.partition(".")[0] for name in imports(file)} & {"pickle", "cloudpickle", "marshal", "shelve"}
    }
    assert using == {"actors/shipping.py"}


def test_workers_and_clients_never_import_tensorflow():
    code = "import sys, protocols, protocols.worker_process, federated.command; print({'tensorflow', 'keras'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "set()"


def test_the_packages_are_ours():
    owners = importlib.metadata.packages_distributions()
    for folder in FOLDERS:
        assert set(owners.get(folder, ["confide"])) == {"confide"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_it_is(folder):
    assert ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text()))
    assert (ROOT / folder / "README.md").is_file()
    for file in (ROOT / folder).rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text())), file

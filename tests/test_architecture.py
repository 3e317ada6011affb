"""What may import what, and what must not appear where."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("actors", "protocols", "federated", "privacy")
ALLOWED = {"actors": set(), "privacy": set(), "protocols": {"actors", "privacy"}, "federated": {"actors", "protocols", "privacy"}}
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


def test_protocols_know_of_privacy_how_to_read_keras_models_and_no_more():
    for file in (ROOT / "protocols").rglob("*.py"):
        known = {name for name in imports(file) if name.partition(".")[0] == "privacy"}
        assert all(name.startswith("privacy.keras_models") for name in known), file


def private_names(file: Path) -> set[str]:
    """The attributes with a leading underscore that a file takes of anything but `self` or `cls`, and those that it names as text."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr"):
            found.update(one.value for one in node.args[1:2] if isinstance(one, ast.Constant) and isinstance(one.value, str))
        if isinstance(node, ast.Constant) and node.value in KERAS_TEXTS:
            found.add(node.value)
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def own_names(file: Path) -> set[str]:
    """What a file itself gives a name with a leading underscore: functions, methods, attributes of `self`, fields."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


KERAS_TEXTS = frozenset({"_attention_axes", "_keras_mask", "_keras_history", "_inputs_struct", "_compile_config"})
FOREIGN = {
    "privacy/queries.py": "TensorFlow Privacy's queries have no public settings",
    "privacy/tfp.py": "as above",
    "privacy/keras_models/internals.py": "this is the one file for Keras",
}
"""Files that may use the private names of another library, and why."""


def test_private_names_of_keras_are_in_one_file():
    files = [file for folder in (*FOLDERS, "examples", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    ours = {"_replace", "_exit", *(name for file in files if file.name != "internals.py" for name in own_names(file))}
    of_keras = private_names(ROOT / "privacy/keras_models/internals.py")
    assert {"_flatten_layers", "_keras_history", "_inbound_nodes", "_keras_mask", "_user_loss_weights"} <= of_keras
    for file in files:
        if file.relative_to(ROOT).as_posix() in FOREIGN:
            continue
        foreign = private_names(file) - ours
        assert not foreign, f"{file} uses {foreign}: give it a function in privacy/keras_models/internals.py"
        assert not private_names(file) & (of_keras - ours), file
        assert "keras.src" not in file.read_text(), file


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
    code = "import sys, protocols, protocols.worker_process; private = {'privacy'} & set(sys.modules); "
    code += "import federated.command; print(private | ({'tensorflow', 'keras'} & set(sys.modules)))"
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

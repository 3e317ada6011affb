"""What may import what, and what must not appear where."""

import ast
import functools
import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("actors", "protocols", "federated", "privacy")
ALLOWED = {"actors": set(), "privacy": set(), "protocols": {"actors", "privacy"}, "federated": {"actors", "protocols", "privacy"}}
MOST_FILES, MOST_LINES = 20, 400

GROUND = {
    "actors": "errors address supervision actor",
    "privacy": "errors examples",
    "protocols": "errors concurrency noisy_answers quantisation",
    "federated": "errors",
}
"""Files of a package that each of its rooms may import: the descriptions on which the rest stands."""

ROOMS = {
    "actors/top": "connection guard identity messages observing running",
    "actors/connection": "credentials guard identity messages observing running",
    "actors/credentials": "guard identity",
    "actors/running": "guard identity messages observing",
    "actors/observing": "guard identity",
    "actors/identity": "messages",
    "actors/messages": "guard",
    "actors/guard": "",
    "privacy/top": "audit keras_models models randomness rules trials",
    "privacy/trials": "keras_models models rules",
    "privacy/audit": "rules",
    "privacy/models": "keras_models rules",
    "privacy/rules": "keras_models",
    "privacy/keras_models": "",
    "privacy/randomness": "",
    "protocols/top": "client clusters datasets estimators estimators/trees estimators/unsupervised owner workers",
    "protocols/estimators/trees": (
        "datasets estimators keras_hook mpc/numbers mpc/parties owner training training/networks training/regression training/trees"
    ),
    "protocols/estimators/unsupervised": (
        "datasets estimators keras_hook mpc/numbers mpc/parties owner training/networks training/regression"
    ),
    "protocols/estimators": (
        "authority datasets keras_hook mpc/numbers mpc/parties owner training training/networks training/regression training/trees workers"
    ),
    "protocols/keras_hook": "blocking opaque owner sharing",
    "protocols/blocking": "client clusters nodes opaque owner serving",
    "protocols/nodes": "authority clusters owner workers",
    "protocols/owner": (
        "accounting authority clusters curves datasets lowering lowering/nodes lowering/scales mpc mpc/engine mpc/inputs "
        "mpc/numbers mpc/operations mpc/parties owner/fit owner/objectives owner/placing selfcheck serving storage "
        "trained training training/networks training/networks/optimizers workers"
    ),
    "protocols/client": "authority clusters link mpc mpc/numbers mpc/operations/bits serving workers",
    "protocols/owner/placing": "authority clusters lowering mpc mpc/operations mpc/parties serving storage workers",
    "protocols/clusters": "authority serving workers",
    "protocols/owner/fit": "accounting datasets",
    "protocols/accounting": "storage training training/networks training/private",
    "protocols/workers": "authority datasets link mpc mpc/engine mpc/operations mpc/parties secure_aggregation serving storage training",
    "protocols/storage": "authority datasets mpc/numbers mpc/parties training",
    "protocols/trained": "curves lowering/nodes lowering/scales mpc mpc/engine mpc/inputs mpc/operations training training/networks",
    "protocols/selfcheck": "lowering lowering/features mpc mpc/inputs mpc/numbers mpc/operations mpc/parties",
    "protocols/training": (
        "datasets mpc mpc/engine mpc/operations mpc/parties training/networks training/networks/optimizers "
        "training/private training/regression training/trees"
    ),
    "protocols/lowering": "curves lowering/features lowering/nodes lowering/rules lowering/scales mpc mpc/engine mpc/inputs mpc/parties",
    "protocols/owner/objectives": "curves lowering/nodes training/networks training/networks/optimizers",
    "protocols/training/private": "mpc/engine mpc/operations mpc/parties training/networks training/networks/optimizers",
    "protocols/training/trees": "mpc mpc/engine mpc/operations training/networks training/regression",
    "protocols/lowering/features": "lowering/nodes lowering/scales mpc/inputs",
    "protocols/training/networks/optimizers": "mpc mpc/operations training/networks",
    "protocols/training/regression": "mpc mpc/engine mpc/operations training/networks",
    "protocols/lowering/scales": "curves lowering/nodes mpc mpc/engine mpc/inputs mpc/numbers mpc/operations mpc/parties",
    "protocols/serving": "authority link mpc mpc/engine mpc/operations mpc/parties storage",
    "protocols/training/networks": "curves mpc mpc/engine mpc/numbers mpc/operations",
    "protocols/mpc": "mpc/engine mpc/inputs mpc/numbers mpc/operations mpc/parties",
    "protocols/lowering/rules": "curves lowering/nodes mpc/engine",
    "protocols/mpc/operations": "mpc/engine mpc/inputs mpc/kernels mpc/numbers mpc/operations/bits mpc/parties",
    "protocols/datasets": "mpc/engine mpc/parties",
    "protocols/lowering/nodes": "curves mpc/engine",
    "protocols/mpc/operations/bits": "mpc/engine mpc/kernels mpc/parties",
    "protocols/authority": "mpc/parties",
    "protocols/curves": "",
    "protocols/link": "mpc/parties",
    "protocols/mpc/engine": "mpc/parties",
    "protocols/secure_aggregation": "mpc/parties",
    "protocols/sharing": "mpc/parties opaque",
    "protocols/mpc/inputs": "mpc/numbers",
    "protocols/mpc/parties": "mpc/numbers",
    "protocols/mpc/numbers": "mpc/kernels",
    "protocols/mpc/kernels": "",
    "protocols/opaque": "",
    "federated/top": "aggregation authority consent doctor machines models owners rounds runs simulation strategies tasks trainers",
    "federated/doctor": "machines",
    "federated/machines": "authority consent owners rounds runs strategies tasks",
    "federated/runs": "aggregation metrics models owners private records rounds schedules simulation strategies tasks",
    "federated/private": "aggregation strategies tasks",
    "federated/aggregation": "metrics owners rounds strategies tasks",
    "federated/rounds": "metrics models owners strategies tasks",
    "federated/simulation": "owners strategies tasks trainers",
    "federated/owners": "consent methods metrics models records schedules tasks trainers",
    "federated/schedules": "consent records tasks",
    "federated/trainers": "consent methods models tasks",
    "federated/consent": "metrics models records tasks",
    "federated/metrics": "models tasks",
    "federated/methods": "tasks",
    "federated/models": "records tasks",
    "federated/strategies": "tasks",
    "federated/authority": "",
    "federated/records": "",
    "federated/tasks": "",
}
"""Each room: the rooms of its package that it may import, besides the ground. `top` are the other files of the package itself."""

MATHEMATICS = (
    "protocols/mpc",
    "protocols/storage/vault.py",
    "protocols/storage/replacement.py",
    "protocols/serving/budget.py",
    "protocols/noisy_answers.py",
    "protocols/quantisation.py",
    "protocols/secure_aggregation/shared_sums.py",
    "protocols/errors.py",
)
"""Folders, with what is in them, and files."""


@functools.cache
def parsed(file: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of a file, read once for all tests; a package's with those of the stub that names what it offers."""
    nodes, stub = [*ast.walk(ast.parse(file.read_text()))], file.with_suffix(".pyi")
    for node in ast.walk(ast.parse(stub.read_text())) if stub.is_file() else ():
        if isinstance(node, ast.ImportFrom):
            node.module = f"{file.parent.name}.{node.module}" if node.module else file.parent.name
        nodes.append(node)
    return tuple(nodes)


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in parsed(file):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder):
    for file in (ROOT / folder).rglob("*.py"):
        tops = {name.partition(".")[0] for name in imports(file)} & set(FOLDERS)
        assert tops - {folder} <= ALLOWED[folder], file


COUNTED = {
    "protocols/accounting": "accounting errors ledger mechanisms plan",
    "protocols/owner": "ledger mechanisms",
    "protocols/owner/fit": "ledger mechanisms",
}
"""What a room takes of `privacy` to count what private trainings reveal: settings, accountants, ledgers; the owner names their types."""


def test_protocols_know_of_privacy_how_to_read_keras_models_and_to_count_and_no_more():
    for file in (ROOT / "protocols").rglob("*.py"):
        counted = COUNTED.get(file.parent.relative_to(ROOT).as_posix(), "").split()
        modules = {name.split(".")[1] for name in imports(file) if name.partition(".")[0] == "privacy" and "." in name}
        assert modules <= {"keras_models", *counted}, file


@functools.cache
def private_names(file: Path) -> frozenset[str]:
    """The attributes with a leading underscore that a file takes of anything but `self` or `cls`, and those that it names as text."""
    found = set()
    for node in parsed(file):
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
            found.add(node.attr)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr"):
            found.update(one.value for one in node.args[1:2] if isinstance(one, ast.Constant) and isinstance(one.value, str))
        if isinstance(node, ast.Constant) and node.value in KERAS_TEXTS:
            found.add(node.value)
    return frozenset(name for name in found if name.startswith("_") and not name.startswith("__"))


def own_names(file: Path) -> set[str]:
    """What a file itself gives a name with a leading underscore: functions, methods, attributes of `self`, fields."""
    found = set()
    for node in parsed(file):
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
    place = ROOT / name
    for file in [place] if place.is_file() else list(place.rglob("*.py")):
        assert not {module.partition(".")[0] for module in imports(file)} & banned, file


def test_who_somebody_is_is_decided_without_loop_or_socket():
    for file in (ROOT / "actors" / "identity").glob("*.py"):
        assert not {module.partition(".")[0] for module in imports(file)} & {"asyncio", "socket", "ssl", "websockets"}, file


def test_who_may_do_what_knows_nothing_of_what_is_computed():
    for file in (ROOT / "protocols" / "authority").glob("*.py"):
        ours = {".".join(module.split(".")[:2]) for module in imports(file) if module.startswith("protocols.")}
        assert ours <= {"protocols.authority", "protocols.concurrency", "protocols.errors", "protocols.mpc"}, file
        mathematics = {module for module in imports(file) if module.startswith("protocols.mpc")}
        assert all(module.startswith("protocols.mpc.parties.keystream") for module in mathematics), file


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
    code = "import sys; from protocols import *; import protocols.workers.worker_process; private = {'privacy'} & set(sys.modules); "
    code += "from federated import *; import federated.command; print(private | ({'tensorflow', 'keras'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_package_imports_what_it_offers_when_it_is_used(folder):
    code = f"import sys, {folder}; print([name for name in sys.modules if name.startswith({folder!r} + '.') or name in ('numpy', 'numba')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"
    package = importlib.import_module(folder)
    assert {name for name in package.__all__ if getattr(package, name) is None} == set()
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018


def test_the_packages_are_ours():
    owners = importlib.metadata.packages_distributions()
    for folder in FOLDERS:
        assert set(owners.get(folder, ["confide"])) == {"confide"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_it_is(folder):
    assert ast.get_docstring(parsed(ROOT / folder / "__init__.py")[0])
    assert (ROOT / folder / "README.md").is_file()
    for file in (ROOT / folder).rglob("*.py"):
        assert ast.get_docstring(parsed(file)[0]), file


MODULES = {
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): file
    for folder in FOLDERS
    for file in (ROOT / folder).rglob("*.py")
}


def ours(file: Path) -> set[Path]:
    """The files of this library that a file imports, anywhere in it: lazily, or for types only."""
    found = set()
    for node in parsed(file):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                found.add(MODULES[name])
    return found - {file}


@functools.cache
def every_arrow() -> dict[Path, set[Path]]:
    """Of each file, what it imports; not at import: each process of a run would read all files for it."""
    return {file: ours(file) for file in MODULES.values()}


def room(file: Path) -> str:
    """Of a file: its folder; or `ground`, `top`, or a door of its own, where it lies in the package itself."""
    folder = file.parent.relative_to(ROOT).as_posix()
    if folder not in FOLDERS:
        return folder
    if file.stem in GROUND[folder].split():
        return f"{folder}/ground"
    return f"{folder}/{file.stem}" if f"{folder}/{file.stem}" in ROOMS else f"{folder}/top"


TWICE = {
    "BudgetSpent": "an error that users catch, of `protocols` and of `privacy`",
    "ModelRefused": "an error that users catch, of `federated` and of `privacy`",
    "NameTaken": "an error that users catch, of `actors` and of `protocols`",
    "SettingError": "an error that users catch, of `federated` and of `privacy`",
    "TooLarge": "an error that users catch, of `actors` and of `protocols`",
    "Cluster": "what users write, awaited and blocking",
}
"""Classes of one name in two files, and why. What is not public waits for the one set of operations of trainings and predictions."""


def classes() -> dict[str, list[str]]:
    """Each class of the packages by its name: the files that define one."""
    found: dict[str, list[str]] = {}
    for file in MODULES.values():
        for node in parsed(file):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(file.relative_to(ROOT).as_posix())
    return found


def test_a_word_means_one_thing_no_class_name_is_there_twice():
    twice = {name: files for name, files in classes().items() if len(files) > 1}
    assert not {name: files for name, files in twice.items() if name not in TWICE}
    assert set(TWICE) <= set(twice), "that is there once: take it out of the list"
    assert all(len(files) == 2 for files in twice.values()), twice


def circles(nodes, arrows) -> list[set]:
    """Whoever is left when those without arrows from or to the rest are taken away, again and again."""
    left = set(nodes)
    while True:
        inner = {one for one in left if arrows[one] & left and any(one in arrows[other] for other in left)}
        if inner == left:
            return [left] if left else []
        left = inner


def test_no_two_files_import_each_other_not_even_for_a_type():
    assert not circles(every_arrow(), every_arrow())


@pytest.mark.parametrize("name", sorted({room(file) for file in MODULES.values()}))
def test_a_room_imports_what_its_line_says(name):
    package = name.partition("/")[0]
    allowed = {f"{package}/{one}" for one in ROOMS.get(name, "").split()} | {name, f"{package}/ground"}
    for file in (one for one in MODULES.values() if room(one) == name):
        taken = {room(other) for other in every_arrow()[file] if other.relative_to(ROOT).parts[0] == package}
        assert taken <= allowed, f"{file} imports {taken - allowed}: arrows between rooms run down, and each has its line in ROOMS"


def test_the_lines_of_rooms_run_down_and_name_rooms_that_are_there():
    there = {room(file) for file in MODULES.values()}
    arrows = {name: {f"{name.partition('/')[0]}/{one}" for one in line.split()} for name, line in ROOMS.items()}
    assert set(ROOMS) | {f"{folder}/ground" for folder in FOLDERS} == there
    assert set().union(*arrows.values()) <= there
    assert not circles(arrows, arrows)


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_a_folder_has_at_most_twenty_files(folder):
    for place in [ROOT / folder, *(one for one in (ROOT / folder).rglob("*") if one.is_dir())]:
        assert len(list(place.glob("*.py"))) <= MOST_FILES, f"{place}: make a room"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_has_at_most_400_lines(folder):
    for file in (ROOT / folder).rglob("*.py"):
        assert len(file.read_text().splitlines()) <= MOST_LINES, f"{file}: one file is one concept"


@pytest.mark.parametrize("name", sorted({file.parent.relative_to(ROOT).as_posix() for file in MODULES.values()}))
def test_every_room_says_for_whom_it_is(name):
    assert (ROOT / name / "README.md").is_file()


@pytest.mark.parametrize("name", sorted({file.parent.relative_to(ROOT).as_posix() for file in MODULES.values()} - set(FOLDERS)))
def test_a_room_names_each_of_its_files_and_of_the_rooms_inside_and_no_other(name):
    folder, text = ROOT / name, (ROOT / name / "README.md").read_text()
    files = {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    rooms = {f"{inside.name}/" for inside in folder.iterdir() if (inside / "__init__.py").is_file()}
    named = set(re.findall(r"`([\w]+(?:\.py|/))`", text))
    assert files | rooms <= named
    assert set(re.findall(r"^- `(\w+\.py)`: ", text, re.MULTILINE)) <= files

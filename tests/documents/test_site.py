"""The documentation site: what it refers to is there, every exported name is in its reference, and it is built without a warning."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def making(name):
    spec = importlib.util.spec_from_file_location(f"making_{name}", DOCS / "making" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = making("pages")
MADE = {*(f"reference/{package}.md" for package in PAGES.PACKAGES), *PAGES.DOCUMENTS, *(f"notebooks/{path.stem}.md" for path in NOTEBOOKS)}


def described(where: str) -> bool:
    """Whether what a module defines under a name has a docstring of its own: a class, a function, or a value with a text behind it."""
    module, _, name = where.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if inspect.ismodule(found) or inspect.isclass(found) or inspect.isfunction(found):
        return bool((vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__ or "").strip())
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    for one, after in itertools.pairwise(body):
        targets = one.targets if isinstance(one, ast.Assign) else [one.target] if isinstance(one, ast.AnnAssign) else []
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    return False


@pytest.mark.parametrize("package", PAGES.PACKAGES)
def test_every_exported_name_is_in_the_reference_with_a_docstring(package):
    names = PAGES.exported(package)
    assert set(names) == set(importlib.import_module(package).__all__)
    page = PAGES.reference(package)
    assert [name for name, where in names.items() if f"\n::: {where}\n" not in page] == []
    assert [name for name, where in names.items() if not described(where)] == []


def test_each_page_is_in_the_navigation_once():
    pages = re.findall(r"[\w/-]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(pages) == sorted(written | MADE)


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *DOCS.rglob("*.md")], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_are_there(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            place = Path(os.path.normpath(path.parent / target))
            made = place.is_relative_to(DOCS) and place.relative_to(DOCS).as_posix() in MADE
            assert place.exists() or made, f"{path}: {target}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_four_notebooks_are_there():
    assert len(NOTEBOOKS) == 4


RUN = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], 4)
NotebookClient(book, timeout=900, kernel_name="python3").execute()
nbformat.write(book, "ran.ipynb")
"""


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    """In a kernel of its own, as a reader runs it; a cell that fails ends it, and what is learned is right for most examples."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", RUN, path], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "ran.ipynb").read_text())["cells"]
    shown = "".join("".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))
    told = [float(number) for number in re.findall(r"accuracy[^\n]*?([\d.]+)%", shown)]
    assert told, shown
    assert max(told) > 80, shown


@pytest.mark.long
def test_the_site_is_built_strictly_and_needs_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 25
    for path, text in pages.items():
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', text), path
    for package in PAGES.PACKAGES:
        page = pages[tmp_path / "reference" / f"{package}.html"]
        assert [where for where in PAGES.exported(package).values() if f'id="{where}"' not in page] == []


@pytest.mark.long
def test_the_table_of_layers_is_what_operations_state():
    assert making("layers").page() == (DOCS / "reference" / "layers.md").read_text()

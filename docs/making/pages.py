"""Pages of the site that are made of files that stand elsewhere: the reference of all exported names, notebooks, documents of the root.

MkDocs calls `on_files` and `on_page_markdown` (see `hooks:` in mkdocs.yml). Packages are read, not imported.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "actors": "How do two programs talk?",
    "protocols": "What can several parties compute without seeing it?",
    "federated": "Who trains with whom, and when?",
    "privacy": "How much does a result reveal about one person?",
}
DOCUMENTS = {
    "security.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "conduct.md": "CODE_OF_CONDUCT.md",
}


def exported(package: str) -> dict[str, str]:
    """Return each exported name of a package and the module that defines it, as its `__init__.pyi` says."""
    found = {}
    for node in ast.parse((ROOT / package / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            inside = f"{package}.{node.module}" if node.module else package
            found.update({alias.asname or alias.name: f"{inside}.{alias.name}" for alias in node.names})
    return found


def reference(package: str) -> str:
    """Return the page of a package: each exported name with its docstring, in alphabetical order, errors last."""
    names = exported(package)
    errors = {name for name, where in names.items() if where.split(".")[1] == "errors"}
    lines = [f"# {package}", "", PACKAGES[package], ""]
    for title, some in (("What it offers", names.keys() - errors), ("Errors", errors)):
        lines += [f"## {title}", ""]
        for name in sorted(some, key=str.lower):
            lines += [f"::: {names[name]}", ""]
    return "\n".join(lines)


def document(name: str) -> str:
    """Return a document of the root, with links as they are from the site."""
    text = re.sub(r"\]\(docs/", "](", (ROOT / name).read_text())
    for page, source in DOCUMENTS.items():
        text = text.replace(f"]({source})", f"]({page})")
    return text


def notebook(path: Path) -> str:
    """Return a notebook as a page: its words and its code. Outputs are not kept in it."""
    lines = []
    for cell in json.loads(path.read_text())["cells"]:
        text = "".join(cell["source"])
        lines += [text if cell["cell_type"] == "markdown" else f"```py\n{text}\n```", ""]
        if len(lines) == 2:
            lines += [f"[Download the notebook]({path.name}){{ .md-button }}", ""]
    return "\n".join(lines)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File  # noqa: PLC0415  tests read what is above without it

    for package in PACKAGES:
        files.append(File.generated(config, f"reference/{package}.md", content=reference(package)))
    for page, source in DOCUMENTS.items():
        files.append(File.generated(config, page, content=document(source)))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    return files


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Put the first block of README.md where a page asks for it, and have links to documents of the root lead to their pages."""
    first = re.search(r"```python\n.*?```\n", (ROOT / "README.md").read_text(), re.DOTALL)
    for page, source in DOCUMENTS.items():
        markdown = re.sub(rf"\]\(\.\./((?:\.\./)*){source}", rf"](\1{page}", markdown)
    return markdown.replace("{{ first block of README.md }}", first.group() if first else "")

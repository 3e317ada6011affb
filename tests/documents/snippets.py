"""Runs what documents show: each Python block of a file, in order, in one namespace, with `await` at the top level as in a notebook.

Blocks of other libraries are marked `py`, not `python`, and are not run; nor is anything else. A block that begins with `# serve.py` stands
for another process: it runs beside those that follow.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import re
from pathlib import Path
from typing import Any

from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from certified import free_ports

ROOT = Path(__file__).parents[2]
PARSER = CodeBlockParser("python", lambda example: None)
ROOM_READMES = (ROOT / folder / "README.md" for folder in ("actors", "protocols", "federated", "privacy"))
DOCUMENTS = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOM_READMES, *(ROOT / "docs").rglob("*.md")) if "```python" in path.read_text(encoding="utf-8")
)


def blocks(path: Path) -> list[Example]:
    """Return the Python blocks of a document."""
    return list(Document.parse(str(path), PARSER).examples())


def code(path: Path, block: Example, ports: dict[str, int] | None = None) -> Any:
    """Return a block compiled; errors tell its lines in the document. Addresses on this machine get the ports given for theirs."""
    text = "\n" * block.line + block.parsed
    for fixed, free in (ports or {}).items():
        text = text.replace(f"localhost:{fixed}", f"localhost:{free}")
    return compile(text, str(path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


async def run(path: Path, namespace: dict[str, Any]) -> None:
    """Run the blocks of a document."""
    found = blocks(path)
    named = sorted(set(re.findall(r"localhost:([1-9]\d+)", "".join(block.parsed for block in found))))
    ports = dict(zip(named, free_ports(len(named)), strict=True))
    beside: asyncio.Task[Any] | None = None
    for block in found:
        compiled = code(path, block, ports)
        if "asyncio.run(" in block.parsed:  # a program with a loop of its own
            await asyncio.to_thread(eval, compiled, namespace)
            continue
        begun = eval(compiled, namespace)
        if not inspect.iscoroutine(begun):
            continue
        if block.parsed.startswith("# serve.py"):
            beside = asyncio.create_task(begun)
            while "shared" not in namespace and not beside.done():
                await asyncio.sleep(0.05)
            continue
        await begun
        if beside is not None:
            beside.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beside
            beside = None

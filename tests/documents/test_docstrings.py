"""Examples in docstrings: each is Python, and what it says comes out comes out. Those that await are like the blocks of documents."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARSER = doctest.DocTestParser()


def shown(folder):
    """Each docstring with an example: where it is, and its examples."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>>" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found = PARSER.get_examples(ast.get_docstring(node) or "")
                if found:
                    yield path, getattr(node, "name", "module"), found


@pytest.mark.parametrize("folder", ["actors", "federated", "privacy", "protocols"])
def test_examples_are_python_and_give_what_they_say(folder):
    count = 0
    for path, name, examples in shown(folder):
        for example in examples:
            compile(example.source, f"{path}: {name}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if any(example.want for example in examples):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
            test = doctest.DocTest(examples, dict(vars(module)), name, str(path), 0, None)
            told = []
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
            assert not result.failed, "".join(told)
            count += 1
    assert count >= {"actors": 0, "federated": 2, "privacy": 0, "protocols": 5}[folder]

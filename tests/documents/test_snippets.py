"""Every Python block that a document shows is Python, and runs."""

import re
import subprocess
import sys

import numpy as np
import pytest

from documents import prepared, snippets

NAMES = [path.relative_to(snippets.ROOT).as_posix() for path in snippets.DOCUMENTS]


def test_every_block_is_python():
    assert set(prepared.PREPARED) <= set(NAMES), "that document has no Python any more"
    assert {"README.md", "docs/coming-from.md", "docs/tutorials/encrypted-prediction.md"} <= set(NAMES)
    for path in snippets.DOCUMENTS:
        for block in snippets.blocks(path):
            snippets.code(path, block)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")  # documents show small budgets and few owners
async def test_blocks_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = snippets.ROOT / name
    async with prepared.PREPARED.get(name, prepared.nothing)(tmp_path) as given:
        await snippets.run(path, {"__name__": "shown", **given})


@pytest.mark.long
def test_the_first_block_of_the_readme_runs_as_a_program(tmp_path):
    """Pasted into a file, as a reader does; it prints what the client got, and what Keras says."""
    (tmp_path / "pasted.py").write_text(snippets.blocks(snippets.ROOT / "README.md")[0].parsed)
    done = subprocess.run([sys.executable, "pasted.py"], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    shown = np.array([float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout)])
    assert shown.shape == (12,)
    assert np.abs(shown[:6] - shown[6:]).max() < 0.01

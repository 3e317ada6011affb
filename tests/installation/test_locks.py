"""The locks: one version of each dependency, with hashes, that fits pyproject.toml; made by `make lock`."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^ ;\\]+)(?P<marker> ;[^\\]*)?(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M
)


def entries(text: str) -> dict[str, list[str]]:
    """The versions of each, several of one where markers tell them apart."""
    found: dict[str, list[str]] = {}
    for match in ENTRY.finditer(text):
        found.setdefault(canonicalize_name(match["name"]), []).append(match["version"])
    return found


@pytest.mark.parametrize(("file", "extras"), [("requirements.lock", []), ("requirements-keras.lock", ["keras"])])
def test_a_lock_fits_what_is_declared(file, extras):
    text = (ROOT / file).read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(one) for one in project["dependencies"]]
    wanted += [Requirement(one) for extra in extras for one in project["optional-dependencies"][extra]]
    locked = entries(text)
    for one in wanted:
        versions = locked.get(canonicalize_name(one.name), [])
        assert versions, f"{one} is not in {file}: make lock"
        assert all(one.specifier.contains(version) for version in versions), f"{one}: {versions} in {file}: make lock"
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) == sum(map(len, locked.values())), "each is pinned, and has hashes"
    assert "://" not in text, "no address of a registry"

"""Files that are replaced: whole or not at all, with the permissions that were asked for, and nothing left beside them."""

import os
import stat

import pytest

from protocols.storage.replacement import replace, replacing


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", [0o600, 0o644, None])
def test_the_mode_is_what_was_asked_for_whatever_the_umask_and_never_wider(tmp_path, umask, mode):
    path = tmp_path / "file"
    wanted = 0o666 & ~umask if mode is None else mode
    with replacing(path, mode=mode) as file:
        file.write(b"new")
        file.flush()
        assert not stat.S_IMODE(os.fstat(file.fileno()).st_mode) & ~wanted
    assert stat.S_IMODE(path.stat().st_mode) == wanted
    assert path.read_bytes() == b"new"


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    replace(path, b"old")

    def interrupted():
        with replacing(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    replace(tmp_path / "link", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()

"""Shares at rest: what was written comes back, and nothing else does: tampered, truncated, renamed, another party's."""

import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployment import key, random_ring
from protocols.errors import VaultError
from protocols.mpc.parties.keystream import KeyStream
from protocols.storage.vault import Label, Vault

FIRST = Label("data", "ward-1.x", 1, key("first"))


@pytest.fixture
def vault(tmp_path):
    vault = Vault.open(tmp_path / "julia")
    yield vault
    vault.close()


@pytest.fixture
def other(tmp_path):
    other = Vault.open(tmp_path / "greg")
    yield other
    other.close()


def arrays():
    return {"masked": random_ring((40, 7), 1 << 62, "m"), "mask": random_ring((40, 7), 1 << 62, "l"), "none": np.empty((0, 3), np.uint64)}


def file_of(vault, label=FIRST):
    return vault._path(label)


@settings(max_examples=20, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4), about=st.binary(max_size=50))
def test_what_was_written_comes_back(tmp_path_factory, shapes, about):
    vault = Vault.open(tmp_path_factory.mktemp("vault"))
    kept = {f"array{i}": KeyStream(key(str(i))).words(tuple(shape)) for i, shape in enumerate(shapes)}
    vault.write(FIRST, about, kept)
    found, read = vault.read(FIRST)
    vault.close()
    assert found == about
    assert list(read) == list(kept)
    for name, array in kept.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].shape == array.shape


def test_more_than_one_chunk(vault):
    large = {"w": random_ring((300_001,), 1 << 62, "large")}
    vault.write(FIRST, b"", large)
    np.testing.assert_array_equal(vault.read(FIRST)[1]["w"], large["w"])


def test_nothing_of_the_content_is_in_the_file_and_two_files_of_it_have_nothing_in_common(vault):
    content = arrays()
    again = FIRST.next()
    for label in (FIRST, again):
        vault.write(label, b"public words", content)
    first, second = (file_of(vault, label).read_bytes() for label in (FIRST, again))
    assert b"public words" in first
    assert content["mask"].tobytes()[:16] not in first
    assert first[-200:] != second[-200:]


def test_every_byte_is_protected(vault):
    """One bit anywhere, and the file is refused; nothing of it is returned."""
    vault.write(FIRST, b"about", {"w": random_ring((3,), 1 << 62, "w")})
    path = file_of(vault)
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(VaultError):
            vault.read(FIRST)
    path.write_bytes(whole)
    vault.read(FIRST)


@pytest.mark.parametrize("left", [0, 5, 11, 60, -1])
def test_truncated_files_are_refused(vault, left):
    vault.write(FIRST, b"about", arrays())
    path = file_of(vault)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(VaultError, match=r"damaged|were written"):
        vault.read(FIRST)


def test_another_party_cannot_read_it(vault, other):
    vault.write(FIRST, b"about", arrays())
    other.write(FIRST, b"about", arrays())
    file_of(other).write_bytes(file_of(vault).read_bytes())
    for read in (other.read, other.about):
        with pytest.raises(VaultError, match="another party, or under another key"):
            read(FIRST)


def test_a_new_key_does_not_read_old_files(tmp_path):
    vault = Vault.open(tmp_path / "julia")
    vault.write(FIRST, b"", arrays())
    vault.close()
    (tmp_path / "julia" / "key").write_text(bytes(32).hex())
    renewed = Vault.open(tmp_path / "julia")
    with pytest.raises(VaultError, match="another key"):
        renewed.read(FIRST)
    (tmp_path / "julia" / "key").unlink()
    with pytest.raises(VaultError, match="key"):  # a lost key is not replaced in silence
        Vault.open(tmp_path / "julia")
    renewed.close()


def test_an_old_version_under_a_new_name_is_refused(vault):
    vault.write(FIRST, b"", arrays())
    second = FIRST.next()
    os.replace(file_of(vault), file_of(vault, second))
    with pytest.raises(VaultError, match="it was renamed"):
        vault.about(second)


def test_versions_are_listed_in_order_and_old_ones_removed(vault):
    labels = [FIRST, FIRST.next(), FIRST.next().next()]
    for label in reversed(labels):
        vault.write(label, b"", {})
    (file_of(vault).parent / "00000009-half.share.new").write_bytes(b"a file that was not finished")
    vault.write(Label("data", "b", 1, key("b")), b"", {})
    assert vault.labels("data", "ward-1.x") == labels
    assert [label.name for label in vault.labels("data")] == ["b", *["ward-1.x"] * 3]
    vault.remove("data", "ward-1.x", before=3)
    assert vault.labels("data", "ward-1.x") == labels[2:]
    vault.remove("data", "ward-1.x")
    assert not file_of(vault).parent.exists()
    assert vault.labels("data", "../key") == []
    assert vault.labels("../greg/data") == vault.labels("../greg/data", "b") == []


def test_a_write_that_fails_leaves_what_was_there(vault, monkeypatch):
    vault.write(FIRST, b"old", {})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VaultError, match="No space left"):
        vault.write(FIRST.next(), b"new", {})
    monkeypatch.undo()
    with pytest.raises(VaultError, match="is here already"):
        vault.write(FIRST, b"new", {})
    assert vault.about(FIRST) == b"old"
    assert len(list(file_of(vault).parent.iterdir())) == 1


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 101, "white space"])
def test_names_that_are_no_folders_are_refused(vault, name):
    with pytest.raises(VaultError, match="no name for shares"):
        vault.write(Label("data", name, 1, key("t")), b"", {})


def test_files_are_for_their_user_alone(tmp_path, vault):
    vault.write(FIRST, b"", arrays())
    for path in (tmp_path / "julia" / "key", file_of(vault)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "julia").stat().st_mode) == 0o700


def test_a_folder_has_one_user_at_a_time(tmp_path, vault):
    with pytest.raises(VaultError, match="used by another process"):
        Vault.open(tmp_path / "julia")


def test_keys_of_the_users_choice(tmp_path):
    chosen = tmp_path / "secret"
    chosen.write_text(bytes(range(32)).hex() + "\n")
    vault = Vault.open(tmp_path / "a", chosen)
    vault.write(FIRST, b"", arrays())
    vault.close()
    assert not (tmp_path / "a" / "key").exists()
    again = Vault.open(tmp_path / "a", chosen)
    assert set(again.read(FIRST)[1]) == set(arrays())
    again.close()
    chosen.write_text("ab" * 16)
    with pytest.raises(VaultError, match="64 hexadecimal digits"):
        Vault.open(tmp_path / "a", chosen)
    with pytest.raises(VaultError, match="cannot be read"):
        Vault.open(tmp_path / "a", tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(VaultError, match="cannot be used"):
        Vault.open(tmp_path / "file")

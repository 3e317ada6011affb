"""Files that version 0.1.0 has written are read; those of a later version are refused by name. `data/` is never made anew."""

import contextlib
import shutil
import sqlite3
import ssl
from pathlib import Path

import msgspec
import pytest

from federated.machines import certificates
from federated.machines.cluster_file import ClusterFile
from privacy.ledger import Ledger
from protocols.errors import VaultError
from protocols.storage import backup
from protocols.storage.counts import Counted
from protocols.storage.kept_models import KeptModels
from protocols.storage.vault import Vault
from protocols.storage.versions import About

DATA = Path(__file__).parent / "data"


@pytest.fixture
def old(tmp_path):
    """The recorded files, as a user has them: SQLite writes beside what it reads."""
    shutil.copytree(DATA, tmp_path / "old")
    for path in (tmp_path / "old").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return tmp_path / "old"


def test_a_backup_is_restored_and_its_vault_read(old, tmp_path):
    found = backup.restore(old / "vault", tmp_path / "new", old / "key", nothing_since=True)
    assert [(one.label.kind, one.label.name, one.label.serial, one.damage) for one in found] == [
        ("data", "ward.x", 2, ""),
        ("model", "small", 1, ""),
    ]
    with contextlib.closing(Vault.open(tmp_path / "new", old / "key")) as vault:
        about, arrays = vault.read(found[0].label)
        assert msgspec.msgpack.decode(about, type=About).role == "server"
        assert arrays["0"].tolist() == [[0, 1, 2], [3, 4, 5]]
        (model,), damaged = KeptModels(vault).found(frozenset({0}))
        model.counts.close()
        assert (model.about.holder, model.counted, damaged) == ("ward", Counted(3, 9, b"terms", {"alice": 6, "": 3}), {})


def test_counts_from_before_there_was_a_version_are_read(old, tmp_path):
    (path,) = (old / "vault").rglob("*.counts")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA user_version = 0")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (old / "vault" / "backup.json").unlink()
    assert backup.check(old / "vault", old / "key")[1].counted == Counted(3, 9, b"terms", {"alice": 6, "": 3})


def test_files_of_a_later_version_are_refused_by_name(old):
    (counts,), (share, _) = (old / "vault").rglob("*.counts"), sorted((old / "vault").rglob("*.share"))
    (old / "vault" / "backup.json").unlink()
    share.write_bytes(b"cfshare2" + share.read_bytes()[8:])
    with contextlib.closing(sqlite3.connect(counts, isolation_level=None)) as file:
        file.execute("PRAGMA user_version = 2")
    data, model = backup.check(old / "vault", old / "key")
    assert f"{share} was written by a later version of confide" in data.damage
    assert "has format 2, of a later version of confide; this reads 1: upgrade this worker" in model.damage
    with pytest.raises(VaultError, match=r"holds|nothing was backed up|later version"):
        backup.back_up(old / "vault", old / "copy", old / "key")


def test_a_ledger_goes_on(old):
    ledger = Ledger(old / "ledger.sqlite", data="ward", max_epsilon=3.0, delta=1e-5)
    (release,) = ledger.releases
    assert (release.purpose, release.count) == ("a mean", 1)
    assert 0.0 < ledger.epsilon() < 3.0


def test_a_cluster_file_and_certificates_are_read(old):
    assert list(ClusterFile.read(old / "cluster.toml").workers) == ["julia", "greg", "me"]
    der = ssl.PEM_cert_to_DER_cert((old / "keys" / "julia.pem").read_text())
    assert certificates.shown_name(der) == "julia"
    assert certificates.identity(old / "keys", "julia") is not None

"""What a worker has counted of a model that stays: on the disk before it is told, and refused if it is not what was written."""

import contextlib
import sqlite3
import subprocess
import sys

import pytest

from protocols.errors import VaultError
from protocols.storage.counts import Counted, UseCounts

KEY = bytes(range(16))


def made(path) -> UseCounts:
    counts = UseCounts.make(path, KEY)
    counts.write(Counted(1, 4, b"terms", {"alice": 4}))
    counts.write(Counted(3, 9, b"terms", {"alice": 6, "": 3}))
    return counts


def test_what_was_written_is_there_and_for_its_user_alone(tmp_path):
    counts = made(tmp_path / "a.counts")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    counts.close()
    again, found = UseCounts.open(tmp_path / "a.counts", KEY)
    assert found == Counted(3, 9, b"terms", {"alice": 6, "": 3})
    again.write(Counted(4, 10, b"less", {"alice": 7}))
    again.close()
    with contextlib.closing(UseCounts.open(tmp_path / "a.counts", KEY)[0]):
        pass
    assert UseCounts.open(tmp_path / "a.counts", KEY)[1] == Counted(4, 10, b"less", {"alice": 7, "": 3})
    with pytest.raises(VaultError, match="cannot be made"):
        UseCounts.make(tmp_path / "a.counts", KEY)


WRITING = """
import sys
from pathlib import Path
from protocols.storage.counts import Counted, UseCounts
counts = UseCounts.make(Path(sys.argv[1]), bytes(range(16)))
for number in range(1, 1 << 20):
    counts.write(Counted(number, 2 * number, b"", {"alice": number}))
    print(number, flush=True)
"""


def test_what_was_told_was_on_the_disk_whenever_the_process_is_killed(tmp_path):
    for number, lines in enumerate((1, 7, 40)):
        path = tmp_path / f"{number}.counts"
        with subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE, text=True) as process:
            told = [int(process.stdout.readline()) for _ in range(lines)]
            process.kill()
            told += [int(line) for line in process.stdout if line.endswith("\n")]
        counts, found = UseCounts.open(path, KEY)
        counts.close()
        assert told[-1] <= found.requests <= told[-1] + 1
        assert found == Counted(found.requests, 2 * found.requests, b"", {"alice": found.requests})


ALTERED = {
    "a number": "UPDATE model SET body = substr(body, 1, 1) || x'00' || substr(body, 3)",
    "no numbers": "DELETE FROM model",
    "no seal": "UPDATE model SET mac = x''",
    "a client's": "UPDATE clients SET spent = 0 WHERE name = 'alice'",
    "another client": "UPDATE clients SET name = 'bob' WHERE name = 'alice'",
    "one client less": "DELETE FROM clients WHERE name = 'alice'",
    "no table": "DROP TABLE clients",
}


@pytest.mark.parametrize("how", ALTERED)
def test_what_was_altered_is_refused(tmp_path, how):
    path = tmp_path / "a.counts"
    made(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(ALTERED[how])
    with pytest.raises(VaultError, match=r"a\.counts is damaged"):
        UseCounts.open(path, KEY)


def test_an_earlier_row_of_a_client_in_the_place_of_a_later_one_is_refused(tmp_path):
    path = tmp_path / "a.counts"
    counts = UseCounts.make(path, KEY)
    counts.write(Counted(1, 4, b"", {"alice": 4}))
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        earlier = file.execute("SELECT name, spent, mac FROM clients").fetchall()
        counts.write(Counted(2, 8, b"", {"alice": 8}))
        counts.close()
        file.executemany("INSERT OR REPLACE INTO clients VALUES (?, ?, ?)", earlier)
    with pytest.raises(VaultError, match="not all there"):
        UseCounts.open(path, KEY)


@pytest.mark.parametrize("left", [0, 10, 100, 5000])
def test_what_is_cut_off_missing_or_anothers_is_refused(tmp_path, left):
    path = tmp_path / "a.counts"
    made(path).close()
    content = path.read_bytes()
    with pytest.raises(VaultError, match="is damaged"):
        UseCounts.open(path, bytes(16))
    path.write_bytes(content[:left])
    with pytest.raises(VaultError, match="is damaged"):
        UseCounts.open(path, KEY)
    path.unlink()
    with pytest.raises(VaultError, match="is missing"):
        UseCounts.open(path, KEY)


def test_what_cannot_be_written_says_so_and_is_written_later(tmp_path):
    path = tmp_path / "a.counts"
    counts = made(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        counts._file.execute("PRAGMA busy_timeout = 1")
        file.execute("BEGIN IMMEDIATE")
        with pytest.raises(VaultError, match="cannot be written: database is locked"):
            counts.write(Counted(4, 10, b"", {"bob": 2}))
        file.execute("ROLLBACK")
    counts.write(Counted(5, 11, b"", {"bob": 3}))
    counts.close()
    assert UseCounts.open(path, KEY)[1] == Counted(5, 11, b"", {"alice": 6, "": 3, "bob": 3})


def test_a_file_whose_tables_have_names_that_are_no_text_is_damaged(tmp_path):
    """SQLite quotes them in what it says, which is no text then. Found by benchmarks/fuzz."""
    path = tmp_path / "a.counts"
    made(path).close()
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE clients", b"CRE\xa0TE TABLE clients"))
    with pytest.raises(VaultError, match="is damaged: names in it are no text"):
        UseCounts.open(path, KEY)

"""Files of an owner's data: what becomes of them, and what is refused, with words that say where."""

import numpy as np
import pytest

from protocols.errors import InputError
from protocols.owner.tables import read

SHEET = "id,age,weight,ill\np1,0.5,1e-1,1\np2,-0.25,2,0\n\n"


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content, encoding="utf-8")
    return path


def test_a_sheet(tmp_path):
    found = read(written(tmp_path, "ward.csv", "\ufeff" + SHEET), labels="ill", ids="id")
    np.testing.assert_array_equal(found.arrays[".x"], [[0.5, 0.1], [-0.25, 2]])
    assert found.arrays[".y"].tolist() == [1, 0]
    assert found.arrays[".y"].dtype.kind == "i"
    assert found.ids == ["p1", "p2"]


def test_a_sheet_of_targets_and_one_of_features_alone(tmp_path):
    path = written(tmp_path, "ward.csv", "dose,age\n0.5,1\n1.5,2\n")
    assert read(path, labels="dose").arrays[".y"].dtype == np.float64
    assert read(path).arrays.keys() == {".x"}
    assert read(path).ids is None


def test_arrays(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    np.savez(tmp_path / "b.npz", x=np.ones((2, 3)), y=np.array([0, 1]), who=np.array(["a", "b"]))
    assert read(tmp_path / "a.npy").arrays[""].shape == (2, 3)
    found = read(tmp_path / "b.npz", ids="who")
    assert found.arrays.keys() == {".x", ".y"}
    assert found.ids == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "settings", "match"),
    [
        ("a.csv", "", {}, "0 lines"),
        ("a.csv", "x\n", {}, "1 lines"),
        ("a.csv", "x,y\n1,2\n3\n", {}, "line 3: 1 values for 2 columns"),
        ("a.csv", "x,y\n1,n/a\n", {}, "column 'y': 'n/a' is no number"),
        ("a.csv", "x,y\n1,inf\n", {}, "column 'y': 'inf' is no number"),
        ("a.csv", "x,y\n1,ill\n", {"labels": "y"}, "column 'y': 'ill' is no number"),
        ("a.csv", SHEET, {"labels": "sick"}, "0 columns 'sick'"),
        ("a.csv", "x,x\n1,2\n", {"labels": "x"}, "2 columns 'x'"),
        ("a.csv", b"\xff\xfe\xff", {}, "cannot be read"),
        ("a.npy", "rubbish", {}, "cannot be read"),
        ("a.npy", b"", {}, "cannot be read"),
        ("a.npz", b"PK", {}, "cannot be read"),
        ("a.npy", "", {"labels": "y"}, "named for a .csv"),
        ("a.npy", "", {"ids": "y"}, "no record ids"),
        ("a.txt", "1", {}, "end in .npy, .npz or .csv"),
    ],
)
def test_files_that_are_refused(tmp_path, name, content, settings, match):
    with pytest.raises(InputError, match=match):
        read(written(tmp_path, name, content), **settings)


def test_pickles_and_missing_names_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", x=np.ones(2))
    with pytest.raises(InputError, match="no array 'ids'; it has x"):
        read(tmp_path / "b.npz", ids="ids")
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "missing.csv")

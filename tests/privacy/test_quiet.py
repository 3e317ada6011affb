"""What Keras writes when it begins is held back, and shown if it cannot begin."""

import os

import pytest

from privacy.keras_models.quiet import held_back


def test_what_is_written_to_standard_error_is_thrown_away_unless_the_block_fails(capfd):
    with held_back():
        os.write(2, b"a line of C++\n")
    assert capfd.readouterr().err == ""

    def fail() -> None:
        with held_back():
            os.write(2, b"why\n")
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert "why" in capfd.readouterr().err
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "afterwards\n"

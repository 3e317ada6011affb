"""The passphrase of an authority, from whoever sits there or from a private file."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from federated.authority.authority import Authority
from federated.authority.key_file import is_encrypted
from federated.authority.private_files import read_private
from federated.authority.settings import PASSPHRASE_FILE
from federated.errors import KeysError


def opened_authority(folder: Path, passphrase_file: Path | None) -> Authority:
    """Return the authority in a folder, which asks for its passphrase once, and only if it has something to sign.

    Args:
        folder: of the authority.
        passphrase_file: with its passphrase; None: who sits there is asked.

    Raises:
        KeysError: it is no such folder.
    """
    known: list[str | None] = []

    def phrase() -> str | None:
        if not known:
            known.append(_passphrase(folder / "ca.key", passphrase_file))
        return known[0]

    return Authority(folder, phrase)


def _passphrase(key: Path, file: Path | None) -> str | None:
    if not is_encrypted(key):
        return None
    return passphrase_in(file) if file is not None else _typed("passphrase of the authority", confirm=False)


def new_passphrase(file: Path | None) -> str:
    """Return the passphrase in a file, or that somebody has typed twice; raise `KeysError` as `passphrase_in`, or if nobody is there."""
    return passphrase_in(file) if file is not None else _typed("passphrase for the authority (12 characters or more)", confirm=True)


def _typed(what: str, *, confirm: bool) -> str:
    if not sys.stdin.isatty():
        raise KeysError(f"nobody can be asked for the passphrase here: give --passphrase-file, or {PASSPHRASE_FILE}")
    return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))


def passphrase_in(file: Path) -> str:
    """Return the passphrase in a file; raise `KeysError` if others can read it, or it cannot be read as text."""
    try:
        text = read_private(file).decode()
    except UnicodeDecodeError:
        raise KeysError(f"{file} is no text in UTF-8") from None
    return text.rstrip("\r\n")

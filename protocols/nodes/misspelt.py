"""What somebody has misspelt in a table of a cluster file: a role, or the name of a field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

import msgspec


def misspelt(table: object, kinds: Collection[type[msgspec.Struct]]) -> str:
    """Return what is no role, or no field of its role, and what may have been meant; empty if there is nothing like that.

    Args:
        table: as it was read.
        kinds: what it may be; their tags are the roles.
    """
    if not isinstance(table, Mapping):
        return ""
    by_role = {str(kind.__struct_config__.tag): kind for kind in kinds}
    role = table.get("role")
    if not isinstance(role, str):
        return "" if "role" in table else f"missing required field `role`; the roles are {', '.join(by_role)}"
    if role not in by_role:
        return f"role = {role!r} is none{_meant(role, by_role)}; the roles are {', '.join(by_role)}"
    return unknown_field({name for name in table if name != "role"}, by_role[role].__struct_fields__, f"a node with role = {role!r}")


def unknown_field(given: Collection[str], known: Collection[str], what: str) -> str:
    """Return which name is none of those that are known, and which may have been meant; empty if all are known.

    Args:
        given: names of fields.
        known: those that there are.
        what: has these fields: the subject of a sentence.
    """
    wrong = next((name for name in given if name not in known), None)
    return "" if wrong is None else f"unknown field `{wrong}`{_meant(wrong, known)}; {what} has {', '.join(known)}"


def _meant(wrong: str, known: Collection[str]) -> str:
    close = get_close_matches(wrong, known, n=1)
    return f": did you mean {close[0]}?" if close else ""

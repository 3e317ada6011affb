"""One thing that was looked at: whether it is as it should be, and what to do if not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Verdict: TypeAlias = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        about: what was looked at, in a word or two; of a node with its name.
        verdict: "fault": it does not work; "warning": it works, and something should be done.
        text: what was observed.
        todo: what to do; empty if nothing.
        figures: name -> number, for programs.
    """

    about: str
    verdict: Verdict
    text: str
    todo: str = ""
    figures: dict[str, float] | None = None

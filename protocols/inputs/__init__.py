"""Inputs of programs: their ranges, their integers, and what two servers do with the message of a client that may send what it likes.

`ranges.py` has a range for each feature, `encoding.py` makes integers of an input at its client, and refuses what lies outside.

At the servers start with `clamp.py`, which cuts what was sent into the declared range; by `agreement.py` both servers know that they were
sent the same. Whoever is told a program checks what it says of its input with `declared.py`.
"""

__all__ = ["agreement", "clamp", "declared", "edges", "encoding", "ranges"]

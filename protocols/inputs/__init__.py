"""What two servers do with the message of a client that may send what it likes.

Start with `clamp.py`, which cuts what was sent into the declared range; by `agreement.py` both servers know that they were sent the same.
"""

__all__ = ["agreement", "clamp"]

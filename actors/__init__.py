"""Typed actors over asyncio: programs that talk, in one process or over WebSocket, in the same way.

Start reading in `actor.py` (what an actor is), then `system.py` (where it lives). How a message travels: `reference.py`, `schema.py`,
then `memory.py`, or `dialed.py`, `peer.py`, `wire.py` and `websocket.py`; how it is handled: `mailbox.py`, `cell.py`; what protects a
system from strangers: `guard`. This package knows nothing of machine learning or cryptographic protocols.
"""

import sys

from lazy_loader import attach_stub

if sys.platform == "win32":
    raise ImportError("confide runs on Linux and macOS; on Windows, install it inside WSL 2, where it is on Linux")

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)

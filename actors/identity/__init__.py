"""Who sends a message: what a connection has shown about the system at its other end. Start in `caller.py`.

`published.py` is how processes of one user on one machine find each other's keys, `proofs.py` how they prove to have them. Neither knows
a socket or an event loop.
"""

from actors.identity.caller import LOCAL, Caller, caller

__all__ = ["LOCAL", "Caller", "caller"]

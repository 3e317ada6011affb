"""A server learns the sum of the owners' vectors and nothing else, whoever drops out (Bonawitz et al., CCS 2017; Bell et al., CCS 2020).

Start reading at `session.py` (what everybody agrees on), then `owner.py` and `server.py` (the five rounds), `masks.py` and `shamir.py`.
Nothing here knows a network or an event loop: messages go in and out as values.
"""

from protocols.secure_aggregation.owner import Owner
from protocols.secure_aggregation.server import Server
from protocols.secure_aggregation.session import Terms, terms

__all__ = ["Owner", "Server", "Terms", "terms"]

"""A server learns the sum of the owners' vectors and nothing else, whoever drops out (Bonawitz et al., CCS 2017; Bell et al., CCS 2020).

Start reading at `session.py` (what everybody agrees on), then `owner.py` and `server.py` (the five rounds), `masks.py` and `shamir.py`.
Nothing here knows a network or an event loop: messages go in and out as values.
"""

from protocols.secure_aggregation.owner import AggregationOwner
from protocols.secure_aggregation.server import AggregationServer
from protocols.secure_aggregation.session import AggregationTerms, terms

Owner, Server, Terms = AggregationOwner, AggregationServer, AggregationTerms
"""The same by the names that programs by hand use."""

__all__ = ["AggregationOwner", "AggregationServer", "AggregationTerms", "Owner", "Server", "Terms", "terms"]

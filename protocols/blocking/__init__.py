"""The forms of `protocols.Cluster` and `protocols.connect` for callers that block: `cluster.py`, `client.py`, both on `loop.py`."""

"""The authority that signs the certificates of a cluster, and what its members do with them. Start in `authority.py`."""

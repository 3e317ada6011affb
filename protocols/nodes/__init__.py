"""The workers of a cluster file, for whoever shares with them or asks them: `worker_nodes.py`, `worker_file.py`, `certificate.py`.

What else such a file may say, of owners and aggregators, is known to `federated/machines/cluster_file.py` only.
"""

"""Several machines: the cluster file, certificates, nodes, owners that join."""

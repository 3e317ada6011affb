"""Inputs that nobody meant: mutations of what is read from other machines and from disks. `python -m benchmarks.fuzz --help`."""

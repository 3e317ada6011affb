"""Owners in this process, in a pool, on a Ray cluster."""

from federated.simulation.simulated import SimulatedOwners, simulated_owners

__all__ = ["SimulatedOwners", "simulated_owners"]

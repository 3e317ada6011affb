"""The mechanisms of `privacy` that a federation takes, under its own name."""

from privacy import DPSGD, CentralGaussian, DistributedGaussian, LocalGaussian, TreeGaussian

__all__ = ["DPSGD", "CentralGaussian", "DistributedGaussian", "LocalGaussian", "TreeGaussian"]

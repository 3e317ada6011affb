"""Shares at rest at a worker."""

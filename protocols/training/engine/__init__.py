"""Circuits: how a step is evaluated and dealt."""

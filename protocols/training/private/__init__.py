"""Differentially private training: what one example can change is bounded, and noise is added, all of it on shares."""

"""The ring, fixed point, shapes."""

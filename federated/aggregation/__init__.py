"""How the updates of a round become one, and who sees them."""

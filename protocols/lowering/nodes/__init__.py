"""A network in the owner's hands: plain nodes with real weights."""

"""The actors that run at the three workers."""

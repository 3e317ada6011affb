"""What travels between the aggregator and an owner."""

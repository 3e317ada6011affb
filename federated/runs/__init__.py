"""A run at the aggregator: many rounds, the global model, its files."""

"""What a party has and how it speaks: rounds, key streams, correlated randomness."""

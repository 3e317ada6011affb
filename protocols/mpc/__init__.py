"""Programs on shares: what is computed, by two servers, a dealer, or in the clear."""

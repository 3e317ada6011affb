"""What owners leave with the workers."""

"""What becomes of the updates of a round."""

"""What a differentially private training on shares promises, what it has spent, and where that is written down."""

"""What is trained and what stays frozen."""

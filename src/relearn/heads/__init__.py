"""What is trained on features, and how it is fitted."""

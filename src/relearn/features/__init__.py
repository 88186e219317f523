"""One row of numbers per image, kept by content."""

"""What data must be, checked by Great Expectations before anything learns from it."""

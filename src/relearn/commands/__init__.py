"""What you ask after a run: comparisons, mistakes, a report."""

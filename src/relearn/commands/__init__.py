"""What a person asks afterwards: comparisons, mistakes, a report."""

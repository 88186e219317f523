"""What was found about a classifier, on pages."""

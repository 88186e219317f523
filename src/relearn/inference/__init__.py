"""A classifier, applied to images."""

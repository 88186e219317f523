"""Prefect: the order of things, and what a person sees of them. No arithmetic."""

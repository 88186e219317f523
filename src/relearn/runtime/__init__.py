"""Threads, libraries, progress, and text for a terminal."""

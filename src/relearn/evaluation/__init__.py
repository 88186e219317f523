"""The arithmetic of answers: metrics, intervals, comparisons."""

"""Reproducible transfer learning for image classification."""

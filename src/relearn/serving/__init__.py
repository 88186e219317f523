"""An exported model behind HTTP: answers, a page, metrics, and the next version without a stop."""

"""Log records as lines on a terminal."""

import logging

from relearn.runtime.text import escape_lines


class LineFormatter(logging.Formatter):
    """Formats records as lines that cannot control a terminal, whatever names of files they hold."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, escaped."""
        return escape_lines(super().format(record))


def print_lines(*lines: str) -> None:
    """Print lines on stdout, control characters escaped."""
    print(escape_lines("\n".join(lines)))

"""`python -m relearn`."""

from relearn.cli import main

main()

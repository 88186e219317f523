"""What a retraining may be asked for, beside its base: the parameters of the flow, and options of the command."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple


class Options(NamedTuple):
    """What one retraining does differently.

    overrides : other parameters than those of the base, as `KEY=VALUE`
    now : take what has landed, however recently it was written to
    force : run though nothing is new
    dry_run : decide, and record nothing
    """

    overrides: tuple[str, ...] = ()
    now: bool = False
    force: bool = False
    dry_run: bool = False


def parse_arguments(arguments: Sequence[str]) -> tuple[str, Options]:
    """Return the base and the options of a command line; wrong usage ends the process with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m flows.retrain", description="Retrain once, on what is new.")
    parser.add_argument("base", nargs="?", default="main", metavar="BASE", help="the branch that is retrained: main")
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="another parameter, as for `dvc exp run`",
    )
    parser.add_argument("--now", action="store_true", help="take what has landed, however recently it was written to")
    parser.add_argument("--force", action="store_true", help="run though nothing is new")
    parser.add_argument("--dry-run", action="store_true", help="decide, and record nothing")
    values = vars(parser.parse_args(arguments))
    return values.pop("base"), Options(**values | {"overrides": tuple(values["overrides"])})

"""What the arguments of commands may be; one that can never be right is wrong usage."""

import re
import sys

import typer

from relearn.runtime.text import escape_controls


def check_name(value: str | None) -> str | None:
    """Refuse an empty name, as of an unset variable, which must not stand for the default."""
    if value == "":
        raise typer.BadParameter("wanted a name, got an empty one")
    return value


def check_network(value: str) -> str:
    """Refuse what is neither `auto` nor the name of a network."""
    from relearn.params.networks import NETWORKS
    from relearn.params.reading import suggest_word

    if value not in ("auto", *NETWORKS):
        raise typer.BadParameter(
            f"wanted auto or one of {', '.join(NETWORKS)}, got {value!r}{suggest_word(value, list(NETWORKS))}"
        )
    return value


def check_revision(value: str) -> str:
    """Refuse what git cannot call a revision."""
    if not value or escape_controls(value) != value:
        raise typer.BadParameter(
            f"wanted a revision of git, or `workspace`, got {value!a}; `git log` and `git tag` list revisions"
        )
    return value


def check_split(value: str | None) -> str | None:
    """Refuse what is no split."""
    from relearn.dataset.manifest import SPLITS

    if value is not None and value not in SPLITS:
        raise typer.BadParameter(f"wanted {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, got {value!r}")
    return value


def check_version(value: str | None) -> str | None:
    """Refuse what is no version and no tag of one."""
    from relearn.repository.tags import VERSION

    if value is not None and not VERSION.fullmatch(value):
        raise typer.BadParameter(f"wanted a version such as v1, or its tag classifier@v1.0.0, got {value!r}")
    return value


def check_feature_sets(values: list[str] | None) -> list[str] | None:
    """Refuse names that no feature set has."""
    for value in values or []:
        if not re.fullmatch("[0-9a-f]{1,64}", value):
            raise typer.BadParameter(f"wanted hexadecimal digits, as `relearn store show` prints them, got {value!r}")
    return values


def show_version(is_wanted: bool) -> None:
    """Print the version of relearn, and end, if that is wanted."""
    if is_wanted:
        from relearn import __version__

        print(f"relearn {__version__}")
        raise typer.Exit


def ask_person(question: str) -> bool:
    """Return the answer that is typed on the terminal; without a terminal that is wrong usage."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("wanted --yes, or a terminal to ask on, got neither; nothing was written")
    return typer.confirm(question, default=True)

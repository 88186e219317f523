"""`relearn store`: the feature store, seen and pruned."""

from typing import Annotated

import typer

from relearn import paths
from relearn.commands.arguments import check_feature_sets
from relearn.commands.lines import print_lines
from relearn.commands.place import enter_root

app = typer.Typer(no_args_is_help=True, help="Show, check and prune the feature store.")


@app.command("show")
def show_store() -> None:
    """Show what the store holds: one line per feature set, the last used first."""
    enter_root()
    from relearn.features.store import describe_store

    print_lines(*describe_store(paths.find_feature_store()))


@app.command("check")
def check_store() -> None:
    """Read every feature, and remove those with a wrong hash."""
    enter_root()
    from relearn.features.store import open_store

    with open_store(paths.find_feature_store()) as opened:
        print(f"{opened.remove_damaged():,} damaged, removed")


@app.command("prune")
def prune_store(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Names that `show` prints.", callback=check_feature_sets),
    ] = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Feature sets unused for this many days.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All feature sets.")] = False,
) -> None:
    """Remove feature sets; features that are needed again are computed again."""
    from relearn.features.store import open_store, remove_store

    if bool(names or unused_days is not None) == everything:
        raise typer.BadParameter("wanted names or --unused-days, or else --all")
    enter_root()
    if everything:
        print(f"all removed, {remove_store(paths.find_feature_store()) / 1e6:,.1f} MB given back")
        return
    with open_store(paths.find_feature_store()) as opened:
        chosen = opened.choose_feature_sets(names or [], unused_days)
        before = opened.measure_bytes()
        opened.prune(chosen)
        print(f"{len(chosen)} removed, {(before - opened.measure_bytes()) / 1e6:,.1f} MB given back")

"""The commands about what retraining promoted, and whether it does."""

from pathlib import Path
from typing import Annotated

import typer

from relearn import paths
from relearn.commands.arguments import check_name, check_version
from relearn.commands.lines import print_lines
from relearn.commands.place import enter_root, locate, read_root_params

app = typer.Typer()
Base = Annotated[str, typer.Option(help="The retrained branch, whose params.yaml counts.", callback=check_name)]


@app.command(rich_help_panel="Retraining")
def decide(
    champion: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="The champion, a folder of release/; by default release/current."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the whole decision there as JSON.")] = None,
) -> None:
    """Decide whether the challenger, which was just trained, is promoted in place of the champion."""
    from relearn.retraining.candidate import describe_json, describe_outcome, judge_challenger
    from relearn.retraining.release import CURRENT, find_current
    from relearn.storage.files import write_file

    here = enter_root(needs_params=True)
    if champion:
        champion = here / champion
    elif find_current(paths.RELEASE):
        champion = (paths.RELEASE / CURRENT).resolve()
    outcome = judge_challenger(champion, read_root_params().retrain)
    if output:
        with write_file(here / output) as file:
            file.write(describe_json(outcome).encode())
    print_lines(describe_outcome(outcome))


@app.command(rich_help_panel="Retraining")
def rollback(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[TAG]", help="Such as v1; by default the version before.", callback=check_version),
    ] = None,
    base: Base = "main",
) -> None:
    """Make an earlier classifier the production model again, and record that."""
    enter_root()
    from relearn.retraining.rollback import roll_back
    from relearn.retraining.settings import read_settings

    print_lines(*roll_back(Path(), read_settings(Path(), base).branch, version))


@app.command(rich_help_panel="Retraining")
def adopt(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[TAG]", help="Such as v2; by default the production model.", callback=check_version),
    ] = None,
    base: Base = "main",
) -> None:
    """Merge a promoted classifier with its data into the branch that you are on, and check its files out."""
    enter_root()
    from relearn.retraining.adoption import adopt
    from relearn.retraining.settings import read_settings

    print_lines(*adopt(Path(), read_settings(Path(), base).branch, version))


@app.command(rich_help_panel="Retraining")
def lineage(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL_OR_TAG]",
            help="A tag, its version, a revision or a folder; by default release/current, without a release HEAD.",
            callback=check_name,
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="An image, or its SHA-256: list the classifiers that saw it.", callback=check_name),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, each image by its hash.")] = False,
) -> None:
    """Show which images, parameters, code and environment made a classifier, or which classifiers saw an image."""
    import json as format_json

    from relearn.retraining.lineage import (
        check_all_known,
        describe_lineage,
        find_image_hash,
        find_image_uses,
        find_lineage,
    )

    if model is not None and image is not None:
        raise typer.BadParameter("wanted a model or --image, got both")
    here = enter_root()
    if image is None:
        found = find_lineage(locate(here, model) if model else None)
        print_lines(format_json.dumps(found._asdict(), indent=2) if json else "\n".join(describe_lineage(found)))
        return
    sha256 = find_image_hash(locate(here, image))
    uses, unknown = find_image_uses(sha256)
    if json:
        print(format_json.dumps({"sha256": sha256, "splits": dict(uses)}, indent=2))
    else:
        none = [] if unknown else [f"no classifier that was promoted has seen {sha256}"]
        print_lines(*[f"{tag}  {split}" for tag, split in uses] or none)
    check_all_known(unknown)

"""The commands that bring a classifier out of the repository."""

from pathlib import Path
from typing import Annotated

import typer

from relearn import paths
from relearn.commands.arguments import check_name, check_version
from relearn.commands.lines import print_lines
from relearn.commands.place import enter_root, locate

app = typer.Typer()


@app.command(rich_help_panel="Deployment")
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A classifier's folder, such as release/current, or a tag; by default models/classifier.",
            callback=check_name,
        ),
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where it goes; it is made.")
    ] = paths.EXPORTED,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize the network: smaller, faster, nearly the same.")
    ] = False,
    any_size: Annotated[bool, typer.Option("--any-size", help="Let the model resize images.")] = False,
    features: Annotated[bool, typer.Option("--features", help="Let the model return the features too.")] = False,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Leave an export of the same classifier as it is.")
    ] = False,
    version_name: Annotated[
        str | None,
        typer.Option(help="Record this version.", show_default="that of the tag or release", callback=check_version),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The network's weights file, if it has moved since the training.")
    ] = None,
) -> None:
    """Write a classifier as one ONNX model that needs neither keras nor this repository."""
    here = enter_root()
    from relearn.commands.export import run_export
    from relearn.exporting.export import ExportOptions

    options = ExportOptions(any_size=any_size, has_features=features, is_int8=int8)
    name = locate(here, model) if model else None
    weights = weights and here / weights
    print_lines(*run_export(name, here / output, options, version_name, weights, is_kept_if_same=if_changed))

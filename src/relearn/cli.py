"""The command `relearn`: arguments in, exit codes out. Each command imports what it needs when it runs."""

import importlib
import io
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from relearn import paths
from relearn.commands import deployment, release, serve, store
from relearn.commands.arguments import (
    ask_person,
    check_name,
    check_network,
    check_revision,
    check_split,
    show_version,
)
from relearn.commands.extras import describe_missing
from relearn.commands.lines import LineFormatter, print_lines
from relearn.commands.place import check_code, enter_root, locate, read_root_params, warn_of_changes
from relearn.commands.shortage import check_address_space, describe_shortage, is_shortage
from relearn.errors import RelearnError
from relearn.runtime.text import count_nouns, escape_lines

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn a folder of labeled images into a classifier, and prove where it came from. "
    "The stages read params.yaml; `dvc repro` runs those that are out of date, in order. Run it in a clone, or in any "
    "folder of one.",
)
app.add_typer(store.app, name="store")
app.add_typer(release.app)
app.add_typer(deployment.app)
app.add_typer(serve.app)
Inputs = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, https:// or -.")]
Offline = Annotated[bool, typer.Option("--offline", help="Read no https:// address.")]
Weights = Annotated[Path | None, typer.Option(help="The network's weights file, if it has moved since the training.")]
Model = Annotated[Path | None, typer.Option(help="The folder of the classifier.", show_default=str(paths.CLASSIFIER))]


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version, and exit.", is_eager=True, callback=show_version)
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _run_stage(name: str, *shared_blocks: str) -> None:
    enter_root(needs_params=True)
    check_code(Path.cwd())
    params = read_root_params()
    blocks = [params.get_block(block) for block in (name, *shared_blocks)]
    importlib.import_module(f"relearn.stages.{name}").run(*blocks)


def _add_stage(name: str, text: str, *shared_blocks: str) -> None:
    @app.command(name, help=text, rich_help_panel="Stages")
    def _run() -> None:
        _run_stage(name, *shared_blocks)


_add_stage("restructure", "Bring the images of any layout into data/dataset/SPLIT/CLASS/, and write a manifest.")
_add_stage("validate", "Check the images; bad data stops the pipeline.")
_add_stage("finetune", "Train the upper part of the network, if finetune.epochs says so.", "augment", "extract")
_add_stage("extract", "Run every image through the network once, and keep its features.", "augment")
_add_stage("verify", "Check the features before anything learns from them.")
_add_stage("train", "Fit heads on the features, and choose one.")
_add_stage("evaluate", "Evaluate the classifier on the evaluation (test) split, or in folds of all images.", "train")


@app.command()
def init(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="The folder or archive of images.", callback=check_name)
    ],
    network: Annotated[
        str, typer.Option(help="One of keras.applications; auto: the first with weights.", callback=check_network)
    ] = "auto",
    yes: Annotated[bool, typer.Option("--yes", help="Write params.yaml without asking.")] = False,
    add: Annotated[bool, typer.Option("--add", help="Let DVC track the images too (dvc add).")] = False,
) -> None:
    """Look at your images, and fit params.yaml to them."""
    from relearn.commands.init import run_init

    here = enter_root(needs_params=True)
    run_init(str(here / source), network, (lambda _: True) if yes else ask_person, is_added=add)


@app.command()
def predict(
    inputs: Inputs,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    model: Annotated[
        Path | None,
        typer.Option(help="A classifier's folder, or an exported model.", show_default=str(paths.CLASSIFIER)),
    ] = None,
    weights: Weights = None,
    offline: Offline = False,
) -> None:
    """Predict the classes of new images."""
    if json and csv:
        raise typer.BadParameter("--json or --csv, not both")
    from relearn.commands.predict import print_answers
    from relearn.inference.loading import load_model

    here = enter_root(is_needed=model is None and not paths.CLASSIFIER.exists())
    predictor = load_model(here / model if model else paths.CLASSIFIER, here / weights if weights else None)
    os.chdir(here)  # the classifier's own paths start from the root, those of the images here
    result = predictor.predict_files(inputs, is_online=not offline)
    print_answers(result, "json" if json else "csv" if csv else "table")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def explain(
    inputs: Inputs,
    *,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a page with the maps there.")] = None,
    label: Annotated[
        str | None,
        typer.Option(help="The class to explain.", show_default="the predicted one", callback=check_name),
    ] = None,
    model: Model = None,
    weights: Weights = None,
    offline: Offline = False,
) -> None:
    """Show which places of new images speak for their predicted classes."""
    from relearn.commands.explain import print_explained
    from relearn.commands.predict import log_failures

    here = enter_root(is_needed=model is None and not paths.CLASSIFIER.exists())
    from relearn.explanation.explainer import Explainer

    folder, weights = here / model if model else paths.CLASSIFIER, here / weights if weights else None
    explainer = Explainer(folder, weights, is_lazy=False)
    os.chdir(here)  # the classifier's own paths start from the root, those of the images here
    failures = print_explained(explainer, inputs, label, output, is_online=not offline)
    log_failures(failures)
    if failures:
        raise typer.Exit(1)


@app.command()
def similar(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, or 6 digits or more of a SHA-256.", callback=check_name)
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many.")] = 5,
    split: Annotated[
        str | None, typer.Option(help="Only images of this split.", show_default="all", callback=check_split)
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with the pictures there.")] = None,
) -> None:
    """Show the images of the dataset that are the most similar to an image, by their features."""
    here = enter_root()
    from relearn.commands.similar import describe_similar, find_similar, write_similar

    found = find_similar(locate(here, image), k, split)
    print_lines(*describe_similar(found))
    if page:
        write_similar(here / page, found)
        print_lines(f"{here / page}: {count_nouns(len(found.neighbors), 'similar image')}")


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(
            metavar="REV_A", help="A branch, tag, commit or experiment, or `workspace`.", callback=check_revision
        ),
    ] = "HEAD",
    second: Annotated[
        str, typer.Argument(metavar="REV_B", help="What is compared with it.", callback=check_revision)
    ] = "workspace",
    json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
) -> None:
    """Compare the classifiers of two revisions on the same evaluation images."""
    if json and md:
        raise typer.BadParameter("--json or --md, not both")
    enter_root()
    from relearn.commands.compare import compare_revisions, describe_json, describe_markdown, print_table

    comparison = compare_revisions(first, second)
    if json:
        print(describe_json(comparison))
    elif md:
        print(describe_markdown(comparison))
    else:
        print_table(comparison)


@app.command()
def report() -> None:
    """Show how good the classifier is, from the last evaluation."""
    enter_root()
    warn_of_changes()
    from relearn.commands.report import describe_evaluation

    pages = [str(page) for page in (paths.VALIDATION_PAGE, paths.EVALUATION_PAGE) if page.is_file()]
    print_lines(*describe_evaluation(), *([f"pages: {', '.join(pages)}"] if pages else []))


@app.command()
def suite(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the files go; it is made.")],
) -> None:
    """Write the checks of the images as suites of Great Expectations, with the tables that they are about."""
    from relearn.commands.suite import export_suites

    target = (enter_root(needs_params=True) / folder).absolute()
    print_lines(*export_suites(target, read_root_params().validate_))


@app.command()
def mistakes(
    output: Annotated[
        Path | None, typer.Option(help="Write the page there.", show_default=str(paths.MISTAKES_PAGE))
    ] = None,
    md: Annotated[
        int | None,
        typer.Option(
            min=1, max=48, metavar="N", help="Print the first N as Markdown; with pictures into a file or pipe."
        ),
    ] = None,
) -> None:
    """Write a page of the evaluated images that are predicted wrong, the worst first."""
    from relearn.commands.mistakes import describe_markdown, find_mistakes, write_mistakes

    here = enter_root()
    warn_of_changes()
    page = here / output if output else paths.MISTAKES_PAGE
    write_mistakes(page, found := find_mistakes())
    if md:
        print_lines(describe_markdown(found, md, has_pictures=not sys.stdout.isatty()))
    else:
        print_lines(f"{page}: {count_nouns(len(found.mistakes), 'mistake')}")


@app.command()
def suspects(n: Annotated[int, typer.Option("--n", min=1, max=1000, metavar="N", help="How many.")] = 50) -> None:
    """Write a page and a table of the labels to look at first, because another class is likelier."""
    from relearn.commands.suspects import write_suspects

    enter_root(needs_params=True)
    print_lines(*write_suspects(n, read_root_params()))


@app.command()
def views(
    output: Annotated[
        Path | None, typer.Option(help="Write the page there.", show_default=str(paths.VIEWS_PAGE))
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="The number of images.")] = 12,
) -> None:
    """Write a page of training images with augmented views of them, by the block augment of params.yaml."""
    from relearn.commands.views import N_VIEWS, write_views

    here = enter_root(needs_params=True)
    page = here / output if output else paths.VIEWS_PAGE
    params = read_root_params()
    n_images = write_views(page, params.extract, params.augment, images)
    print_lines(f"{page}: {N_VIEWS} views of {count_nouns(n_images, 'image')}")


def main() -> None:
    """Run the command line; the one place where an error becomes an exit code."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("relearn").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # no reason to refuse an image
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        check_address_space()
        app()
    except RelearnError as error:
        _fail(str(error), error.exit_code)
    except (MemoryError, ImportError, RuntimeError, OSError) as error:
        if missing := describe_missing(error):
            _fail(missing)
        if is_shortage(error):
            _fail(describe_shortage(next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")))
        if not isinstance(error, OSError):
            raise
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}")


def _fail(message: str, exit_code: int = RelearnError.exit_code) -> None:
    print(escape_lines(f"relearn: {message}"), file=sys.stderr)
    sys.exit(exit_code)

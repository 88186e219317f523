"""`relearn serve`: an exported model behind HTTP."""

import logging
import re
from pathlib import Path
from typing import Annotated

import typer

from relearn import paths
from relearn.commands.place import enter_root
from relearn.errors import IntegrityError
from relearn.serving.settings import Settings, read_token

log = logging.getLogger(__name__)

CURRENT = paths.RELEASE / "current"
DEFAULTS = Settings()

app = typer.Typer()


@app.command(rich_help_panel="Deployment")
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]",
            help=f"What `relearn export` wrote; by default {CURRENT}, if it was exported there, else {paths.EXPORTED}.",
        ),
    ] = None,
    *,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A page whose scripts may ask, such as https://example.org; repeatable."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of one request.")] = DEFAULTS.max_bytes,
    max_files: Annotated[int, typer.Option(min=1, max=256, help="Of one request.")] = DEFAULTS.max_files,
    max_pixels: Annotated[int, typer.Option(min=1, max=250_000_000, help="Of one image.")] = DEFAULTS.max_pixels,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds to receive one request.")
    ] = DEFAULTS.timeout_seconds,
    record: Annotated[Path | None, typer.Option(help="Keep images and answers there, hidden, for labeling.")] = None,
    record_limit: Annotated[int, typer.Option(min=1, help="The bytes to keep; then nothing more is kept.")] = (
        DEFAULTS.record_limit_bytes
    ),
) -> None:
    """Answer over HTTP which class an image has; the header `Authorization` is checked if RELEARN_TOKEN is set."""
    origins = [check_origin(origin) for origin in cors or ()]
    here = enter_root(is_needed=False)
    from relearn.inference.exported import find_folder
    from relearn.serving.running import serve as run_server

    folder = find_folder(here / model) if model else find_exported()
    settings = Settings(
        max_bytes=max_bytes,
        max_files=max_files,
        max_pixels=max_pixels,
        timeout_seconds=timeout,
        token=read_token(),
        origins=tuple(origins),
        record=record and here / record,
        record_limit_bytes=record_limit,
    )
    run_server(folder, host, port, settings)


def find_exported() -> Path:
    """Return the exported model that is served by default.

    Raises
    ------
    IntegrityError
        There is none.
    """
    from relearn.inference.exported import is_export

    if is_export(CURRENT):
        return CURRENT
    if is_export(paths.EXPORTED):
        if CURRENT.exists():
            log.warning("%s has no exported model (`retrain.export`), so %s is served", CURRENT, paths.EXPORTED)
        return paths.EXPORTED
    wanted = f"an exported model in {CURRENT} or {paths.EXPORTED}"
    raise IntegrityError(wanted=wanted, got="none", advice="run `make repro`, then `relearn export`")


def check_origin(origin: str) -> str:
    """Refuse what no browser sends as `Origin`."""
    if not re.fullmatch(r"https?://[a-z0-9.\-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:.]+\](:[0-9]{1,5})?", origin):
        raise typer.BadParameter(f"wanted an origin such as https://example.org, without a path, got {origin!a}")
    return origin

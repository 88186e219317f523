"""Stage `restructure`: any layout of labeled images becomes `data/dataset/SPLIT/CLASS/NAME` and a manifest."""

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from relearn import paths
from relearn.dataset.assignments import Assignment, read_assignments, write_assignments
from relearn.dataset.corrections import Corrected, apply_corrections, describe_corrections, read_corrections
from relearn.dataset.inspections import Inspections
from relearn.dataset.layouts import check_classes
from relearn.dataset.manifest import (
    SPLITS,
    Exclusion,
    ManifestRow,
    SourceDetails,
    describe_lost_classes,
    hash_tables,
    write_manifest,
)
from relearn.dataset.near_groups import group_images
from relearn.dataset.placing import Spool, name_images
from relearn.dataset.reading import SourceReader
from relearn.dataset.source_files import count_files, list_some
from relearn.dataset.splitting import Cut, split_images
from relearn.errors import SourceError
from relearn.images.fingerprints import write_hashes
from relearn.params.data import RestructureParams
from relearn.storage.files import write_csv, write_folder, write_json

log = logging.getLogger(__name__)


def run(params: RestructureParams) -> None:
    """Write `data/dataset/`, `data/manifest.csv` and the tables beside it.

    `data/splits.csv` is read and written again: an image keeps the split that it was given once.

    Every file of the source ends in the manifest or among the excluded. A file of a folder that has not changed since
    an earlier run is copied and not read. Bytes that were decoded before, in whichever file, are not decoded again.

    Raises
    ------
    SourceError
        The source cannot be read or a folder in it cannot be listed, no image is left, or the source changed meanwhile.
    IntegrityError
        `data/splits.csv` is damaged.
    """
    source = Path(params.source)
    check_source(source)
    known = read_assignments(paths.SPLITS)
    corrections = read_corrections(Path(params.corrections))
    with (
        write_folder(paths.DATASET) as folder,
        Inspections(paths.find_inspections(), params.max_megapixels * 1_000_000) as inspections,
    ):
        spool = Spool(folder / ".spool")
        reader = SourceReader(params, inspections, spool)
        images, excluded = reader.inspect_files()
        n_files = len(images) + len(excluded)
        images = group_images(images, params, known, spool.read_content)
        # After the groups: a correction moves no other image to another split.
        corrected = apply_corrections(images, corrections, Path(params.corrections))
        cut = split_images(corrected.kept, params, known)
        excluded += corrected.excluded + cut.excluded
        named = name_images(cut.kept)
        rows = [row for row, _ in named]
        spool.place_images(rows, folder)
        reader.check_unchanged()
        check_kept(rows, excluded, params)
    lost, folders = reader.find_lost_classes({row.label for row in rows} | corrected.changed_classes)
    named_paths = {exclusion.path for exclusion in excluded}  # a link to a folder is named already
    excluded += [folder for folder in folders if folder.path.rstrip("/") not in named_paths]
    write_assignments(paths.SPLITS, cut.assignments)
    write_manifest(paths.MANIFEST, rows)
    details = [SourceDetails(row.path, image.path, image.seen.contrast) for row, image in named]
    write_csv(paths.SIGHTINGS, SourceDetails._fields, details)
    write_hashes(paths.HASHES, len(named), (base64.b64decode(image.seen.hashes) for _, image in named))
    write_csv(paths.EXCLUDED, Exclusion._fields, sorted(excluded))
    write_csv(paths.CORRECTED, Corrected._fields, corrected.rows)
    write_json(paths.SOURCE, {"source": params.source, "n_files": n_files, "lost_classes": lost, **hash_tables()})
    _log_summary(source, rows, excluded)
    for write, text in zip((log.info, log.warning), describe_corrections(corrected.rows), strict=True):
        if text:
            write("%s: %s", params.corrections, text)
    _log_assignments(cut, known)
    if lost:
        log.warning("%s: no image was kept of %s", source, list_some(describe_lost_classes(lost)))
    reader.log_remarks()


def check_source(source: Path) -> None:
    """Raise `SourceError` if this stage would read what it writes, or delete what it reads."""
    inside, outside = source.resolve(), paths.DATASET.resolve()
    if outside.is_relative_to(inside) or inside.is_relative_to(outside):
        raise SourceError(
            where="restructure.source",
            wanted=f"a source apart from {paths.DATASET}, which this stage writes",
            got=repr(str(source)),
            advice="put the images below data/raw/",
        )


def check_kept(rows: list[ManifestRow], excluded: list[Exclusion], params: RestructureParams) -> None:
    """Raise `SourceError` if no image is left, or if the classes seem to be splits."""
    if rows:
        check_classes({row.label for row in rows}, params)
        return
    if not excluded:
        advice = "put images there, or set restructure.source"
        raise SourceError(where=Path(params.source), wanted="images", got="no file at all", advice=advice)
    kinds = Counter(exclusion.kind for exclusion in excluded)
    example = max(sorted(excluded), key=lambda exclusion: kinds[exclusion.kind])
    raise SourceError(
        where=Path(params.source),
        wanted=f"images in layout {params.layout}",
        got=f"none in {count_files(len(excluded))} ({_count_kinds(excluded)}), for example {example.path}: "
        f"{example.reason}",
        advice="see restructure.layout, subfolder, splits and labels",
    )


def _log_assignments(cut: Cut, known: Mapping[str, Assignment]) -> None:
    n_new = len(cut.assignments.keys() - known.keys())
    if n_new:
        log.info("%s: %s images got a split that they keep: commit the file", paths.SPLITS, f"{n_new:,}")
    for remark in cut.remarks:
        log.warning("%s", remark)


def _count_kinds(excluded: Iterable[Exclusion]) -> str:
    kinds = Counter(exclusion.kind for exclusion in excluded)
    return ", ".join(
        f"{kind}: {count:,}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )


def _log_summary(source: Path, rows: list[ManifestRow], excluded: list[Exclusion]) -> None:
    counts = Counter(row.split for row in rows)
    splits = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS)
    log.info("%s: %s images kept (%s) of %s classes", source, f"{len(rows):,}", splits, len({r.label for r in rows}))
    if excluded:
        log.info("%s excluded, listed in %s; %s", count_files(len(excluded)), paths.EXCLUDED, _count_kinds(excluded))

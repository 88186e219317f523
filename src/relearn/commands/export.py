"""`relearn export`: a classifier as one file that other programs run."""

import tempfile
from pathlib import Path

from relearn import paths
from relearn.errors import IntegrityError
from relearn.exporting.export import ExportOptions, export_classifier, is_export_of
from relearn.exporting.proof import describe_proof
from relearn.inference.exported import MODEL
from relearn.repository.tags import VERSION as TAGGED
from relearn.repository.tags import list_tags, name_tag, name_version
from relearn.retraining.release import VERSION
from relearn.retraining.versions import read_version


def run_export(
    model: str | None,
    target: Path,
    options: ExportOptions,
    version: str | None,
    weights: Path | None,
    *,
    is_kept_if_same: bool = False,
) -> list[str]:
    """Export a classifier, and return what there is to say.

    Parameters
    ----------
    model
        A folder, such as `release/current`, or a tag or version; by default `models/classifier`.
    version
        Recorded as the model's; by default that of the tag, or of the folder in `release/`.
    is_kept_if_same
        Whether an export of this classifier stays, if one is there, with whatever options it was made.

    Raises
    ------
    RelearnError
        As `export_classifier` and `read_version` raise.
    """
    folder = Path(model) if model else paths.CLASSIFIER
    if model and not folder.is_dir():
        if not TAGGED.fullmatch(model):
            known = ", ".join(map(name_version, list_tags())) or "none yet"
            raise IntegrityError(where=model, wanted=f"a classifier's folder, or a version ({known})", got="neither")
        tagged = name_version(name_tag(model))
        with tempfile.TemporaryDirectory() as temporary:
            for name, content in read_version(Path(), tagged).items():
                (Path(temporary) / name).write_bytes(content)
            return _export(
                Path(temporary), target, options, version or tagged, weights, is_kept_if_same=is_kept_if_same
            )
    folder = folder.resolve()
    is_released = folder.parent.parent == paths.RELEASE.resolve() and VERSION.fullmatch(folder.name)
    version = version or (folder.name if is_released else None)
    return _export(folder, target, options, version, weights, is_kept_if_same=is_kept_if_same)


def _export(
    folder: Path,
    target: Path,
    options: ExportOptions,
    version: str | None,
    weights: Path | None,
    *,
    is_kept_if_same: bool,
) -> list[str]:
    if is_kept_if_same and is_export_of(folder, target, version):
        return [f"{target / MODEL} is that of this classifier already"]
    record = export_classifier(folder, target, options, version, weights)
    megabytes = (target / MODEL).stat().st_size / 1e6
    proofs = {"": record.proof}
    if record.proof_any_size is not None:
        proofs = {" on the same pixels": record.proof, " on whole images": record.proof_any_size}
    return [
        f"{target / MODEL}: {megabytes:.1f} MB, {len(record.classes)} classes, sha256 {record.model_sha256}",
        *(f"proved{what}: {describe_proof(proof)}" for what, proof in proofs.items()),
        f"next: relearn serve {target}",
    ]

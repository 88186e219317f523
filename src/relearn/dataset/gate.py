"""Whether the images passed `validate`."""

from relearn import paths
from relearn.errors import ValidationFailed
from relearn.storage.files import hash_file, read_json


def check_gate() -> None:
    """Raise `ValidationFailed` unless this very manifest passed `validate`."""
    report = read_json(paths.VALIDATION_REPORT, ("passed", "manifest_sha256"))
    if report["manifest_sha256"] != hash_file(paths.MANIFEST):
        problem = f"the report is about another {paths.MANIFEST} than the one here"
        raise ValidationFailed(problem, where=paths.VALIDATION_REPORT, advice="run `dvc repro validate`")
    if report["passed"] is not True:
        raise ValidationFailed(
            f"the data did not pass: see {paths.VALIDATION_REPORT}", advice="fix the data, then run `dvc repro`"
        )

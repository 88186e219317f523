"""`params.yaml` as a whole: typed, frozen, every key required, no key unknown."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from relearn.params.augmentation import AugmentParams
from relearn.params.block import Block, Count, Fraction, Seed
from relearn.params.data import RestructureParams, ValidateParams, VerifyParams
from relearn.params.finetuning import FinetuneParams
from relearn.params.heads import TrainParams
from relearn.params.networks import ExtractParams
from relearn.params.reading import read_blocks


class EvaluateParams(Block):
    """Which images judge the classifier, and how sure the report is."""

    by: Literal["split", "folds"]
    n_resamples: Annotated[int, Field(ge=100, le=1_000_000)]
    resample: Literal["images", "groups"]
    n_bins: Annotated[int, Field(ge=2, le=1000)]
    n_explained: Annotated[int, Field(ge=0, le=120)]
    seed: Seed


class RetrainParams(Block):
    """When to retrain, and when a challenger is promoted; see `retraining.promotion`."""

    cron: Annotated[str, Field(min_length=1)]
    timezone: Annotated[str, Field(min_length=1)]
    branch: Annotated[str, Field(min_length=1)]  # `retraining.settings` asks git about it
    landing: Annotated[str, Field(min_length=1)] | None
    settle_seconds: Annotated[float, Field(ge=0, le=30 * 24 * 3600)]
    git_remote: Annotated[str, Field(min_length=1)] | None
    time_limit_minutes: Annotated[float, Field(gt=0, le=365 * 24 * 60)]
    margin: Annotated[float, Field(gt=0, lt=1)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    min_images: Count
    max_new_error_increase: Fraction
    export: bool
    deployments_may_override: bool


class Params(Block):
    """The whole of `params.yaml`."""

    restructure: RestructureParams
    # pydantic's own models have a method `validate`
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    augment: AugmentParams
    finetune: FinetuneParams
    extract: ExtractParams
    verify: VerifyParams
    train: TrainParams
    evaluate: EvaluateParams
    retrain: RetrainParams

    def get_block(self, name: str) -> Block:
        """Return a block by the name that it has in the file; that of a stage has the stage's name."""
        block: Block = getattr(self, "validate_" if name == "validate" else name)
        return block


def read_params(path: Path) -> Params:
    """Read and check `params.yaml`; see `read_blocks`."""
    return read_blocks(path, Params)

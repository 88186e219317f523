"""The parameters of the pretraining, as typed records."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from relearn.params.block import Block, Count
from relearn.params.reading import read_blocks

Share = Annotated[float, Field(gt=0, lt=1)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PrepareParams(Block):
    """Where CIFAR-10 is, and how much of its training images is held out."""

    source: str | None
    validation_fraction: Share


class PretrainParams(Block):
    """The recipe."""

    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Amount
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    crop_px: Annotated[int, Field(ge=0, le=31)]
    cutout_px: Annotated[int, Field(ge=0, le=32)]
    ema_momentum: Share | None
    precision: Literal["float32", "bfloat16"]
    seed: Annotated[int, Field(ge=0)]


class Settings(Block):
    """The whole of `params.yaml`."""

    prepare: PrepareParams
    pretrain: PretrainParams


def read_settings() -> Settings:
    """Read and check `params.yaml` of the current folder."""
    return read_blocks(Path("params.yaml"), Settings)

"""The block `finetune`: how the upper part of the network is trained, if at all."""

from typing import Annotated, Literal

from pydantic import Field

from relearn.params.block import Block, Count, Fraction, Seed

Rate = Annotated[float, Field(gt=0, le=1)]


class FinetuneParams(Block):
    """What learns, for how long and how fast; see `finetuning.training`."""

    epochs: Annotated[int, Field(ge=0, le=100_000)]
    from_layer: Annotated[str, Field(min_length=1)] | None
    learning_rate: Rate
    head_learning_rate: Rate
    layer_decay: Rate
    weight_decay: Fraction
    warmup_epochs: Annotated[float, Field(ge=0, le=100_000)]
    label_smoothing: Fraction
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    patience: Count
    keep: Literal["if_better", "always", "never"]
    views: Annotated[int, Field(ge=0, le=1000)] | None
    activations_gb: Annotated[float, Field(gt=0, le=1e6)]
    seed: Seed

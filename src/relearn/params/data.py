"""The blocks of the stages that bring in and check data: `restructure`, `validate`, `verify`."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from relearn.params.block import MAX_NUMBER, Block, Count, Fraction, Label

# Pillow's modes that can be decoded; see its concepts page.
Mode = Literal["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B"]
Format = Literal["AVIF", "BMP", "GIF", "HEIC", "JPEG", "PNG", "TIFF", "WEBP"]  # those of `formats.FORMATS`
MAX_PATTERN = 1000  # characters


class SplitFolders(Block):
    """The folder (or the word in a CSV file) that stands for each split in the source; null if it has none."""

    training: str
    validation: str | None
    evaluation: str

    @model_validator(mode="after")
    def _differ(self) -> "SplitFolders":
        if len({self.training, self.validation, self.evaluation}) < 3:
            raise ValueError("three different names")
        return self


class TableColumns(Block):
    """What a table of labels calls its columns; the column of splits may be missing."""

    path: str
    label: str
    split: str


class Fractions(Block):
    """The shares that are cut where the source names no split; the rest is training."""

    validation: Fraction
    evaluation: Fraction

    @model_validator(mode="after")
    def _leave_training(self) -> "Fractions":
        if self.validation + self.evaluation >= 1:
            raise ValueError("validation + evaluation below 1, so that training is left")
        return self


class RestructureParams(Block):
    """Where the labeled images are and how they are laid out."""

    source: str
    subfolder: str | None
    layout: Literal["food5k", "split_class_folders", "class_folders", "csv"]
    splits: SplitFolders
    labels: dict[Label, str]
    labels_csv: str | None
    csv_columns: TableColumns
    fractions: Fractions
    stratify: bool
    group_by: Literal["none", "folder", "column", "pattern", "near_duplicates"]
    group_depth: Count | None
    group_column: str | None
    group_pattern: Annotated[str, Field(max_length=MAX_PATTERN)] | None
    duplicates: Literal["exclude", "keep"]
    max_megapixels: Annotated[int, Field(gt=0, le=250)]  # `limits.MAX_PIXELS`
    corrections: str

    @model_validator(mode="after")
    def _suit_layout(self) -> "RestructureParams":
        if self.layout == "food5k" and not self.labels:
            example = "{0: non_food, 1: food}"  # `-S` takes neither quotes around keys nor new keys without `+`
            raise ValueError(
                f"labels for layout food5k, such as {example}; or dvc exp run -S '+restructure.labels={example}'"
            )
        if self.layout == "csv" and not self.labels_csv:
            raise ValueError("labels_csv for layout csv: the file inside the source with the columns of csv_columns")
        return self

    @model_validator(mode="after")
    def _name_groups(self) -> "RestructureParams":
        needed = {"folder": "group_depth", "column": "group_column", "pattern": "group_pattern"}.get(self.group_by)
        if needed and not getattr(self, needed):
            raise ValueError(f"{needed} for group_by {self.group_by}")
        if self.group_by == "column" and self.layout != "csv":
            raise ValueError(f"layout csv for group_by column, got {self.layout}")
        if self.group_pattern is not None:
            try:
                names = re.compile(self.group_pattern).groupindex
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"a regular expression as group_pattern: {error}") from None
            if "group" not in names:
                raise ValueError("group_pattern with a part (?P<group>...), such as '(?P<group>[^/_]+)_[^/]*$'")
        return self


# YAML 1.1, which `dvc exp run -S` parses by, takes the word off for false.
Severity = Annotated[Literal["error", "warn", "off"], BeforeValidator(lambda word: "off" if word is False else word)]


class Rule(Block):
    """A check of a gate: `error` stops the pipeline, `warn` is reported, `off` is skipped."""

    severity: Severity


class Minimum(Rule):
    """The smallest number of images or classes allowed."""

    min: Count


class MaximumShare(Rule):
    """The largest share allowed, 0 to 1."""

    max: Annotated[float, Field(ge=0, le=1)]


class MaximumRatio(Rule):
    """The largest ratio allowed of a larger number to a smaller one."""

    max: Annotated[float, Field(ge=1, le=MAX_NUMBER)]


class Range(Rule):
    """Pixels, both ends allowed."""

    min: Count
    max: Count

    @model_validator(mode="after")
    def _ascend(self) -> "Range":
        if self.max < self.min:
            raise ValueError(f"max of at least min, which is {self.min}, got {self.max}")
        return self


class AllowedFormats(Rule):
    """File formats, detected from the content."""

    allowed: Annotated[list[Format], Field(min_length=1)]


class AllowedModes(Rule):
    """Pillow's color modes."""

    allowed: Annotated[list[Mode], Field(min_length=1)]


class MinimumContrast(Rule):
    """The smallest standard deviation of brightness allowed, 0 to 127.5."""

    min: Annotated[float, Field(ge=0, le=127.5)]


class NearDuplicates(Rule):
    """The largest distance between two perceptual hashes of the same photo."""

    max_distance: Annotated[int, Field(ge=0, le=64)]  # of 256 bits; above, similar photos become pairs
    mirrored: bool


class ValidateParams(Block):
    """What the images must be before anything learns from them: a rule for each check, in the order of the report.

    The checks of the file `suite` come after them.
    """

    suite: str
    columns: Rule
    complete: Rule
    types: Rule
    unique_paths: Rule
    counts_add_up: Rule
    excluded_share: MaximumShare
    classes: Minimum
    class_names: Rule
    empty_classes: Rule
    lost_classes: Rule
    every_class_in_every_split: Rule
    min_images: Minimum
    class_balance: MaximumRatio
    split_balance: MaximumShare
    copies_across_splits: Rule
    copies_across_labels: Rule
    groups_across_splits: Rule
    near_duplicates_across_splits: NearDuplicates
    near_duplicates_across_labels: NearDuplicates
    width_px: Range
    height_px: Range
    aspect_ratio: MaximumRatio
    formats: AllowedFormats
    modes: AllowedModes
    contrast: MinimumContrast
    vanished_classes: Rule
    new_classes: Rule
    shrinkage: MaximumShare

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules by the names of their checks, in order."""
        return {name: rule for name, rule in self if isinstance(rule, Rule)}


class VerifyParams(Block):
    """What the features must be before a head learns from them: a rule for each check, in the order of the report."""

    rows_of_manifest: Rule
    finite: Rule
    constant_rows: Rule
    identical_rows: Rule

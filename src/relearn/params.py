"""`params.yaml` as typed, frozen records: one block a stage, every key required, no key unknown."""

import re
import reprlib
from collections.abc import Collection, Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from relearn.errors import ParamsError

# extract.network -> the function of keras.applications, or our own MiniVGG. A table, so that a wrong name is told at
# once and without the seconds that importing keras takes; a test holds it against keras.
NETWORKS = {
    "convnext_base": "ConvNeXtBase",
    "convnext_large": "ConvNeXtLarge",
    "convnext_small": "ConvNeXtSmall",
    "convnext_tiny": "ConvNeXtTiny",
    "convnext_xlarge": "ConvNeXtXLarge",
    "densenet121": "DenseNet121",
    "densenet169": "DenseNet169",
    "densenet201": "DenseNet201",
    "efficientnet_b0": "EfficientNetB0",
    "efficientnet_b1": "EfficientNetB1",
    "efficientnet_b2": "EfficientNetB2",
    "efficientnet_b3": "EfficientNetB3",
    "efficientnet_b4": "EfficientNetB4",
    "efficientnet_b5": "EfficientNetB5",
    "efficientnet_b6": "EfficientNetB6",
    "efficientnet_b7": "EfficientNetB7",
    "efficientnet_v2_b0": "EfficientNetV2B0",
    "efficientnet_v2_b1": "EfficientNetV2B1",
    "efficientnet_v2_b2": "EfficientNetV2B2",
    "efficientnet_v2_b3": "EfficientNetV2B3",
    "efficientnet_v2_l": "EfficientNetV2L",
    "efficientnet_v2_m": "EfficientNetV2M",
    "efficientnet_v2_s": "EfficientNetV2S",
    "inception_resnet_v2": "InceptionResNetV2",
    "inception_v3": "InceptionV3",
    "mini_vgg": "MiniVGG",
    "mobilenet": "MobileNet",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3Large",
    "mobilenet_v3_small": "MobileNetV3Small",
    "nasnet_large": "NASNetLarge",
    "nasnet_mobile": "NASNetMobile",
    "resnet50": "ResNet50",
    "resnet50_v2": "ResNet50V2",
    "resnet101": "ResNet101",
    "resnet101_v2": "ResNet101V2",
    "resnet152": "ResNet152",
    "resnet152_v2": "ResNet152V2",
    "vgg16": "VGG16",
    "vgg19": "VGG19",
    "xception": "Xception",
}

# Keys by their old names, which are errors that name the new ones.
RENAMED = {"retrain.max_surprise": "retrain.max_new_error_increase"}

# Limits of a YAML file, which may hold a value for every five bytes. A set of 22,000 classes stays below them.
MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20
MAX_NUMBER_CHARACTERS = 100
YAML_KINDS = frozenset({"null", "bool", "int", "float", "str", "seq", "map", "merge"})

MAX_ERRORS = 20
MAX_TEXT_SHOWN = 200

# How a value is shown in an error; `show_value` limits the whole.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxdict = _SHOWN.maxlist = 10
_SHOWN.maxstring = _SHOWN.maxother = MAX_TEXT_SHOWN
_SHOWN.maxlong = MAX_NUMBER_CHARACTERS

# Pillow's modes that can be decoded; see its concepts page.
Mode = Literal["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B"]
Format = Literal["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]  # those of `formats.FORMATS`
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
MAX_NUMBER = 1e9  # where nothing smaller is a limit
# 0: food is what a person writes whose labels are numbers.
Label = Annotated[str, BeforeValidator(lambda label: str(label) if type(label) is int else label)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Block(BaseModel):
    """A block of `params.yaml`. YAML's types are taken as they are: "1" is no number, 1 is no text."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Blocks = TypeVar("Blocks", bound=Block)


class SplitFolders(Block):
    """The folder (or the word in a CSV file) that stands for each split in the source; null where it has none."""

    training: str
    validation: str | None
    evaluation: str

    @model_validator(mode="after")
    def _differ(self) -> "SplitFolders":
        if len({self.training, self.validation, self.evaluation}) < 3:
            raise ValueError("three different names")
        return self


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
    """Where the labelled images are and how they are laid out."""

    source: str
    subfolder: str | None
    layout: Literal["food5k", "split_class_folders", "class_folders", "csv"]
    splits: SplitFolders
    labels: dict[Label, str]
    labels_csv: str | None
    fractions: Fractions
    duplicates: Literal["exclude", "keep"]

    @model_validator(mode="after")
    def _suit_layout(self) -> "RestructureParams":
        if self.layout == "food5k" and not self.labels:
            raise ValueError('labels for layout food5k, such as {"0": non_food, "1": food}')
        if self.layout == "csv" and not self.labels_csv:
            raise ValueError("labels_csv for layout csv: the file inside the source with the columns path, label")
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
    """What the images must be before anything learns from them: a rule for each check, in the order of the report."""

    columns: Rule
    complete: Rule
    types: Rule
    unique_paths: Rule
    counts_add_up: Rule
    excluded_share: MaximumShare
    classes: Minimum
    class_names: Rule
    every_class_in_every_split: Rule
    min_images: Minimum
    class_balance: MaximumRatio
    split_balance: MaximumShare
    copies_across_splits: Rule
    copies_across_labels: Rule
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


class VerifyParams(Block):
    """What the features must be before a head learns from them: a rule for each check, in the order of the report."""

    rows_of_manifest: Rule
    finite: Rule
    constant_rows: Rule
    identical_rows: Rule


class NetworkParams(Block):
    """All that decides a feature, apart from the image."""

    network: Literal[tuple(NETWORKS)]  # type: ignore[valid-type]
    weights: Annotated[str, Field(min_length=1)]
    weights_sha256: Sha256 | None
    seed: Seed
    layer: str | None
    pooling: Literal["flatten", "avg", "max"]
    image_size_px: Annotated[int, Field(ge=1, le=4096)]
    resize_filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    precision: Literal["float32", "bfloat16", "auto"]
    feature_dtype: Literal["float32", "float16"]
    jpeg_draft: bool

    @model_validator(mode="after")
    def _name_the_bytes(self) -> "NetworkParams":
        if self.network == "mini_vgg" and self.weights == "imagenet":
            raise ValueError("weights: random or a path with mini_vgg, got imagenet, which the other networks have")
        if self.weights_are_file and self.weights_sha256 is None:
            path = _shorten(self.weights)
            raise ValueError(f"weights_sha256 beside the path {path} (`sha256sum {path}` prints it)")
        if not self.weights_are_file and self.weights_sha256 is not None:
            raise ValueError(
                f"weights_sha256: null with weights: {self.weights} (-S extract.weights_sha256=null), which is a path's"
            )
        return self

    @property
    def weights_are_file(self) -> bool:
        """Tell whether `weights` is a path and not one of the two words."""
        return self.weights not in ("imagenet", "random")


class ExtractParams(NetworkParams):
    """How features come about: by what, and who computes them."""

    executor: Literal["local", "dask"]


def _list_values(value: object) -> object:
    """Take a single value for a list of one."""
    return value if isinstance(value, list) else [value]


Value = TypeVar("Value")
# One value, or a list of values to try.
Grid = Annotated[list[Value], BeforeValidator(_list_values), Field(min_length=1)]

Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
# Beyond these, rounding decides what the coefficients are.
PenaltyC = Annotated[float, Field(ge=1e-9, le=1e9)]
Tolerance = Annotated[float, Field(ge=1e-8, lt=1)]
FeatureShare = Literal["sqrt", "log2"] | Annotated[float, Field(gt=0, le=1)] | None


class HeadParams(Block):
    """The options of one kind of head; a list holds values to try."""

    has_probabilities: ClassVar[bool] = True  # without a calibration
    takes_class_weight: ClassVar[bool] = True

    def list_candidates(self) -> list[dict[str, Any]]:
        """Return each combination of the values to try, by ascending C if there is one."""
        values = {name: value if isinstance(value, list) else [value] for name, value in self if name != "head"}
        ordered = sorted(values)
        combinations = [dict(zip(ordered, c, strict=True)) for c in product(*(values[name] for name in ordered))]
        combinations.sort(key=lambda options: options.get("C", 0.0))
        return [{name: options[name] for name in values} for options in combinations]


class NearestCentroidParams(HeadParams):
    """scikit-learn's `NearestCentroid` by Euclidean distance."""

    has_probabilities: ClassVar[bool] = False
    takes_class_weight: ClassVar[bool] = False
    shrink_threshold: Grid[Positive | None]


class LogisticRegressionParams(HeadParams):
    """Multinomial, L2-penalized; C weighs the images against the penalty. See `heads.logistic`."""

    C: Grid[PenaltyC]
    tol: Tolerance
    max_iter: Count


class LinearSVMParams(HeadParams):
    """scikit-learn's `LinearSVC` with the squared hinge loss, in the primal; one class against the rest."""

    has_probabilities: ClassVar[bool] = False
    C: Grid[PenaltyC]
    tol: Tolerance
    max_iter: Count


class TreeParams(HeadParams):
    """What scikit-learn's tree and forest have in common."""

    criterion: Grid[Literal["gini", "entropy", "log_loss"]]
    max_depth: Grid[Count | None]
    min_samples_leaf: Grid[Count]


class DecisionTreeParams(TreeParams):
    """scikit-learn's `DecisionTreeClassifier`."""

    ccp_alpha: Grid[Annotated[float, Field(ge=0, le=MAX_NUMBER)]]


class RandomForestParams(TreeParams):
    """scikit-learn's `RandomForestClassifier`."""

    n_estimators: Grid[Annotated[int, Field(ge=1, le=10_000)]]
    max_features: Grid[FeatureShare]


class DenseParams(HeadParams):
    """A hidden layer with ReLU and dropout, trained by keras with AdamW; the best epoch by validation loss is kept."""

    units: Grid[Annotated[int, Field(ge=1, le=65_536)]]
    dropout: Grid[Fraction]
    learning_rate: Grid[Positive]
    weight_decay: Grid[Annotated[float, Field(ge=0, le=MAX_NUMBER)]]
    batch_size: Grid[Count]
    epochs: Count
    patience: Count


class HeadBlocks(Block):
    """The block of each kind of head, the simplest kind first."""

    nearest_centroid: NearestCentroidParams
    logistic_regression: LogisticRegressionParams
    linear_svm: LinearSVMParams
    decision_tree: DecisionTreeParams
    random_forest: RandomForestParams
    dense: DenseParams


HEADS = tuple(HeadBlocks.model_fields)


def _name_head(head: str) -> Any:
    """Return the model of an entry of `train.search`: the block of a head, and its name."""
    block: Any = HeadBlocks.model_fields[head].annotation
    fields: Any = {"head": (Literal[head], ...)}
    return create_model(f"{block.__name__}Search", __base__=block, **fields)


SearchEntry: Any = Annotated[Union[tuple(map(_name_head, HEADS))], Field(discriminator="head")]  # noqa: UP007


class SelectionParams(Block):
    """Which head, and how it is chosen, calibrated and fitted."""

    head: Literal[HEADS]  # type: ignore[valid-type]
    scale: bool
    class_weight: Literal["balanced"] | dict[Label, Positive] | None
    calibration: Literal["auto", "none", "sigmoid", "isotonic", "temperature"]
    select_by: Literal["validation", "folds"]
    n_folds: Annotated[int, Field(ge=2, le=100)]
    one_standard_error: bool
    must_converge: bool
    memory_limit_mb: Count
    seed: Seed


class TrainParams(HeadBlocks, SelectionParams):
    """The head: which, how it is chosen, the options of each, and a search in place of a single head."""

    search: list[SearchEntry]

    @model_validator(mode="before")
    @classmethod
    def _complete_search(cls, values: Any) -> Any:
        """Give each entry of `search` what it does not say from the block of its head."""
        if not isinstance(values, dict) or not isinstance(values.get("search"), list):
            return values
        entries = [_complete_entry(entry, values) for entry in values["search"]]
        return {**values, "search": entries}

    @model_validator(mode="after")
    def _suit_heads(self) -> "TrainParams":
        bare = sorted({head for head, grid in self.grids if not grid.has_probabilities})
        if self.calibration == "none" and bare:
            raise ValueError(f"calibration: auto, temperature, sigmoid or isotonic with {', '.join(bare)}, got none")
        unweighted = sorted({head for head, grid in self.grids if not grid.takes_class_weight})
        if self.class_weight is not None and unweighted:
            raise ValueError(f"class_weight: null with {', '.join(unweighted)}, which takes no weights")
        return self

    @property
    def grids(self) -> list[tuple[str, HeadParams]]:
        """The heads to try, each with its options: those of `search`, or else the one of `head`."""
        if not self.search:
            return [(self.head, getattr(self, self.head))]
        return [(entry.head, entry) for entry in self.search]


def _complete_entry(entry: object, values: dict[str, Any]) -> object:
    if not isinstance(entry, dict) or not isinstance(block := values.get(str(entry.get("head"))), dict):
        return entry
    return {**block, **entry}


class EvaluateParams(Block):
    """How sure the report is."""

    n_resamples: Annotated[int, Field(ge=100, le=1_000_000)]
    n_bins: Annotated[int, Field(ge=2, le=1000)]
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


class Params(Block):
    """The whole of `params.yaml`."""

    restructure: RestructureParams
    # pydantic's own models have a method `validate`
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    extract: ExtractParams
    verify: VerifyParams
    train: TrainParams
    evaluate: EvaluateParams
    retrain: RetrainParams

    def get_block(self, stage: str) -> Block:
        """Return the block of a stage by the name that it has in the file."""
        block: Block = getattr(self, "validate_" if stage == "validate" else stage)
        return block


def read_params(path: Path) -> Params:
    """Read and check `params.yaml`; see `read_blocks`."""
    return read_blocks(path, Params)


def read_blocks(path: Path, model: type[Blocks]) -> Blocks:
    """Read a YAML file of blocks and check it against its model.

    YAML 1.2 by the library that DVC uses, so that `1e-3` is the same number to both.

    Raises
    ------
    ParamsError
        The file is missing, or is not YAML within the limits of `parse_yaml`, or some of its keys are unknown, missing
        or out of range: the first `MAX_ERRORS` of them are reported.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the folder that has it") from None
    return parse_blocks(content, str(path), model)


def parse_blocks(content: bytes, name: str, model: type[Blocks]) -> Blocks:
    """Check the content of a YAML file of blocks, which is called `name` in errors; see `read_blocks`."""
    value = parse_yaml(content, name)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = _drop_renamed(error.errors())
        problems = "".join(f"\n  {_describe_problem(detail, model)}" for detail in details[:MAX_ERRORS])
        more = f"\n  and {n_more} more" if (n_more := len(details) - MAX_ERRORS) > 0 else ""
        raise ParamsError(f"{name}: {len(details)} wrong{problems}{more}") from None


def _drop_renamed(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Return problems without the missing keys that are there by their old names, which are problems themselves."""
    unknown = {_join_key(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"}
    missing = {new for old, new in RENAMED.items() if old in unknown}
    return [detail for detail in details if detail["type"] != "missing" or _join_key(detail["loc"]) not in missing]


def _join_key(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def parse_yaml(content: bytes, name: str, max_bytes: int = MAX_YAML_BYTES, kinds: Collection[str] = YAML_KINDS) -> Any:
    """Return the value of a YAML file that is called `name` in errors: blocks, lists, texts, numbers, booleans, null.

    A small file can stand for a huge value, by aliases of aliases, or can take more stack than there is. So size,
    depth, the number of values and the length of numbers are limited.

    Parameters
    ----------
    max_bytes
        The limit on the size; a fifth of it is the limit on the number of values.
    kinds
        What a value may be, by YAML's names of the types; all others are refused.

    Raises
    ------
    ParamsError
        It is not YAML, or is beyond a limit; one line.
    """
    if len(content) > max_bytes:
        raise ParamsError(f"{name}: wanted at most {max_bytes:,} bytes, got more; is it the right file?")
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_YAML_DEPTH
    yaml.composer.warn_double_anchors = False  # YAML lets a later anchor take the name of an earlier one
    try:
        root = yaml.compose(content)
        if root is None:
            return None
        _measure_node(root, name, 1, {}, max_bytes // 5, kinds=kinds)
        return yaml.constructor.construct_document(root)
    except MaxDepthExceededError as error:
        raise _refuse_depth(name, error.problem_mark.line) from None
    except (YAMLError, ValueError, LookupError) as error:  # the last two of a tag beside what it cannot be, `!!int x`
        raise ParamsError(f"{name}: wanted YAML, got: {_shorten(' '.join(str(error).split()))}") from None


def _measure_node(
    node: Node, name: str, depth: int, found: dict[int, tuple[int, int]], max_values: int, *, kinds: Collection[str]
) -> tuple[int, int]:
    """Return of how many values a node consists once its aliases are replaced, and on how many levels.

    Nodes that were measured are in `found`. An alias inside of what it names has no end, and so is too deep.
    """
    if depth > MAX_YAML_DEPTH:
        raise _refuse_depth(name, node.start_mark.line)
    if id(node) not in found:
        where = f"{name}: line {node.start_mark.line + 1}"
        _check_node(node, where, kinds)
        sizes = [
            _measure_node(child, name, depth + 1, found, max_values, kinds=kinds) for child in _list_children(node)
        ]
        n_values = 1 + sum(size for size, _ in sizes)
        if n_values > max_values:
            raise ParamsError(
                f"{where}: wanted at most {max_values:,} values, got more, by aliases (*name) if the file is small"
            )
        found[id(node)] = n_values, 1 + max((levels for _, levels in sizes), default=0)
    n_values, n_levels = found[id(node)]
    if depth + n_levels - 1 > MAX_YAML_DEPTH:
        raise _refuse_depth(name, node.start_mark.line)
    return n_values, n_levels


def _list_children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif not isinstance(node, ScalarNode):
        yield from node.value


def _check_node(node: Node, where: str, kinds: Collection[str]) -> None:
    """Raise `ParamsError` if a node is of another kind, or its key or its text is one that no file of ours has."""
    keys = [key for key, _ in node.value] if isinstance(node, MappingNode) else []
    if odd := [key for key in keys if not isinstance(key, ScalarNode)]:
        got = "a block" if isinstance(odd[0], MappingNode) else "a list"
        raise ParamsError(f"{where}: wanted keys that are texts or numbers, got {got} as a key; put it in quotes")
    kind = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if kind not in kinds:
        tag = _shorten(kind if kind.startswith("!") or kind == node.tag else f"!!{kind}")
        raise ParamsError(
            f"{where}: wanted text, numbers, true, false, null, lists and blocks, got {tag}; put it in quotes if it is "
            "text"
        )
    if not isinstance(node, ScalarNode):
        return
    if kind in ("int", "float") and len(node.value) > MAX_NUMBER_CHARACTERS:
        raise ParamsError(
            f"{where}: wanted a number of at most {MAX_NUMBER_CHARACTERS} characters, got {len(node.value):,}"
        )
    if re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", node.value):
        raise ParamsError(f"{where}: wanted text, got a control character in {_shorten(repr(node.value))}; remove it")


def _refuse_depth(name: str, line: int) -> ParamsError:
    return ParamsError(
        f"{name}: line {line + 1}: wanted at most {MAX_YAML_DEPTH} levels of blocks and lists, got more; no parameter "
        "is that deep"
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT_SHOWN else f"{text[:MAX_TEXT_SHOWN]}..."


def show_value(value: object) -> str:
    """Return a value as an error shows it: at most `MAX_TEXT_SHOWN` characters, whatever it holds."""
    return _shorten(_SHOWN.repr(value))


def _describe_problem(detail: ErrorDetails, model: type[Block]) -> str:
    """Say of one error: key, wanted, got."""
    # pydantic names the branch of a union as well: literal[...], dict[...], constrained-float
    *blocks, last = detail["loc"] or ("",)
    loc = [part for part in detail["loc"] if isinstance(part, int) or re.fullmatch(r"[\w;]+", part)]
    if detail["type"] == "extra_forbidden":
        loc = [*blocks, _spell_key(last)]
    key = ".".join(_shorten(str(part)) for part in loc) or "the whole file"
    context: dict[str, Any] = detail.get("ctx", {})
    wanted, got = detail["msg"].removeprefix("Input should be "), f", got {show_value(detail['input'])}"
    match detail["type"]:
        case "missing":
            return f"{key}: missing, and there is no default"
        case "extra_forbidden" if (old := _join_key(detail["loc"])) in RENAMED:
            return f"{key}: was renamed; call it {RENAMED[old]}"
        case "extra_forbidden":
            return f"{key}: unknown key; known here are {', '.join(_known_keys(model, detail['loc'][:-1]))}"
        case "value_error":
            wanted, got = context["error"], ""
        case "union_tag_not_found" | "union_tag_invalid" | "model_attributes_type":
            wanted = f"an entry with head: one of {', '.join(HEADS)}"
        case "literal_error":
            wanted = f"one of {context['expected']}"
        case "model_type" if detail["loc"]:
            wanted = f"a block with the keys {', '.join(_known_keys(model, detail['loc']))}"
        case "string_pattern_mismatch":
            wanted = "64 hexadecimal digits"
    return f"{key}: wanted {wanted}{got}"


def _spell_key(key: int | str) -> str:
    """Return a key as it is, or in quotes if it is no plain word."""
    return str(key) if re.fullmatch(r"[\w;]{1,100}", str(key)) else show_value(key)


def _known_keys(model: type[Block], loc: tuple[int | str, ...]) -> list[str]:
    """List the keys of the block at `loc`, as they are written in the file."""
    block: type[BaseModel] = model
    for part in loc:
        if isinstance(part, int) or part == "search":  # an entry of which has the keys of the head that it names
            continue
        fields = {field.alias or name: field for name, field in block.model_fields.items()}
        annotation = fields[str(part)].annotation
        assert isinstance(annotation, type)
        block = annotation
    return [field.alias or name for name, field in block.model_fields.items()]

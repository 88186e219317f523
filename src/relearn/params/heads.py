"""The block `train`: the heads, their options, and how one is selected."""

from itertools import product
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union

from pydantic import BeforeValidator, Field, create_model, model_validator

from relearn.params.block import MAX_NUMBER, Block, Count, Fraction, Label, Seed


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

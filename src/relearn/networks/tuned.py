"""`models/network/`: the network that features are computed with, as `finetune` left it."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from relearn.errors import IntegrityError
from relearn.params.networks import NetworkParams
from relearn.paths import TUNED_WEIGHTS
from relearn.storage.files import read_json

RECORD = "network.json"

Params = TypeVar("Params", bound=NetworkParams)


class NetworkRecord(BaseModel):
    """The content of `network.json`.

    Attributes
    ----------
    tuned
        Whether `network.weights.h5` is there and takes the place of `extract.weights`.
    reason
        Why, for a person to read.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    tuned: bool
    reason: str
    weights_sha256: str | None = None


def choose_weights(params: Params, folder: Path) -> Params:
    """Return the parameters of the network in `models/network/`: those given, with its weights if it was tuned.

    Raises
    ------
    IntegrityError
        The record is missing or damaged.
    """
    record = NetworkRecord.model_validate(read_json(folder / RECORD, ("tuned", "reason")))
    if not record.tuned:
        return params
    if record.weights_sha256 is None:
        where = folder / RECORD
        raise IntegrityError(
            where=where, wanted="the key weights_sha256", got="none", advice="run `dvc repro finetune`"
        )
    return params.model_copy(update={"weights": str(folder / TUNED_WEIGHTS), "weights_sha256": record.weights_sha256})

"""The base of every block of `params.yaml`, and the types that blocks share."""

from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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

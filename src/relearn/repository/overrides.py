"""Other values for keys of `params.yaml`, in the syntax of `dvc exp run -S`."""

from collections.abc import Sequence
from typing import Any

from relearn.errors import ParamsError
from relearn.params.yaml_file import change_values
from relearn.runtime.text import holds_control_character


def override_params(text: str, overrides: Sequence[str]) -> str:
    """Return the text of a `params.yaml` with other values; all else stays. The reader of the text checks the keys.

    Parameters
    ----------
    overrides
        Such as `extract.network=vgg16` or `train.scale=false`.

    Raises
    ------
    ParamsError
        One of them is no `KEY=VALUE` of one value, or there is no such block.
    """
    for override in overrides:
        try:
            text = change_values(text, _parse_override(override))
        except (KeyError, TypeError, ValueError):
            raise ParamsError(
                where=f"-S {override!r:.200}",
                wanted="KEY=VALUE with a key of params.yaml and one value, as `dvc exp run -S` takes it",
                got="something else",
            ) from None
    return text


def _parse_override(override: str) -> dict[str, Any]:
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    if holds_control_character(override):
        raise ValueError("in a record it has one line")
    try:
        (parsed,) = to_hydra_overrides([override])
    except HydraException as error:
        raise ValueError(str(error)) from None
    if parsed.is_sweep_override() or parsed.is_add() or parsed.is_delete() or parsed.package:
        raise ValueError("it is not one value")
    return {parsed.key_or_group: parsed.value()}

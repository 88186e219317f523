"""Blocks read from a file, checked, with one line per error."""

import difflib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from relearn.errors import ParamsError
from relearn.params.block import Block, Blocks
from relearn.params.heads import HEADS
from relearn.params.yaml_file import MAX_YAML_BYTES, parse_yaml, shorten, show_value
from relearn.runtime.text import count_nouns

# Keys by their old names, which are errors that name the new ones.
RENAMED = {"retrain.max_surprise": "retrain.max_new_error_increase"}

MAX_ERRORS = 20


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
        raise ParamsError(f"{name}: {count_nouns(len(details), 'error')}{problems}{more}") from None


def _drop_renamed(details: list[ErrorDetails]) -> list[ErrorDetails]:
    """Return problems without the missing keys that are there by their old names, which are problems themselves."""
    unknown = {_join_key(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"}
    missing = {new for old, new in RENAMED.items() if old in unknown}
    return [detail for detail in details if detail["type"] != "missing" or _join_key(detail["loc"]) not in missing]


def _join_key(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def _describe_problem(detail: ErrorDetails, model: type[Block]) -> str:
    """Say of one error: key, wanted, got."""
    # pydantic names the branch of a union as well: literal[...], dict[...], constrained-float
    *blocks, last = detail["loc"] or ("",)
    loc = [part for part in detail["loc"] if isinstance(part, int) or re.fullmatch(r"[\w;]+", part)]
    if detail["type"] == "extra_forbidden":
        loc = [*blocks, _spell_key(last)]
    key = ".".join(shorten(str(part)) for part in loc) or "the whole file"
    context: dict[str, Any] = detail.get("ctx", {})
    wanted, got = detail["msg"].removeprefix("Input should be "), f", got {show_value(detail['input'])}"
    match detail["type"]:
        case "missing":
            return f"{key}: missing, and there is no default"
        case "extra_forbidden" if (old := _join_key(detail["loc"])) in RENAMED:
            return f"{key}: was renamed; call it {RENAMED[old]}"
        case "extra_forbidden":
            known = _known_keys(model, detail["loc"][:-1])
            return f"{key}: unknown key{suggest_word(last, known)}; known here are {', '.join(known)}"
        case "value_error":
            wanted, got = context["error"], ""
        case "union_tag_not_found" | "union_tag_invalid" | "model_attributes_type":
            wanted = f"an entry with head: one of {', '.join(HEADS)}"
        case "literal_error":
            wanted = f"one of {context['expected']}"
            got += suggest_word(detail["input"], re.findall(r"'([^']*)'", context["expected"]))
        case "model_type" if detail["loc"]:
            wanted = f"a block with the keys {', '.join(_known_keys(model, detail['loc']))}"
        case "string_pattern_mismatch":
            wanted = "64 hexadecimal digits"
    return f"{key}: wanted {wanted}{got}"


def suggest_word(value: object, allowed: list[str]) -> str:
    """Return which of the allowed words a person may have meant; nothing if none is like it."""
    close = difflib.get_close_matches(str(value)[:100].lower(), allowed, n=1)
    return f", did you mean {close[0]}?" if close else ""


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

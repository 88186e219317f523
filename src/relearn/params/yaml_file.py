"""YAML with limits, so that a small file cannot stand for a huge value."""

import functools
import io
import operator
import re
import reprlib
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from relearn.errors import ParamsError

# Limits of a YAML file, which may hold a value for every five bytes. A set of 22,000 classes stays below them.
MAX_YAML_BYTES = 1_000_000
MAX_YAML_DEPTH = 20
MAX_NUMBER_CHARACTERS = 100
YAML_KINDS = frozenset({"null", "bool", "int", "float", "str", "seq", "map", "merge"})
MAX_TEXT_SHOWN = 200

# How a value is shown in an error; `show_value` limits the whole.
_SHOWN = reprlib.Repr()
_SHOWN.maxlevel = 2
_SHOWN.maxdict = _SHOWN.maxlist = 10
_SHOWN.maxstring = _SHOWN.maxother = MAX_TEXT_SHOWN
_SHOWN.maxlong = MAX_NUMBER_CHARACTERS


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
        raise ParamsError(f"{name}: wanted YAML, got: {shorten(' '.join(str(error).split()))}") from None


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
        tag = shorten(kind if kind.startswith("!") or kind == node.tag else f"!!{kind}")
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
        raise ParamsError(f"{where}: wanted text, got a control character in {shorten(repr(node.value))}; remove it")


def _refuse_depth(name: str, line: int) -> ParamsError:
    return ParamsError(
        f"{name}: line {line + 1}: wanted at most {MAX_YAML_DEPTH} levels of blocks and lists, got more; no parameter "
        "is that deep"
    )


def shorten(text: str) -> str:
    """Return at most the first `MAX_TEXT_SHOWN` characters, with dots if there are more."""
    return text if len(text) <= MAX_TEXT_SHOWN else f"{text[:MAX_TEXT_SHOWN]}..."


def show_value(value: object) -> str:
    """Return a value as an error shows it: at most `MAX_TEXT_SHOWN` characters, whatever it holds."""
    return shorten(_SHOWN.repr(value))


def change_values(text: str, changes: Mapping[str, Any]) -> str:
    """Return a YAML file with other values for some keys, such as `extract.network`; comments stay as they are."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = sys.maxsize
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = yaml.load(text)
    for key, value in changes.items():
        *blocks, name = key.split(".")
        functools.reduce(operator.getitem, blocks, content)[name] = value
    changed = io.StringIO()
    yaml.dump(content, changed)
    return changed.getvalue()

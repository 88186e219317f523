"""README and docs/ say what the code does. `python tests/test_docs.py` writes the generated tables again."""

import ast
import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from conftest import ROOT, write_images
from relearn import cli, errors
from relearn.commands.inventory import describe_source, read_source
from relearn.commands.report import describe_evaluation
from relearn.dataset.splitting import choose_split
from relearn.dataset.stratification import count_shares
from relearn.params.data import Fractions
from relearn.params.pipeline import Params, read_params

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])
PIPELINE = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]


def list_paths(entries):
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def join_code(names):
    return ", ".join(f"`{name}`" for name in names)


def describe_stages() -> Iterator[str]:
    yield "| stage | what it does | reads | writes |"
    yield "| --- | --- | --- | --- |"
    for name, stage in PIPELINE.items():
        reads = [dep for dep in stage["deps"] if not dep.startswith("src/")]
        writes = list_paths([*stage["outs"], *stage.get("metrics", [])])
        yield f"| `{name}` | {stage['desc']} | {join_code(reads)} | {join_code(writes)} |"


def describe_exit_codes() -> Iterator[str]:
    yield from re.findall(r"^\|.*$", str(errors.__doc__), re.MULTILINE)


def describe_packages() -> Iterator[str]:
    yield "| package of `src/relearn` | subject | modules |"
    yield "| --- | --- | --- |"
    for path in sorted(ROOT.glob("src/relearn/*/__init__.py")):
        subject = ast.get_docstring(ast.parse(path.read_text()))
        modules = sorted(module.stem for module in path.parent.glob("*.py") if module.stem != "__init__")
        yield f"| `{path.parent.name}/` | {subject} | {join_code(modules)} |"


def find_reached(block: str) -> list[str]:
    """Return the stages that run again if a block of params.yaml changes, and those whose inputs may change by it."""
    reached: list[str] = []
    written: set[str] = set()
    for name, stage in PIPELINE.items():
        if block in {key.split(".")[0] for key in stage["params"]} or written & set(stage["deps"]):
            reached.append(name)
            written |= set(list_paths([*stage["outs"], *stage.get("metrics", [])]))
    return reached


def describe_type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type and the range of a field of a JSON schema in words."""
    if "$ref" in field:
        field = definitions[field["$ref"].split("/")[-1]]
    if "anyOf" in field:
        return " or ".join(describe_type(part, definitions) for part in field["anyOf"])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return "one of " + join_code(field["enum"])
    match field.get("type"):
        case "array":
            items = field["items"]
            if "discriminator" in items:
                return "list of blocks with `head` and options of it"
            return f"list of {describe_type(items, definitions)}"
        case "object" if "properties" in field:
            parts = field["properties"].items()
            return "; ".join(
                "`severity`" if name == "severity" else f"`{name}`: {describe_type(part, definitions)}"
                for name, part in parts
            )
        case "object":
            return f"map of text to {describe_type(field['additionalProperties'], definitions)}"
        case "string" if "pattern" in field:
            return "64 hexadecimal digits"
        case "null":
            return "`null`"
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true` or `false`"}
    return names[field["type"]] + describe_range(field)


def describe_range(field: dict[str, Any]) -> str:
    """Return the bounds of a number that a person may meet."""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[name]:g}" for name, sign in signs.items() if abs(field.get(name, 1e9)) < 1e9]
    return f" {' and '.join(found)}" if found else ""


def describe_parameters() -> Iterator[str]:
    values = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    schema = Params.model_json_schema()
    definitions = schema["$defs"]
    for block, reference in schema["properties"].items():
        reached = find_reached(block)
        yield f"## {block}"
        yield ""
        yield f"Runs again: {join_code(reached)}." if reached else "No stage: a retraining reads it as it is committed."
        yield ""
        yield "| key | type and range | committed value | meaning |"
        yield "| --- | --- | --- | --- |"
        yield from describe_block(block, definitions[reference["$ref"].split("/")[-1]], values[block], definitions)
        yield ""


def describe_block(name: str, block: dict[str, Any], values: Any, definitions: dict[str, Any]) -> Iterator[str]:
    comments = find_comments()
    for key, field in block["properties"].items():
        path = f"{name}.{key}"
        inner = definitions.get(field.get("$ref", "").split("/")[-1], {})
        if inner.get("type") == "object" and "severity" not in inner["properties"] and name != "restructure":
            yield from describe_block(path, inner, values[key], definitions)
            continue
        value = json.dumps(values[key], ensure_ascii=False).replace("|", "\\|")
        meaning = comments.get(path, "").replace("|", "\\|")
        yield f"| `{path}` | {describe_type(field, definitions)} | `{value}` | {meaning} |"


def find_comments() -> dict[str, str]:
    """Return the comment at the end of the line of each key of params.yaml."""
    found: dict[str, str] = {}
    blocks: list[str] = []
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if match := re.match(r"( *)([\w]+):(?: .*?)?(?:\s#\s+(.*))?$", line):
            depth = len(match[1]) // 2
            blocks = [*blocks[:depth], match[2]]
            found[".".join(blocks)] = match[3] or ""
    return found


def describe_shares() -> Iterator[str]:
    """Compare how many evaluation images the smallest class gets: by the hash alone, and stratified."""
    yield "| classes | images of each | by the hash alone: mean | the least | without any | `stratify: true` |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: |"
    shuffler = random.Random(0)
    fractions = Fractions(validation=0.2, evaluation=0.2)
    for n_classes, n_images in ((2, 30), (2, 60), (2, 100), (2, 200), (20, 15)):
        smallest = [
            min(
                sum(
                    choose_split(f"{shuffler.getrandbits(64):016x}", fractions) == "evaluation" for _ in range(n_images)
                )
                for _ in range(n_classes)
            )
            for _ in range(1000)
        ]
        share, mean, zero = count_shares(n_images, fractions)["evaluation"], sum(smallest) / 1000, smallest.count(0)
        yield f"| {n_classes} | {n_images} | {mean:.1f} | {min(smallest)} | {zero / 1000:.1%} of the draws | {share} |"


CLASSES = ("robin", "wren")
NAMES = [f"{label}/{number:02}.png" for label in CLASSES for number in range(20)]
SPLIT_FOLDERS = ("train", "val", "test")


def list_table(separator: str, *columns: str, splits: bool = False) -> str:
    """Return a table of `NAMES`, with their split if wanted."""
    rows = [(name, name.split("/")[0], SPLIT_FOLDERS[number % 3]) for number, name in enumerate(NAMES)]
    return "\n".join(separator.join(row[: len(columns)]) for row in [columns, *rows])


# What a person may have: the files, beside them a table, and the folder or the archive that they are in.
LAYOUTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "birds": (NAMES, {}),
    "birds.zip": ([f"my birds/{name}" for name in NAMES], {}),
    "birds.tar.gz": ([f"{split}/{name}" for split in SPLIT_FOLDERS for name in NAMES], {}),
    "two-splits": ([f"{split}/{name}" for split in ("Train", "Test") for name in NAMES], {}),
    "numbered": ([f"{split}/{n % 2}_{n}.png" for split in SPLIT_FOLDERS for n in range(20)], {}),
    "table": (NAMES, {"labels.csv": list_table(",", "path", "label", "split")}),
    "spreadsheet": (NAMES, {"list.csv": list_table(";", "file", "species")}),
    "deep": ([f"europe/{name}" for name in NAMES] + [f"asia/{name}" for name in NAMES], {}),
    "stray": ([*NAMES, "cover.png"], {}),
    "mixed": ([f"{split}/{name}" for split in ("train", "test", "more") for name in NAMES], {}),
    "unlabeled": ([name.replace("/", ".") for name in NAMES], {}),
}


def make_source(name: str, files: list[str], tables: dict[str, str]) -> None:
    """Make a source in the current folder."""
    folder = Path(name.split(".", maxsplit=1)[0])
    write_images(folder, files)
    for table, content in tables.items():
        (folder / table).write_text(content)
    if name != folder.name:
        shutil.make_archive(folder.name, {"zip": "zip", "gz": "gztar"}[name.rpartition(".")[2]], folder)


def describe_layouts() -> Iterator[str]:
    """Show what `relearn init` finds in sources of all layouts, without what it says of formats and of few images."""
    before, params = Path.cwd(), read_params(ROOT / "params.yaml").restructure
    params = params.model_copy(update={"corrections": str(ROOT / params.corrections)})
    yield "```console"
    for name, (files, tables) in LAYOUTS.items():
        with TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                make_source(name, files, tables)
                source = read_source(name, params)
            finally:
                os.chdir(before)
        examples = [*tables, files[0], files[-1]]
        yield f"$ relearn init {name:16} # {', '.join(examples)}"
        yield from (line for line in describe_source(source) if "median of the" not in line and "becomes" not in line)
    yield "```"


GENERATED = {
    "docs/own-images.md": ("layouts", describe_layouts),
    "docs/splits.md": ("shares", describe_shares),
    "docs/pipeline.md": ("stages", describe_stages),
    "docs/exit-codes.md": ("exit codes", describe_exit_codes),
    "docs/design.md": ("packages", describe_packages),
    "docs/parameters.md": ("parameters", describe_parameters),
}


def generate(path: str) -> str:
    """Return the text of a page with its generated part made again."""
    name, describe = GENERATED[path]
    before, rest = (ROOT / path).read_text().split(f"<!-- {name} -->\n")
    _, after = rest.split("<!-- end -->\n")
    return f"{before}<!-- {name} -->\n\n" + "\n".join(describe()).strip() + f"\n\n<!-- end -->\n{after}"


@pytest.mark.parametrize("path", GENERATED)
def test_generated_part_is_that_of_the_code(path):
    assert (ROOT / path).read_text() == generate(path), "`python tests/test_docs.py` writes it again"


def test_every_exit_code_is_documented():
    table = "\n".join(describe_exit_codes())
    families = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    assert families == {3, 4, 5, 6}
    assert [int(code) for code in re.findall(r"^\| (\d)", table, re.MULTILINE)] == list(range(7))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_readme_shows_the_committed_result_in_its_first_lines(monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = (ROOT / "README.md").read_text().splitlines()
    accuracy = json.loads((ROOT / "metrics" / "evaluation.json").read_text())["accuracy_score"]
    assert f"{accuracy:.1%}".replace("%", " %") in "\n".join(lines[:10])
    assert set(describe_evaluation()) <= set(lines[:40])


def test_readme_leads_to_every_page():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name}" not in readme] == []


def find_commands(program: str) -> list[tuple[Path, list[str]]]:
    """Return the calls of a program in the console blocks of all pages, as lists of words."""
    calls = []
    for document in DOCUMENTS:
        for block in re.findall(r"^```console\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.match(rf"\$ (?:\w+=\S+ )*{program} ([^#]*)", line):
                    calls.append((document, match[1].split()))
    return calls


def test_commands_of_the_pages_exist():
    calls = find_commands("relearn")
    assert len(calls) >= 8
    for document, words in calls:
        command: Any = typer.main.get_command(cli.app)
        rest = list(words)
        while rest and hasattr(command, "commands"):
            assert rest[0] in command.commands, f"{document}: relearn {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= options, f"{document}: relearn {' '.join(words)}"


def test_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    calls = find_commands("make")
    assert len(calls) >= 8
    for document, words in calls:
        assert words[0] in targets, f"{document}: make {words[0]}"


def test_parameters_of_the_pages_exist():
    """Each key that a page names in code, such as `extract.precision`, is one of params.yaml."""
    keys = set(find_comments())
    blocks = {key for key in keys if "." not in key}
    named = {
        (document.name, key)
        for document in DOCUMENTS
        if document.name != "CHANGELOG.md" and document.parent.name != "pretraining"
        for key in re.findall(r"[`\s]((?:" + "|".join(blocks) + r")\.[a-z_.]*[a-z_])\b(?!\()", document.read_text())
    }
    files = {"extract.py", "train.py", "evaluate.py", "finetune.py", "validate.py", "retrain.py"}
    known = keys | {f"{key}.{part}" for key in keys for part in ("severity", "min", "max", "allowed", "mirrored")}
    assert {(page, key) for page, key in named if key not in known | files} == set()
    assert len(named) > 30


def test_links_of_the_documents_lead_somewhere():
    n_links = 0
    for document in DOCUMENTS:
        text = document.read_text()
        assert "#)" not in text, document
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            target = document.parent / path if path else document
            assert target.exists(), f"{document}: {path}"
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, f"{document}: #{anchor}"
            n_links += 1
    assert n_links > 40


if __name__ == "__main__":
    for page in GENERATED:
        (ROOT / page).write_text(generate(page))

"""Data Docs: what the gate wants of every table and what it found, as pages that need no network and no script.

Great Expectations renders the pages, but its own templates load Bootstrap, jQuery, icons and a logo from other hosts,
and without these the index is empty. So it is given the templates and the style sheet below in their place. Every page
also forbids the browser to load anything or to run a script, whatever the tables hold.
"""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from relearn.gates.expectations import N_ROWS_NAMED, Check, Table, open_asset, raise_exception
from relearn.storage.files import write_folder

SITE_NAME = "relearn"


def write_data_docs(folder: Path, tables: Mapping[str, Table], checks: list[Check]) -> Path:
    """Run the checks that are not off and write what they want and find to `folder`; return its index page.

    The same tables and checks give the same bytes.

    Parameters
    ----------
    folder
        Replaced as a whole.

    Raises
    ------
    ValidationFailed
        A check could not be run.
    """
    import great_expectations  # noqa: F401  # its analytics are off by now
    from great_expectations.render.renderer import (
        ExpectationSuitePageRenderer,
        SiteIndexPageRenderer,
        ValidationResultsPageRenderer,
    )

    found_pages: Any = ValidationResultsPageRenderer(run_info_at_end=True)
    wanted_pages: Any = ExpectationSuitePageRenderer()
    index_pages: Any = SiteIndexPageRenderer()
    links = []
    with write_folder(folder) as site:
        for name, table in tables.items():
            asked = [check for check in checks if check.table == name and check.severity != "off"]
            if not asked:
                continue
            result = _validate(name, table, asked)
            found = found_pages.render(result)
            found.sections.pop()  # the run info: the clock and random ids
            page = _render(found, name, "../index.html")
            # Great Expectations puts the pages of validations three folders deeper, by suite, run and time.
            page = page.replace("../../../../expectations/", "../expectations/")
            _write_page(site / "validations" / f"{name}.html", page)
            wanted = wanted_pages.render(_build_suite(name, asked, words_only=False))
            _write_page(site / "expectations" / f"{name}.html", _render(wanted, name, "../index.html"))
            links.append(
                {
                    "validation_success": result.success,
                    "asset_name": name,
                    "filepath": f"validations/{name}.html",
                    "expectation_suite_name": name,
                    "expectation_suite_filepath": f"expectations/{name}.html",
                }
            )
        wanted_links = [{**link, "filepath": link["expectation_suite_filepath"]} for link in links]
        index = {"site_name": SITE_NAME, "validations_links": links, "expectations_links": wanted_links}
        _write_page(site / "index.html", _render(index_pages.render(index), "", "index.html"))
    return folder / "index.html"


def _validate(name: str, table: Table, checks: list[Check]) -> Any:
    """Return a suite's result, in the order of the checks, with no more than the first failing rows of each."""
    import great_expectations as gx

    frame = table.frame.reset_index(drop=True)
    context, asset = open_asset(name)
    validation = gx.ValidationDefinition(
        name=name,
        data=asset.add_batch_definition_whole_dataframe("whole"),
        suite=context.suites.add(_build_suite(name, checks, words_only=True)),
    )
    outcome: Any = context.validation_definitions.add(validation).run(
        batch_parameters={"dataframe": frame},
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": N_ROWS_NAMED},
    )
    results: dict[str, Any] = {result.expectation_config.meta["check"]: result for result in outcome.results}
    outcome.results = [results[check.name] for check in checks]
    for check in checks:
        raise_exception(check, results[check.name].exception_info)
        found = results[check.name].result
        if isinstance(found.get("observed_value"), np.generic):  # which the page cannot show
            found["observed_value"] = found["observed_value"].item()
        if rows := found.get("partial_unexpected_index_list"):
            # Asked for it, Great Expectations names every row that failed, which takes a minute for 3,000,000.
            named = [check.name_row(row) for row in frame.iloc[rows].to_dict("records")]
            values = zip(found["partial_unexpected_list"], named, strict=True)
            found["unexpected_index_column_names"] = [table.unit]
            found["unexpected_index_list"] = [{"value": value, table.unit: name} for value, name in values]
    outcome.meta["batch_spec"] = {"data_asset_name": f"{name}, {len(frame):,} {table.unit}"}
    return outcome


def _build_suite(name: str, checks: list[Check], words_only: bool) -> Any:
    """Return the checks as a suite, each shown by what it wants in words, or by the exact rule with the words below."""
    import great_expectations as gx

    suite = gx.ExpectationSuite(name=name)
    for check in checks:
        words = f"{check.name} ({check.severity}): {check.wanted}"
        # Great Expectations takes a description for HTML and a note for Markdown.
        shown = {"description": html.escape(words, quote=False)} if words_only else {"notes": [words]}
        suite.add_expectation(check.expectation.copy(update={"meta": {"check": check.name}, **shown}))
    return suite


def _render(document: Any, name: str, home: str) -> str:
    from great_expectations.render.view import DefaultJinjaPageView
    from jinja2 import ChoiceLoader, DictLoader

    view: Any = DefaultJinjaPageView()
    view.env.loader = ChoiceLoader([DictLoader(TEMPLATES), view.env.loader])
    page: str = view.render(document, name=name, home=home, style=STYLE)
    return "".join(f"{line.strip()}\n" for line in page.splitlines() if line.strip())


def _write_page(path: Path, page: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(page, encoding="utf-8")


# By the names of the templates of Great Expectations whose place they take.
TEMPLATES = {
    "page.j2": """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ name ~ " - " if name }}Data Docs</title>
<style>{{ style }}</style>
</head>
<body>
{% if name %}<header><a href="{{ home }}">Data Docs</a> / {{ name }}</header>{% endif %}
{% if sections | length > 1 %}
  <nav>
  {% for section in sections %}<a href="#section-{{ loop.index }}">{{ section["section_name"] }}</a>{% endfor %}
  </nav>
{% endif %}
{% if renderer_type == "ValidationResultsPageRenderer" %}
  <label><input type="checkbox" id="failed-only"> Show only what failed</label>
{% endif %}
<main>
{% for section in sections %}{% set section_loop = loop %}{% include "section.j2" %}{% endfor %}
</main>
<footer>Rendered by Great Expectations {{ ge_version }}</footer>
</body>
</html>
""",
    "tabs.j2": """
{% for tab in content_block["tabs"] %}
  <h2>{{ tab["tab_name"] }}</h2>
  {{ tab["tab_content"] | render_content_block(content_block_id=content_block_id ~ "-" ~ loop.index) }}
{% endfor %}
""",
    # The tables of the index. A plain cell leads to the row's page; columns without a value are left out.
    "bootstrap_table.j2": """
{% set rows = content_block["table_data"] %}
{% set columns = [] %}
{% for column in content_block["table_columns"] if column["field"] != "batch_identifier" %}
  {% if rows | map(attribute=column["field"]) | select | list %}{% do columns.append(column) %}{% endif %}
{% endfor %}
<div class="table-responsive">
<table class="table index">
<thead><tr>{% for column in columns %}<th>{{ column["title"] }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
  <tr>
  {% for column in columns %}
    {% set cell = row[column["field"]] %}
    {% if cell is string %}
      <td><a href="{{ row['_table_row_link_path'] | e }}">{{ cell | e }}</a></td>
    {% else %}
      <td>{{ cell | render_content_block }}</td>
    {% endif %}
  {% endfor %}
  </tr>
{% endfor %}
</tbody>
</table>
</div>
""",
    # Unlike the original it escapes what comes from the tables.
    "table.j2": """
{% include "content_block_header.j2" %}
{% set classes = content_block.get("styling", {}).get("body", {}).get("classes", []) %}
<table class="{{ classes | join(' ') }}">
{% if content_block.get("header_row") %}
  <thead><tr>{% for cell in content_block["header_row"] %}<th>{{ cell | e }}</th>{% endfor %}</tr></thead>
{% endif %}
<tbody>
{% for row in content_block["table"] %}
  <tr>
  {% for cell in row %}
    {% set styling = cell["styling"].get("parent", {}) | render_styling if cell is mapping and "styling" in cell %}
    <td {{ styling }}>{{ cell | render_content_block if cell is iterable and cell is not string else cell | e }}</td>
  {% endfor %}
  </tr>
{% endfor %}
</tbody>
</table>
""",
    "collapse.j2": """
{% for block in content_block["collapse"] %}<div class="note">{{ block | render_content_block }}</div>{% endfor %}
""",
    "graph.j2": "<p>(a chart, which would need a network)</p>",
}

# For the classes, most of them Bootstrap's, that the templates of Great Expectations use.
STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --good: light-dark(#176b32, #6ccf8b);
  --bad: light-dark(#b3201a, #ff8f88); --link: light-dark(#0b57b0, #82b4ff); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 0 1rem; }
header { font-weight: 600; padding: 1rem 0; border-bottom: 1px solid var(--line); margin-bottom: 1rem; }
footer { color: GrayText; font-size: .875rem; padding: 1rem 0; border-top: 1px solid var(--line); }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-bottom: 1rem; }
label { display: block; margin-bottom: 1rem; }
h2, h5, h6 { margin: 1.5rem 0 .5rem; line-height: 1.3; }
h2, h5 { font-size: 1.25rem; } h6, .h6 { font-size: 1rem; font-weight: 600; } h5.m-0 { margin: 0; }
.alert { background: var(--soft); border-left: 4px solid var(--line); padding: .5rem 1rem; margin: 1rem 0 .5rem; }
.table-responsive { overflow-x: auto; }
table { border-collapse: collapse; }
.table { width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-top: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
thead th { border-top: 0; font-size: .875rem; color: GrayText; white-space: nowrap; }
td:first-child { width: 5rem; } .table-sm td:first-child { width: auto; }
.table:not(.index, .table-sm) > * > tr > :last-child { width: 12rem; }
.table-bordered { margin: .5rem 0; font-size: .875rem; } .table-bordered th { white-space: normal; }
.table-bordered th, .table-bordered td { overflow-wrap: break-word; }
.table-bordered td:first-child { overflow-wrap: anywhere; min-width: 5.5rem; }
.table-bordered td:last-child { overflow-wrap: anywhere; min-width: 9rem; }
strong > br:first-child { display: none; }
.badge { background: var(--soft); border: 1px solid var(--line); border-radius: 4px; padding: 0 .3rem; }
.badge, code { font: .875em ui-monospace, monospace; overflow-wrap: anywhere; }
.text-danger { color: var(--bad); } .text-success { color: var(--good); }
.fas { font-style: normal; font-weight: 600; }
.fa-times::before { content: "\\2718"; } .fa-check-circle::before { content: "\\2714"; }
ul { padding-left: 1.25rem; } li { list-style: none; }
hr { border: 0; border-top: 1px solid var(--line); margin: .4rem 0; }
.note { color: GrayText; } .note p, .note h6 { margin: 0; } .note h6 { display: none; }
body:has(#failed-only:checked) tr:has(> .hide-succeeded-validation-target-child),
body:has(#failed-only:checked) .ge-section:has(.hide-succeeded-validations-column-section-target-child) {
  display: none; }
@media (max-width: 40rem) {
  .table:not(.index, .table-sm) > thead { display: none; }
  .table:not(.index, .table-sm) > tbody > tr { display: grid; grid-template-columns: 2rem 1fr;
    border-top: 1px solid var(--line); }
  .table:not(.index, .table-sm) > tbody > tr > td { border: 0; padding-bottom: 0; }
  .table:not(.index, .table-sm) > tbody > tr > td:last-child { grid-column: 2; padding: 0 0 .4rem; width: auto;
    color: GrayText; }
}
"""

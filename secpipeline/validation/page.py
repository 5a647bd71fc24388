"""One self-contained HTML page that shows suite results and statistics to people.

Great Expectations' own Data Docs write data values unescaped and load scripts from elsewhere; delivered names
and labels are untrusted, so every value here is escaped and the page loads and runs nothing.

>>> Path("validation.html").write_text(render(results), encoding="utf-8")   # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined

from secpipeline.validation.results import SuiteResult

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Validation: {{ state }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; } .wide { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #d8dee4; }
th { color: #57606a; font-weight: 600; } td.number, th.number { text-align: right; white-space: nowrap; }
td.number { font-variant-numeric: tabular-nums; } td small { display: block; color: #57606a; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.passed { color: #116329; font-weight: 600; } .failed { color: #a40e26; font-weight: 600; }
.warned { color: #7d4e00; font-weight: 600; } tr.failed { background: #fff1f2; font-weight: inherit; }
tr.warned, td.warned { background: #fff8e1; font-weight: inherit; } tr.failed, tr.warned { color: inherit; }
td.name { white-space: nowrap; }
td.faint { background: #fffdf2; } ul { margin: .3rem 0 0; padding-left: 1.1rem; } .muted { color: #57606a; }
ul.found { padding-left: 1.1rem; } summary { cursor: pointer; }
</style>
</head>
<body>
<h1>Validation <span class="{{ state }}">{{ state }}</span></h1>
{% if alarms %}<ul class="found">{% for level, text in alarms %}
<li><span class="{{ level }}">{{ level }}</span> {{ text }}</li>{% endfor %}
</ul>{% endif %}
{% for table in grids %}
<h2>{{ table.title }}</h2>
<p class="muted">{{ table.note }}</p>
<div class="wide"><table>
<tr><th>{{ table.first }}</th>{% for name in table.columns %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{% for name, cells in table.rows %}
<tr><td class="name">{{ name }}</td>{% for cell in cells %}
<td class="number {{ cell.style }}">{{ cell.text }}{% if cell.note %}<small>{{ cell.note }}</small>{% endif %}</td>
{%- endfor %}</tr>
{% endfor %}
</table></div>
{% endfor %}
{% for suite in suites %}
<h2>{{ suite.name }} <span class="{{ state_of(suite) }}">{{ state_of(suite) }}</span></h2>
<p class="muted">{{ suite.evaluated }} of {{ suite.declared }} declared checks ran on {{ suite.rows }} rows;
suite sha256 <code>{{ suite.suite_sha256 }}</code></p>
{% for problem in suite.problems %}<p class="failed">{{ problem }}</p>{% endfor %}
<details{{ "" if state_of(suite) == "passed" else " open" }}><summary class="muted">The checks</summary>
<table>
<tr><th>Check</th><th>Columns</th><th>Outcome</th><th>Why it is checked</th></tr>
{% for result in suite.results %}
<tr class="{{ 'failed' if result.failed else 'warned' if result.warned else '' }}">
<td><code>{{ result.type }}</code></td><td><code>{{ result.column or "whole table" }}</code></td>
<td>{% if result.passed %}<span class="passed">holds</span>{% else %}
<span class="{{ 'failed' if result.failed else 'warned' }}">{{ result.detail }}</span>
<ul>{% for row in result.examples %}<li>
{%- for key, value in row.items() %}{{ key }} = <code>{{ value }}</code>
{{- ", " if not loop.last }}{% endfor %}
</li>{% endfor %}</ul>
{% endif %}</td>
<td>{{ result.reason }}</td>
</tr>
{% endfor %}
</table></details>
{% endfor %}
</body>
</html>
"""
_ORDER = ("failed", "warned", "passed")
# Where a cell begins to be coloured; what is too much says the suite.
_FAINT, _STRONG = 3.0, 5.0
_MOST_CHANGES = 40


@dataclass(frozen=True)
class _Cell:
    text: str
    note: str = ""
    style: str = ""


@dataclass(frozen=True)
class _Grid:
    title: str
    note: str
    first: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[_Cell, ...]], ...]


class _Change(NamedTuple):
    """A row of a comparison with the accepted release."""

    partition: str
    name: str
    measure: str
    value: float
    accepted: float
    deviation: float
    status: str


def render(
    results: Sequence[SuiteResult], peers: pd.DataFrame | None = None, baseline: pd.DataFrame | None = None
) -> str:
    """The page for these results, failed suites first.

    Parameters
    ----------
    results
        At least one; with none the page says "failed".
    peers, baseline
        From :func:`secpipeline.validation.comparison.against_peers` and
        :func:`~secpipeline.validation.comparison.against_baseline`, to be shown as tables.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    states = [_state(suite) for suite in results] or ["failed"]
    alarms = [("failed", text) for suite in results for text in suite.failures()]
    alarms += [("warned", text) for suite in results for text in suite.warnings()]
    grids = [_peer_grid(peers)] if peers is not None else []
    grids += [_baseline_grid(baseline)] if baseline is not None else []
    return environment.from_string(_PAGE).render(
        suites=sorted(results, key=lambda suite: _ORDER.index(_state(suite))),
        state=min(states, key=_ORDER.index),
        state_of=_state,
        alarms=alarms,
        grids=grids,
    )


def _state(suite: SuiteResult) -> str:
    if not suite.passed:
        return "failed"
    return "warned" if any(result.warned for result in suite.results) else "passed"


def _peer_grid(peers: pd.DataFrame) -> _Grid:
    """One row a source, one column a measure, and a last row with the median of the sources."""
    measures = tuple(dict.fromkeys(peers["measure"]))
    columns = ["source", "measure", "images", "value", "deviation", "status"]
    cells: dict[str, dict[str, _Cell]] = {}
    for source, measure, images, *compared in peers[columns].itertuples(index=False, name=None):
        cells.setdefault(str(source), {"images": _Cell(str(images))})[measure] = _compared(*compared)
    rows = [(source, tuple(own[name] for name in ("images", *measures))) for source, own in cells.items()]
    medians = peers.groupby("measure")["value"].median().to_dict()
    rows.append(("median of the sources", (_Cell(""), *(_Cell(_number(medians[name])) for name in measures))))
    note = (
        "Each source beside its peers. The small number is the distance from the median of the other sources, in units"
        " of the scatter that is to be expected. A source that stands out is unlike the others, by its camera, its"
        " place, or what somebody did to it; poison that adds as many boxes as it takes away does not stand out here."
    )
    return _Grid("Sources", note, "source", ("images", *map(_title, measures)), tuple(rows))


def _baseline_grid(baseline: pd.DataFrame) -> _Grid:
    """What differs most from the accepted release; groups that came or went first."""
    known = baseline["deviation"].notna()
    changed = baseline[known | baseline["status"].isin(["new", "gone"])]
    order = changed["deviation"].fillna(math.inf).sort_values(ascending=False, kind="stable").index
    shown = changed.loc[order].head(_MOST_CHANGES)
    rows = tuple(
        (
            f"{row.partition} {row.name}".strip(),
            (_Cell(_title(row.measure)), _Cell(_number(row.accepted)), _compared(row.value, row.deviation, row.status)),
        )
        for row in map(_Change._make, shown[list(_Change._fields)].itertuples(index=False, name=None))
    )
    note = (
        f"{int(known.sum())} of {len(baseline)} measures could be compared with those of the release that was accepted;"
        f" the {len(rows)} that differ most, in units of the scatter that is to be expected."
    )
    return _Grid("Against the accepted release", note, "images", ("measure", "accepted", "now"), rows)


def _compared(value: float, deviation: float, status: str) -> _Cell:
    if math.isnan(deviation):
        return _Cell(_number(value), status)
    style = "warned" if deviation > _STRONG else "faint" if deviation > _FAINT else ""
    return _Cell(_number(value), f"{deviation:.1f}", style)


def _title(measure: str) -> str:
    return measure.replace("_", " ")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"

"""One self-contained HTML page that shows suite results to people.

Great Expectations' own Data Docs write data values unescaped and load scripts from elsewhere; delivered names
and labels are untrusted, so every value here is escaped and the page loads and runs nothing.

>>> Path("validation.html").write_text(render(results), encoding="utf-8")   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined

from secpipeline.validation.results import SuiteResult

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Validation: {{ "passed" if passed else "failed" }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid #d8dee4; }
th { color: #57606a; font-weight: 600; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
.pass { color: #116329; font-weight: 600; } .fail { color: #a40e26; font-weight: 600; }
tr.bad { background: #fff1f2; } ul { margin: .3rem 0 0; padding-left: 1.1rem; } .muted { color: #57606a; }
</style>
</head>
<body>
<h1>Validation
<span class="{{ 'pass' if passed else 'fail' }}">{{ "passed" if passed else "failed" }}</span></h1>
{% for suite in suites %}
<h2>{{ suite.name }} <span class="{{ 'pass' if suite.passed else 'fail' }}">
{{- "passed" if suite.passed else "failed" }}</span></h2>
<p class="muted">{{ suite.evaluated }} of {{ suite.declared }} declared checks ran on {{ suite.rows }} rows;
suite sha256 <code>{{ suite.suite_sha256 }}</code></p>
{% for problem in suite.problems %}<p class="fail">{{ problem }}</p>{% endfor %}
<table>
<tr><th>Check</th><th>Columns</th><th>Outcome</th><th>Why it is checked</th></tr>
{% for result in suite.results %}
<tr{{ "" if result.passed else ' class="bad"'|safe }}>
<td><code>{{ result.type }}</code></td><td><code>{{ result.column or "whole table" }}</code></td>
<td>{% if result.passed %}<span class="pass">holds</span>{% else %}
<span class="fail">{{ result.detail }}</span>
<ul>{% for row in result.examples %}<li>
{%- for key, value in row.items() %}{{ key }} = <code>{{ value }}</code>
{{- ", " if not loop.last }}{% endfor %}
</li>{% endfor %}</ul>
{% endif %}</td>
<td>{{ result.reason }}</td>
</tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
"""


def render(results: Sequence[SuiteResult]) -> str:
    """The page for these results, failed suites first.

    Parameters
    ----------
    results
        At least one; with none the page says "failed".
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    passed = bool(results) and all(suite.passed for suite in results)
    suites = sorted(results, key=lambda suite: suite.passed)
    return environment.from_string(_PAGE).render(suites=suites, passed=passed)

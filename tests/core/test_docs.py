"""What the documents say can be typed, followed and looked up."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from secpipeline.cli import _parser
from secpipeline.provenance.keys import ROLES
from secpipeline.provenance.report import REASONS
from secpipeline.stages.table import BY_NAME, STAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs/adr").glob("*.md"))
EVIDENCE, FLOW = (ROOT / "docs/evidence.md").read_text(), (ROOT / "docs/how-it-works.md").read_text()
_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Up to the end of the line, of the span, or of the command in a shell.
_COMMAND = re.compile(r"(?<![\w/-])(?:[\w.-]+/)*secpipeline +([^\n`|;&#]*)")


def typed(text):
    """The commands in blocks of code, as their arguments."""
    return _arguments(_FENCE.findall(text))


def mentioned(text):
    """The commands within sentences, as their arguments."""
    return _arguments([" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text))])


def _arguments(code):
    found = [match for piece in code for match in _COMMAND.findall(piece.replace("\\\n", " "))]
    return [shlex.split(arguments.replace("<stage>", "gate")) for arguments in found if arguments.strip()]


def objection(arguments):
    """What the command line has against these arguments; empty if nothing."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            _parser().parse_args(arguments)
        except SystemExit as stopped:
            return said.getvalue().splitlines()[-1] if stopped.code else ""
    return ""


def objections(text):
    """Every command that cannot be typed; a sentence may speak of a command without all of its arguments."""
    found = {shlex.join(arguments): objection(arguments) for arguments in mentioned(text)}
    found = {command: why for command, why in found.items() if "arguments are required" not in why}
    found |= {shlex.join(arguments): objection(arguments) for arguments in typed(text)}
    return {command: why for command, why in found.items() if why}


def headings(text):
    """The names by which a document's headings are linked to."""
    titles = re.findall(r"^#+ +(.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(path):
    """The relative links of a document that lead nowhere."""
    broken = []
    for link in _LINK.findall(_FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (heading and heading not in headings(target.read_text())):
            broken.append(link)
    return broken


def table(text, heading):
    """The rows of the first table below a heading, without its head."""
    rows = [line for line in text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_can_be_typed_and_every_link_be_followed(path):
    assert not objections(path.read_text())
    assert not broken_links(path)


@pytest.mark.parametrize(
    ("name", "within"), [("README.md", ["keys", "init"]), ("docs/evidence.md", ["keys", "rotate", "trainer"])]
)
def test_commands_are_found_where_readers_see_them(name, within):
    text = (ROOT / name).read_text()
    assert ["keys", "list"] in typed(text)
    assert within in mentioned(text)
    assert len(typed(text)) > 10


@pytest.mark.parametrize(
    "text",
    [
        "type `secpipeline fly`",
        "type `secpipeline verify\n--soon`",
        "type `secpipeline keys mislay trainer`",
        "```console\n$ .venv/bin/secpipeline keys rotate\n```",
        "```console\n$ cd x && secpipeline revoke vendor-c\n```",
        "1. so:\n   ```sh\n   secpipeline verify --at-least-version N\n   ```",
        "```sh\nsecpipeline run \\\n  nothing\n```",
    ],
)
def test_a_command_that_is_none_is_noticed(text):
    assert len(objections(text)) == 1


def test_prose_and_paths_are_no_commands():
    text = "secpipeline verify is one. `secpipeline/stages/table.py`, `secpipeline`, `pip install secpipeline[hsm]`"
    assert typed(text) == mentioned(text) == []


def test_commands_end_where_the_shell_ends_them():
    assert mentioned("`secpipeline serve --port 80 | tee log`") == [["serve", "--port", "80"]]
    assert typed("```sh\nx && .venv/bin/secpipeline run \\\n  gate  # once\n```") == [["run", "gate"]]
    assert not objections("after `secpipeline keys rotate`, type\n```sh\nsecpipeline keys rotate trainer\n```")


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    (tmp_path / "other.md").write_text("# Who signs what?\n```\n# no heading\n```\n")
    path = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#who-signs-what) [c](#here) [d](https://example.org/none)\n# Here\n"
    bad = "[e](gone.md) ![f](gone.png) [g](other.md#no-heading) [h](#there)"
    path.write_text(good)
    assert broken_links(path) == []
    path.write_text(good + bad)
    assert broken_links(path) == ["gone.md", "gone.png", "other.md#no-heading", "#there"]


def test_the_document_lists_every_reason_code_with_its_remedy():
    rows = table(EVIDENCE, "Reason codes")
    assert [(code, remedy) for code, remedy in rows] == [(f"`{code}`", remedy) for code, remedy in REASONS.items()]


def test_the_document_says_who_signs_each_stage():
    rows = table(EVIDENCE, "Who signs what")
    assert [name for roles, _ in rows for name in roles.split(", ")] == list(ROLES)
    signs = {name: {word for word in _SPAN.findall(what) if word in BY_NAME} for name, what in rows}
    for stage in STAGES:
        signers = {role for role, stages in signs.items() if stage.name in stages}
        assert signers == {stage.role, *filter(None, [stage.witness])}, stage.name


def test_the_flow_is_described_stage_by_stage():
    rows = [row for row in map(str.strip, FLOW.splitlines()) if row.startswith("| ")]
    described = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]
    signed = [(name, signer) for name, _, signer, _ in described]
    assert signed == [(stage.name, ", ".join(filter(None, [stage.role, stage.witness]))) for stage in STAGES]


def test_decisions_are_numbered_without_gaps():
    assert [path.name[:5] for path in DECISIONS] == [f"{number:04}-" for number in range(1, len(DECISIONS) + 1)]


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_has_its_number_and_says_what_it_costs(path):
    text = path.read_text()
    assert text.startswith(f"# {int(path.name[:4])}. ")
    parts = [text.find(f"**{part}.**") for part in ("Context", "Decision", "Drawbacks")]
    assert -1 < parts[0] < parts[1] < parts[2]

import re
import shutil
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest

from secpipeline import runner
from secpipeline.assurance import report
from secpipeline.digests import sha256_bytes
from secpipeline.provenance import authority
from secpipeline.provenance.trust import Revocation
from secpipeline.stages.table import STAGES
from secpipeline.workspace import step_specs

VERIFIED = SimpleNamespace(ok=True, summary=lambda: "11 stages")
OUTCOME = {
    "recipe": "robust", "verdict": "inconclusive", "reasons": ["too few images"], "deployment": "refused",
    "numbers": {"clean AP50": 0.5}, "files": {},
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"


def page(workspace, **outcome):
    return report.write(workspace, {"robust": OUTCOME | outcome}, None, VERIFIED).read_text()


def picture(html):
    (drawn,) = re.findall(r"<svg xmlns.*?</svg>\n(?=<figcaption>)", html, re.DOTALL)
    return ET.fromstring(drawn)


def words(drawn):
    return {element.text for element in drawn.iter(f"{SVG}text")}


def current(workspace, stage):
    return sha256_bytes(workspace.evidence.current(stage).statement)[:12]


def test_the_lineage_of_the_deployment_is_in_the_page_with_every_stage(chain):
    drawn = picture(page(chain))
    assert {stage.name for stage in STAGES} <= words(drawn)
    assert {current(chain, stage.name) for stage in STAGES} <= words(drawn)
    assert "affected" not in words(drawn)


def test_a_detector_that_is_not_the_deployed_one_is_not_in_the_picture(chain):
    deployed = current(chain, "train")
    runner.run(chain, "train", {"train.recipe": "standard"})
    shown = words(picture(page(chain)))
    assert deployed in shown
    assert current(chain, "train") not in shown


def test_a_revocation_is_told_in_words_and_in_red(chain):
    hostile = "<script>alert('x')</script>" + "a" * 3000
    revocation = Revocation("source", "vendor-c", hostile, "2026-11-24T10:00:00Z")
    authority.revoke(chain.evidence, chain.ring(), step_specs(), revocation)
    html = page(chain)
    assert "The deployment must not be relied on: rests on" in html
    assert "<script" not in html
    drawn = picture(html)
    assert {"revoked", "affected"} <= words(drawn)
    tooltips = [title.text for title in drawn.iter(f"{SVG}title")]
    assert any("alert('x')" in text for text in tooltips)
    assert max(map(len, tooltips)) < 600
    assert "a" * 600 not in html


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "\"'><svg onload=alert(1)>"])
def test_hostile_words_in_an_outcome_are_text(chain, hostile):
    html = page(chain, recipe=hostile, reasons=[hostile])
    assert hostile not in html
    assert html.count("<svg xmlns") == 1


def no_log(evidence):
    evidence.log.path.unlink()


def no_owners_word(evidence):
    evidence.trust.unlink()
    evidence.layout.unlink()


def no_envelopes(evidence):
    shutil.rmtree(evidence.directory / "history")


def no_evidence(evidence):
    shutil.rmtree(evidence.directory)


@pytest.mark.parametrize(
    ("lose", "words_of_it"),
    [(no_log, "log-missing"), (no_owners_word, "trust"), (no_envelopes, "evidence"), (no_evidence, "trust")],
)
def test_evidence_that_cannot_be_read_is_said_and_nothing_is_signed_anew(chain, lose, words_of_it):
    lose(chain.evidence)
    before = sorted(chain.evidence.directory.rglob("*"))
    html = page(chain)
    assert re.search(rf"Not drawn: the evidence cannot be read: \[.*{words_of_it}", html)
    assert "<svg" not in html
    assert sorted(chain.evidence.directory.rglob("*")) == before


def test_a_chain_that_has_not_come_to_a_deployment_is_said(chain):
    (chain.evidence.directory / "current/deploy.json").unlink()
    html = page(chain)
    assert "no deployment has signed evidence yet" in html
    assert "<svg" not in html

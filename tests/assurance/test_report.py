import re
import shutil
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from secpipeline import runner
from secpipeline.assurance import report
from secpipeline.detection.matching import VISIBLE
from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.provenance import authority
from secpipeline.provenance.trust import Revocation
from secpipeline.robustness.evaluation_report import evaluation_report
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


def evaluated(source):
    """An evaluation of 20 images of 10 scenes: one person each, half of them lost under attack."""
    images = pd.DataFrame({"image_id": [f"i{n}" for n in range(20)], "time_of_day": "day", "source": source})
    images["scene"] = [f"s{n // 2}" for n in range(20)]
    boxes = images[["image_id"]].assign(x1=0.0, y1=0.0, x2=24.0, y2=60.0, ignore=False, visibility=1.0)
    clean = boxes[["image_id", "x1", "y1", "x2", "y2"]].assign(score=np.linspace(0.55, 0.95, 20))
    predictions = {"clean": clean, "pgd": clean.iloc[10:]}
    return evaluation_report(predictions, {"pgd": "attack"}, boxes, images, VISIBLE, 0.5, 100, seed=0)


def with_evaluation(workspace, evaluation):
    """The page of an outcome whose attack stage left this evaluation in the store."""
    data = canonical_json(evaluation)
    path = workspace.store.object_path(sha256_bytes(data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    html = page(workspace, files={"attack": {"evaluation.json": sha256_bytes(data)}})
    return html[html.index("<h2>Evaluation</h2>") : html.index("<h2>Quarantine</h2>")]


def cells(html, first):
    (row,) = [row for row in re.findall(r"<tr>(.*?)</tr>", html) if row.startswith(f"<td>{first}</td>")]
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_the_evaluation_of_a_detector_is_in_the_page_with_its_intervals(chain):
    evaluation = evaluated("vendor-a")
    html = with_evaluation(chain, evaluation)
    assert "20 clean test images with 20 people" in html
    assert cells(html, "AP50") == ["AP50", "any height and visibility", "20", "1.000 [1.000, 1.000]"]
    assert cells(html, "MR⁻² heavy")[-1].startswith("nobody among the images is heavy")
    assert cells(html, "source") == [
        "source", "vendor-a", "", "20", "20", *["1.000 [1.000, 1.000]"] * 2, "0.000 [0.000, 0.000]"
    ]  # fmt: skip
    rate = evaluation["exchanges"][0]["disappearance_rate"]
    lost = f"0.500 [{rate['low']:.3f}, {rate['high']:.3f}]"
    assert cells(html, "pgd") == ["pgd", "attack", "20", "10", "0", "0", lost, "0.000 [0.000, 0.000]"]
    error = evaluation["calibration"]["error"]
    assert f"Calibration error {error['value']:.3f} [{error['low']:.3f}, {error['high']:.3f}] over 20" in html


def test_the_name_of_a_source_is_text_in_the_evaluation(chain):
    html = with_evaluation(chain, evaluated("<script>alert(1)</script>"))
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_an_evaluation_that_could_not_be_made_says_why(chain):
    made = chain.evidence.current("attack").files("attack")
    html = page(chain, files={"attack": made})
    assert "Not measured: 2 scenes are too few" in html


def test_an_outcome_without_an_evaluation_has_no_section_of_it(chain):
    assert "<h2>Evaluation</h2>" not in page(chain)

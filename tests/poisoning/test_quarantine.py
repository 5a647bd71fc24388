import pandas as pd
import pytest
from label_simulation import draw_street, poison

from secpipeline.errors import InputError
from secpipeline.poisoning.audit import audit_labels
from secpipeline.poisoning.quarantine import curate, decide, decide_boxes, decide_sources

IMAGES = pd.DataFrame(
    {
        "image_id": ["a0", "a1", "b0", "b1"],
        "source": ["a", "a", "b", "b"],
        "split": ["train", "test", "train", "test"],
    }
)
BOXES = pd.DataFrame({"box_id": ["a0#0", "a1#0", "b0#0", "b0#1"], "image_id": ["a0", "a1", "b0", "b0"]})
FINDINGS = pd.DataFrame(
    {"image_id": ["a0", "a0", "b1"], "score": [0.7, 0.9, 0.79], "reason": ["weak", "strong", "nearly"]}
)


def decisions(findings=FINDINGS, named=None, image_score=0.8, integrity=None):
    table = decide(IMAGES, findings, named or {}, image_score=image_score, integrity=integrity)
    return table.set_index("image_id")


def test_strong_findings_hold_an_image_with_the_strongest_reason():
    table = decisions()

    assert table["decision"].to_dict() == {"a0": "hold", "a1": "accept", "b0": "accept", "b1": "accept"}
    assert table.loc["a0", "reason"] == "strong"
    assert table.loc["a1", "reason"] == ""


def test_a_named_source_is_held_as_a_whole():
    table = decisions(named={"b": "b has more missing boxes than its peers"})

    assert table["decision"].to_dict() == {"a0": "hold", "a1": "accept", "b0": "hold", "b1": "hold"}
    assert table.loc["b0", "reason"] == "source held: b has more missing boxes than its peers"


def test_boxes_say_which_label_is_doubted_and_which_only_lies_in_a_held_image():
    findings = pd.DataFrame(
        {
            "image_id": ["b0", "a0", "a1"],
            "box_id": ["b0#1", "a0#0", "a1#0"],
            "kind": ["location", "ghost", "ghost"],
            "score": [0.9, 0.85, 0.5],
            "reason": ["moved", "ghost", "weak"],
        }
    )
    named = {"a": "a has more ghosts"}
    images = decide(IMAGES, findings, named, image_score=0.8)

    table = decide_boxes(BOXES, findings, images, image_score=0.8).set_index("box_id")

    assert table["decision"].to_dict() == {"a0#0": "hold", "a1#0": "hold", "b0#0": "accept", "b0#1": "hold"}
    assert table["reason"].to_dict() == {
        "a0#0": "ghost",
        "a1#0": "source held: a has more ghosts",
        "b0#0": "",
        "b0#1": "moved",
    }


def test_every_box_of_an_image_that_is_held_as_a_whole_is_held():
    findings = pd.DataFrame(
        {
            "image_id": ["b0", "b0"],
            "box_id": ["", "b0#1"],
            "kind": ["trigger", "ghost"],
            "score": [0.99, 0.9],
            "reason": ["odd patch", "ghost"],
        }
    )
    images = decide(IMAGES, findings, {}, image_score=0.8)

    table = decide_boxes(BOXES, findings, images, image_score=0.8).set_index("box_id")

    assert table.loc[["b0#0", "b0#1"], "decision"].tolist() == ["hold", "hold"]
    assert table.loc[["b0#0", "b0#1"], "reason"].tolist() == ["odd patch", "ghost"]


def test_sources_say_whether_they_are_held_and_what_they_lost():
    named = {"a": "a has more ghosts"}
    images = decide(IMAGES, FINDINGS, named, image_score=0.8, integrity={"b1": "bytes do not match"})

    table = decide_sources(IMAGES, named, images)

    assert table.to_dict("records") == [
        {"source": "a", "decision": "hold", "reason": "a has more ghosts", "images": 2, "held": 2, "rejected": 0},
        {"source": "b", "decision": "accept", "reason": "", "images": 2, "held": 0, "rejected": 1},
    ]


def test_only_integrity_facts_reject_and_they_win():
    table = decisions(named={"a": "a has more"}, integrity={"a0": "bytes do not match sha256"})

    assert table.loc["a0"].to_list() == ["reject", "bytes do not match sha256"]
    assert table.loc["a1", "decision"] == "hold"
    assert (decisions()["decision"] != "reject").all()


@pytest.mark.parametrize("image_score", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_out_of_range_is_refused(image_score):
    with pytest.raises(InputError, match=r"quarantine\.image_score"):
        decisions(image_score=image_score)


def test_evidence_about_something_else_is_refused():
    with pytest.raises(InputError, match="findings name z9"):
        decisions(findings=FINDINGS.assign(image_id=["a0", "z9", "b1"]))
    with pytest.raises(InputError, match="named sources name z"):
        decisions(named={"z": "reason"})
    with pytest.raises(InputError, match="integrity facts name z9"):
        decisions(integrity={"z9": "reason"})


def test_curation_keeps_accepted_images_and_their_boxes():
    images, boxes = curate(IMAGES, BOXES, decisions().reset_index())

    assert images["image_id"].tolist() == ["a1", "b0", "b1"]
    assert boxes["box_id"].tolist() == ["a1#0", "b0#0", "b0#1"]
    assert images.index.tolist() == [0, 1, 2]
    assert list(images.columns) == list(IMAGES.columns)


def test_curation_refuses_decisions_that_are_not_one_per_image():
    table = decisions().reset_index()

    with pytest.raises(InputError, match="b1 has no decision"):
        curate(IMAGES, BOXES, table.head(3))
    with pytest.raises(InputError, match="b1 has 2 decisions"):
        curate(IMAGES, BOXES, pd.concat([table, table.tail(1)]))
    with pytest.raises(InputError, match="'maybe' is no decision"):
        curate(IMAGES, BOXES, table.assign(decision="maybe"))


def test_curation_refuses_to_empty_a_split():
    table = decisions(integrity={"a0": "damaged", "b0": "damaged"}).reset_index()

    with pytest.raises(InputError, match="every image of the split 'train'"):
        curate(IMAGES, BOXES, table)


def test_an_audited_release_loses_its_poison_and_little_else():
    street = draw_street(3, "strong")
    boxes, truth = poison(street, 4, "vendor-c", 0.12, 0.12, 0.12)
    audit = audit_labels(street.images, boxes, street.predictions)

    table = decide(street.images, audit.findings, audit.attribution.reasons(), image_score=0.8)
    images, kept = curate(street.images, boxes, table)

    assert not images["image_id"].isin(truth["image_id"]).any()
    honest = street.images["source"] != "vendor-c"
    assert len(images) / honest.sum() > 0.93
    assert set(kept["image_id"]) <= set(images["image_id"])

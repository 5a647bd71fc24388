"""Whose images a deployment contains: those delivered, and those trained on."""

import json

import pytest
import street_chain
from street_chain import PHASES, release_digest

from secpipeline.errors import InputError
from secpipeline.provenance.lineage.contributions import contributions, table


def answers(street, source, release=""):
    """Deployment, delivered, trained on: of each deployment that the source contributed to."""
    found = contributions(street.history(), source, release, phases=PHASES)
    return [(one.deployment.statement, one.delivered, one.trained_on) for one in found]


def test_deployments_are_asked_for_by_source_and_release(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    seven, detector = street.train("robust")
    street.take_in("8", ["vendor-a"])
    eight, _ = street.train("robust")
    assert answers(street, "vendor-c") == [(seven, True, True)]
    assert answers(street, "vendor-a") == [(seven, True, True), (eight, True, True)]
    assert answers(street, "vendor-a", release_digest("raw 8")[:12]) == [(eight, True, True)]
    (found,) = contributions(street.history(), "vendor-c", phases=PHASES)
    assert found.detector == detector
    assert found.releases == (release_digest("raw 7"),)


def test_a_source_that_curation_held_back_was_delivered_and_not_trained_on(street):
    street.take_in("7", ["vendor-a", "vendor-c"], held=["vendor-c"])
    seven, _ = street.train("robust")
    assert answers(street, "vendor-c") == [(seven, True, False)]
    assert answers(street, "vendor-a") == [(seven, True, True)]
    with pytest.raises(InputError, match="vendor-c: no signed run handed on"):
        contributions(street.history(), "vendor-c", release_digest("curated 7"), phases=PHASES)


def test_a_source_that_came_in_behind_the_intake_is_not_said_to_be_delivered(street):
    street.take_in("7", ["vendor-a"])
    street.run("curate", street_chain.release_files("smuggled", ["vendor-a", "vendor-x"]))
    seven, _ = street.train("robust")
    assert answers(street, "vendor-x") == [(seven, False, True)]


def test_a_source_let_back_in_counts_for_what_is_trained_afterwards(street):
    street.take_in("7", ["vendor-a", "vendor-c"], held=["vendor-c"])
    without, _ = street.train("robust")
    street.run("curate", street_chain.release_files("reviewed 7", ["vendor-a", "vendor-c"]))
    with_it, _ = street.train("robust")
    assert answers(street, "vendor-c", release_digest("raw 7")) == [(without, True, False), (with_it, True, True)]
    assert answers(street, "vendor-c", release_digest("reviewed 7")) == [(with_it, True, True)]


def test_a_second_deployment_of_one_detector_is_an_answer_and_a_refusal_is_none(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    street.train("weak", deployed=False)
    first, detector = street.train("robust")
    again, _ = street.deploy("staging")
    found = contributions(street.history(), "vendor-c", phases=PHASES)
    assert [one.deployment.statement for one in found] == [first, again]
    assert {one.detector for one in found} == {detector}


def test_a_source_of_which_nothing_was_deployed_is_an_answer_and_an_unknown_one_is_an_error(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    street.train("weak", deployed=False)
    assert answers(street, "vendor-c") == []
    assert table(contributions(street.history(), "vendor-c", phases=PHASES)) == "no deployment rests on them"
    for source, release, words in (
        ("vendor-x", "", "vendor-x: no signed run"),
        ("vendor-c", "0" * 64, "release 0000"),
        ("vendor-c", "seven", "not a SHA-256"),
    ):
        with pytest.raises(InputError, match=words):
            answers(street, source, release)


@pytest.mark.parametrize("left_out", ["vendor-c", "curate/"])
def test_a_trainer_that_leaves_a_source_out_of_its_own_link_hides_nothing(street, left_out):
    street.take_in("7", ["vendor-a", "vendor-c"])
    seven, _ = street.train("robust", materials=lambda read: {n: d for n, d in read.items() if left_out not in n})
    assert answers(street, "vendor-c") == [(seven, True, True)]


@pytest.mark.parametrize("source", ["city/7", "Zürich north", "100%", "x.sha256"])
def test_a_source_is_found_whatever_its_name(street, source):
    street.take_in("7", ["vendor-a", source], held=["vendor-a"])
    seven, _ = street.train("robust")
    assert answers(street, source) == [(seven, True, True)]


def test_contributions_are_written_for_people_and_for_tools(street):
    street.take_in("7", ["vendor-a", "vendor-c"], held=["vendor-c"])
    seven, detector = street.train("robust")
    found = contributions(street.history(), "vendor-c", phases=PHASES)
    (line,) = table(found).splitlines()
    assert line.startswith(f"deploy {seven[:12]} ")
    assert line.endswith(f"detector {detector[:12]}  delivered, not trained on")
    record = json.loads(json.dumps(found[0].to_json()))
    assert (record["statement"], record["detector"]) == (seven, detector)
    assert (record["delivered"], record["trainedOn"], record["against"]) == (True, False, "")

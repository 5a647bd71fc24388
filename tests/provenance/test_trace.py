import json
import shutil
import time
from dataclasses import replace

import pytest
import street_chain
from street_chain import PHASES, release_digest
from tiny_chain import NOW, SPECS

from secpipeline.digests import canonical_json, sha256_bytes
from secpipeline.errors import AttestationError, InputError
from secpipeline.provenance import authority, envelopes
from secpipeline.provenance.evidence import SignedEvidence
from secpipeline.provenance.keys import LOG
from secpipeline.provenance.trace import MAX_DEPTH, History, TracedRun, table, tree
from secpipeline.provenance.trust import Revocation


def history(chain):
    return History.read(chain.store, chain.trust(), SPECS)


def stages(branches):
    return {branch.run.stage for branch in branches} | {
        stage for branch in branches for stage in stages(branch.branches)
    }


def test_a_deployed_file_rests_on_the_runs_that_its_links_name(chain):
    found = history(chain)
    branches = found.upstream(found.makers(sha256_bytes(b"graph")))
    assert [branch.run.stage for branch in branches] == ["deploy"]
    assert [branch.run.stage for branch in branches[0].branches] == ["train", "gate"]
    assert stages(branches) == {"deploy", "train", "gate", "ingest"}


def test_an_image_table_reaches_every_run_that_read_it_or_its_heirs(chain):
    found = history(chain)
    branches = found.downstream(found.makers(sha256_bytes(b"images")[:12]))
    assert [branch.run.stage for branch in branches] == ["ingest"]
    assert stages(branches) == {spec.name for spec in SPECS}


def test_a_run_that_several_rest_on_is_grown_once(chain):
    found = history(chain)
    text = tree(found.upstream(found.makers(sha256_bytes(b"graph"))))
    assert text.count("ingest ") == 1
    assert text.count("shown above") == 1
    assert text.splitlines()[1].startswith("├─ train ")


def test_a_run_that_read_other_bytes_under_the_same_name_is_no_heir(chain):
    (chain.artifacts / "ingest/images.parquet").write_bytes(b"other images")
    chain.sign("ingest")
    found = history(chain)
    assert len(found.runs) == len(SPECS) + 1
    assert stages(found.downstream(found.makers(sha256_bytes(b"other images")))) == {"ingest"}
    assert "train" in stages(found.downstream(found.makers(sha256_bytes(b"images"))))


def test_the_same_bytes_made_again_later_are_not_what_an_earlier_run_rests_on(chain):
    first = chain.store.current("train")
    later = chain.sign("train", materials={"recipes/other.yaml": sha256_bytes(b"other")})
    chain.sign("deploy", materials={"train/detector.safetensors": sha256_bytes(b"weights")})
    found = history(chain)
    branches = found.upstream(found.makers(sha256_bytes(b"graph")))
    trained = [run.run.statement for deployed in branches for run in deployed.branches if run.run.stage == "train"]
    assert trained == [sha256_bytes(first.statement), sha256_bytes(later.statement)]


def test_a_link_of_another_role_is_refused(chain):
    specs = [replace(spec, role="red-team") if spec.name == "train" else spec for spec in SPECS]
    with pytest.raises(AttestationError, match="signature"):
        History.read(chain.store, chain.trust(), specs)


def test_a_link_under_another_stages_name_is_refused(chain):
    chain.record("release", chain.store.current("deploy"))
    with pytest.raises(AttestationError, match=r"link-name.*deploy"):
        history(chain)


@pytest.mark.parametrize("number", [0, 2])
def test_a_broken_log_is_refused(chain, number):
    lines = chain.store.log.path.read_bytes().splitlines(keepends=True)
    del lines[number]
    chain.store.log.path.write_bytes(b"".join(lines))
    with pytest.raises(AttestationError, match="log"):
        history(chain)


def test_a_log_older_than_the_owners_word_is_refused(chain, ring):
    log = chain.store.log
    older = [(path, path.read_bytes()) for path in (log.path, log.checkpoint_path)]
    chain.sign("deploy")
    authority.publish(chain.store, ring, SPECS, chain.trust().key_revoked("trainer", 2, "laptop stolen"))
    history(chain)
    for path, data in older:
        path.write_bytes(data)
    with pytest.raises(AttestationError, match="log-rewound"):
        history(chain)


def test_missing_envelopes_are_refused(chain):
    shutil.rmtree(chain.store.directory / "history")
    with pytest.raises(AttestationError, match="evidence-missing"):
        history(chain)


@pytest.mark.parametrize(
    ("target", "words"), [("0" * 64, "no signed run"), ("xyz", "not a SHA-256"), ("abc", "8 to 64")]
)
def test_a_file_that_nobody_made_is_one_clear_error(chain, target, words):
    with pytest.raises(InputError, match=words):
        history(chain).makers(target)


def test_the_tree_as_json_is_the_same_tree(chain):
    found = history(chain)
    (branch,) = found.upstream(found.makers(sha256_bytes(b"graph")))
    record = json.loads(json.dumps(branch.to_json()))
    assert record["stage"] == "deploy"
    assert [run["stage"] for run in record["runs"]] == ["train", "gate"]
    assert record["statement"] == branch.run.statement


@pytest.fixture
def street(tmp_path, ring):
    return street_chain.found(tmp_path / "street", ring)


def street_history(street):
    return History.read(street.store, street.trust(), street_chain.SPECS)


def answers(street, source, release=""):
    """Deployment, delivered, trained on: of each deployment that the source contributed to."""
    found = street_history(street).contributions(source, release, phases=PHASES)
    return [(one.deployment.statement, one.delivered, one.trained_on) for one in found]


def test_deployments_are_asked_for_by_source_and_release(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    seven, detector = street.train("robust")
    street.take_in("8", ["vendor-a"])
    eight, _ = street.train("robust")
    assert answers(street, "vendor-c") == [(seven, True, True)]
    assert answers(street, "vendor-a") == [(seven, True, True), (eight, True, True)]
    assert answers(street, "vendor-a", release_digest("raw 8")[:12]) == [(eight, True, True)]
    (found,) = street_history(street).contributions("vendor-c", phases=PHASES)
    assert found.detector == detector
    assert found.releases == (release_digest("raw 7"),)


def test_a_source_that_curation_held_back_was_delivered_and_not_trained_on(street):
    street.take_in("7", ["vendor-a", "vendor-c"], held=["vendor-c"])
    seven, _ = street.train("robust")
    assert answers(street, "vendor-c") == [(seven, True, False)]
    assert answers(street, "vendor-a") == [(seven, True, True)]
    with pytest.raises(InputError, match="vendor-c: no signed run handed on"):
        street_history(street).contributions("vendor-c", release_digest("curated 7"), phases=PHASES)


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
    found = street_history(street).contributions("vendor-c", phases=PHASES)
    assert [one.deployment.statement for one in found] == [first, again]
    assert {one.detector for one in found} == {detector}


def test_a_source_of_which_nothing_was_deployed_is_an_answer_and_an_unknown_one_is_an_error(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    street.train("weak", deployed=False)
    assert answers(street, "vendor-c") == []
    assert table(street_history(street).contributions("vendor-c", phases=PHASES)) == "no deployment rests on them"
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
    found = street_history(street).contributions("vendor-c", phases=PHASES)
    (line,) = table(found).splitlines()
    assert line.startswith(f"deploy {seven[:12]} ")
    assert line.endswith(f"detector {detector[:12]}  delivered, not trained on")
    record = json.loads(json.dumps(found[0].to_json()))
    assert (record["statement"], record["detector"]) == (seven, detector)
    assert (record["delivered"], record["trainedOn"], record["against"]) == (True, False, "")


def test_a_revoked_source_stands_against_all_that_it_reached_and_nothing_else(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    seven, _ = street.train("robust")
    street.take_in("8", ["vendor-a"])
    eight, _ = street.train("robust")
    revocation = Revocation("source", "vendor-c", "poisoned", NOW.strftime("%Y-%m-%dT%H:%M:%SZ"))
    authority.revoke(street.store, street.ring, street_chain.SPECS, revocation)
    found = street_history(street)
    (one,) = found.contributions("vendor-c", phases=PHASES)
    assert "poisoned" in one.against
    assert "poisoned" in str(one)
    against = {run.statement: found.against(run) for run in found.runs}
    assert "rests on" in against[seven]
    assert not against[eight]
    ingests = [run for run in found.runs if run.stage == "ingest"]
    assert [bool(found.against(run)) for run in ingests] == [True, False]
    assert found.against(ingests[0]) == str(revocation)
    assert tree(found.upstream([found.runs[0]])).endswith(str(revocation))
    assert found.upstream([found.runs[0]])[0].to_json()["revoked"] == str(revocation)


def test_a_key_that_no_longer_counted_puts_what_rests_on_its_runs_in_doubt(chain, ring):
    before = chain.trust()
    authority.publish(chain.store, ring, SPECS, before.key_revoked("trainer", 2, "laptop stolen"))
    found = history(chain)
    stages = {run.stage for run in found.runs if found.against(run)}
    assert stages == {"train", "gate", "release", "deploy"}
    (trained,) = (run for run in found.runs if run.stage == "train")
    assert "laptop stolen" in trained.doubt
    assert found.against(trained) == trained.doubt


def test_what_a_digest_touches_and_reaches(street):
    street.take_in("7", ["vendor-a", "vendor-c"])
    street.train("robust")
    found = street_history(street)
    table_of_images = sha256_bytes(b"images of curated 7")
    assert {run.stage for run in found.touched(table_of_images[:8])} == {
        spec.name for spec in street_chain.SPECS if "curate" in spec.inputs or spec.name == "curate"
    } - {"monitor"}
    reached = found.reached(found.touched(table_of_images))
    assert {run.stage for run in reached} == set(street_chain.STAGES[3:-1])
    assert [run.stage for run in found.reached(found.touched(table_of_images), "deploy")] == ["deploy"]
    origins = found.origins(found.makers(table_of_images))
    assert [run.stage for run in origins] == list(street_chain.STAGES[:4])
    assert found.touched("0" * 64) == ()
    with pytest.raises(InputError, match="not a SHA-256"):
        found.touched("detector.onnx")


def test_what_nobody_made_is_found_by_those_who_read_it(chain):
    found = history(chain)
    assert [run.stage for run in found.touched(sha256_bytes(b"d"))] == ["ingest"]
    with pytest.raises(InputError, match="no signed run made"):
        found.makers(sha256_bytes(b"d"))


def relink(chain, stage, change, *, role=None):
    """The current evidence of a stage with another link, signed by its role; the Statement stays."""
    evidence = chain.store.current(stage)
    link = envelopes.read_unverified(evidence.links[0])
    change(link)
    signer = chain.ring.signer(role or chain.spec(stage).role)
    signed = envelopes.sign(canonical_json(link), envelopes.PAYLOAD_TYPE, [signer])
    return SignedEvidence(evidence.statement, (signed, *evidence.links[1:]))


def test_a_second_link_about_the_same_statement_takes_nothing_back(chain):
    chain.record("train", relink(chain, "train", lambda link: link["materials"].pop("ingest/sources/vendor-c.sha256")))
    (trained,) = (run for run in history(chain).runs if run.stage == "train")
    assert "ingest/sources/vendor-c.sha256" in dict(trained.materials)
    chain.record("train", relink(chain, "train", lambda link: link["materials"].update({"x/y": {"sha256": "a" * 64}})))
    (trained,) = (run for run in history(chain).runs if run.stage == "train")
    assert ("x/y", "a" * 64) in trained.materials
    assert len(trained.logged) == 3


def test_a_second_link_by_another_role_is_refused(chain):
    chain.record("train", relink(chain, "train", lambda link: None, role="red-team"))
    with pytest.raises(AttestationError, match=r"\[signature\]"):
        history(chain)


def test_a_witness_link_by_another_role_is_refused(chain):
    gate = chain.store.current("gate")
    forged = relink(chain, "gate", lambda link: None, role="trainer").links[0]
    chain.record("gate", SignedEvidence(gate.statement, (gate.links[0], forged)))
    with pytest.raises(AttestationError, match=r"\[signature\].*safety"):
        history(chain)


def test_a_link_that_is_paired_with_another_statement_is_refused(chain):
    train = chain.store.current("train")
    chain.record("train", SignedEvidence(chain.store.current("deploy").statement, train.links))
    with pytest.raises(AttestationError, match=r"\[link-products\]"):
        history(chain)


def test_more_links_than_roles_are_refused(chain):
    train = chain.store.current("train")
    chain.record("train", SignedEvidence(train.statement, train.links * 2))
    with pytest.raises(AttestationError, match=r"\[threshold\]"):
        history(chain)


@pytest.mark.parametrize(
    "change",
    [
        lambda link: link["materials"].update({"x/y": {"md5": "0" * 32}}),
        lambda link: link["materials"].update({"x/y": {"sha256": "0" * 63}}),
        lambda link: link["materials"].update({"x/y": {"sha256": 7}}),
        lambda link: link["products"].update({"x/y": None}),
        lambda link: link.pop("materials"),
        lambda link: link.update(products=[]),
        lambda link: link.pop("name"),
    ],
)
def test_a_malformed_link_is_one_clear_error(chain, change):
    evidence = relink(chain, "train", change)
    chain.record("train", evidence)
    with pytest.raises(AttestationError, match=r"\[malformed\] log entry 6"):
        history(chain)


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "run"},
        {"kind": "run", "stage": ["train"], "statement": "0" * 64, "links": ["0" * 64], "time": 0},
        {"kind": "run", "stage": "train", "statement": 7, "links": ["0" * 64], "time": 0},
    ],
)
def test_a_malformed_entry_is_one_clear_error(chain, entry):
    chain.store.log.append(entry, chain.ring.signer(LOG))
    with pytest.raises(AttestationError, match="malformed"):
        history(chain)


def test_an_entry_at_an_impossible_time_is_one_clear_error(chain):
    train = chain.store.current("train")
    entry = {"kind": "run", "stage": "train", **train.digests(), "time": 10**30}
    chain.store.log.append(entry, chain.ring.signer(LOG))
    with pytest.raises(AttestationError, match=r"\[malformed\] log entry 6"):
        history(chain)


def runs_in_a_row(count):
    """Each reads what the one before made."""
    files = [frozenset({("train/x", f"{number:064x}")}) for number in range(count + 1)]
    return [TracedRun("train", f"{n:064x}", (n,), "2026-11-24T07:47:26Z", files[n], files[n + 1]) for n in range(count)]


def test_a_chain_too_deep_to_be_honest_is_refused_before_it_exhausts_a_reader():
    found = History(runs_in_a_row(MAX_DEPTH))
    assert len(tree(found.upstream(found.runs[-1:])).splitlines()) == MAX_DEPTH
    assert json.dumps([branch.to_json() for branch in found.downstream(found.runs[:1])]).count("statement") == MAX_DEPTH
    with pytest.raises(AttestationError, match="rest on one another"):
        History(runs_in_a_row(MAX_DEPTH + 1))


@pytest.mark.slow
def test_a_thousand_runs_are_read_and_answered_within_a_second(tmp_path, ring):
    street = street_chain.found(tmp_path / "street", ring, padding=12)
    for number in range(100):
        street.take_in(str(number), ["vendor-a", "vendor-c"])
        street.train(str(number))
    started = time.process_time()
    found = street_history(street)
    detectors = [digest for run in found.runs for name, digest in run.products if name == PHASES.deployed]
    assert len(found.runs) == 1000
    assert sum(len(run.files) for run in found.runs) > 40_000
    assert tree(found.upstream(found.makers(detectors[-1])))
    assert tree(found.downstream(found.makers(release_digest("raw 0"))))
    assert len(found.contributions("vendor-c", phases=PHASES)) == 100
    assert time.process_time() - started < 1
